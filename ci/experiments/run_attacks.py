"""`make attack`: attacks a cache in every known way, prints what that did, and writes docs/attacks.md."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from machine import environment
from machine.paths import REPOSITORY

from experiments import all_attacks
from experiments.attack_bed import attack_bed
from experiments.fault_pages import replace_figures, table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from experiments.attack_bed import Result

PAGE = REPOSITORY / "docs" / "attacks.md"
HEAD = (
    *("attack", "a pull meanwhile", "usually", "peak memory: front", "gate", "distribution"),
    *("started again", "evicted", "result"),
)


def main(arguments: list[str]) -> int:
    """Attack, print and write the table, and return the exit code: 1 if something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a pattern of the attacks to run; the table is only printed")
    parser.add_argument(
        "--write", action="store_true", help="with --only, write the rows of these attacks nevertheless"
    )
    parser.add_argument("--verbose", action="store_true", help="print the ends of the pods' logs")
    parser.add_argument("--list", action="store_true", help="list the attacks and end")
    options = parser.parse_args(arguments)
    attacks = {name: attack for name, attack in all_attacks.ATTACKS.items() if re.search(options.only, name)}
    if options.list:
        print(*(f"{name}: {attack.title}" for name, attack in attacks.items()), sep="\n")
        return 0
    environment.clean_process()
    results: dict[str, Result] = {}
    with tempfile.TemporaryDirectory() as work, attack_bed(Path(work)) as bed:
        for name, attack in attacks.items():
            begun = time.monotonic()
            log = sys.stderr if options.verbose else io.StringIO()
            with contextlib.redirect_stdout(log):
                results[name] = attack.run(bed)
            broken = "; ".join(results[name].broken) or "holds"
            print(f"{time.monotonic() - begun:.0f} s  {name}: {broken}", file=sys.stderr, flush=True)
    rows = {name: table([_cells(all_attacks.ATTACKS[name].title, result)]) for name, result in results.items()}
    print(attack_figures(rows))
    if not options.only or options.write:
        replace_figures(PAGE, attack_figures({**written_rows(PAGE.read_text()), **rows}))
    return 1 if any(result.broken for result in results.values()) else 0


def attack_figures(rows: Mapping[str, str]) -> str:
    """Return the table for docs/attacks.md with a row for each attack, by name."""
    held = sum("**fails**" not in row for row in rows.values())
    head = table([HEAD, ("---",) + ("---:",) * 7 + ("---",)])
    in_order = [rows[name] for name in all_attacks.ATTACKS if name in rows]
    return "\n".join([f"{held} of {len(rows)} attacks had no effect.\n", head, *in_order])


def written_rows(page: str) -> dict[str, str]:
    """Return the rows that docs/attacks.md has, by the names of their attacks."""
    lines = {line.removeprefix("| ").partition(" | ")[0]: line for line in page.splitlines()}
    return {name: lines[attack.title] for name, attack in all_attacks.ATTACKS.items() if attack.title in lines}


def _cells(title: str, result: Result) -> tuple[str, ...]:
    peaks = [f"{result.peak_mib.get(name, 0):.0f} MiB" for name in ("front", "gate", "distribution")]
    slowest = max((pull.seconds for pull in result.pulls), default=float("nan"))
    return (
        title,
        f"{result.median:.2f} s, at most {slowest:.2f} s",
        f"{result.usual:.2f} s",
        *peaks,
        str(result.restarts),
        str(result.evictions),
        "**fails**: " + "; ".join(result.broken).replace("|", "/") if result.broken else "holds",
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
