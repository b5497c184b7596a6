"""`make faults`: what each fault of a cache costs, as medians of three. docs/faults.md holds what came out."""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.cli import choose
from cluster.native import NativeCluster
from cluster.release import Release
from machine import environment

from experiments.fault_table import Row, Timed, measure
from experiments.faults import FAULTS, VALUES, Scene

if TYPE_CHECKING:
    from collections.abc import Sequence

RUNS = 3
HEAD = (
    "fault",
    "what the node gets",
    "pull",
    "longer than direct",
    "left after",
    "then longer than direct",
    "back after",
)


def main(arguments: list[str]) -> int:
    """Measure, print the table and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="test", help="the test cluster to use (default: test)")
    parser.add_argument("--runs", type=int, default=RUNS, help=f"how often each is measured (default: {RUNS})")
    parser.add_argument("--only", default="", help="a pattern of the faults to measure (default: all)")
    options = parser.parse_args(arguments)
    environment.clean_process()
    cluster = choose(options.name)
    if not isinstance(cluster, NativeCluster):
        print("this needs the native test cluster", file=sys.stderr)
        return 1
    cluster.up()
    release = Release(cluster, name="faults", namespace="faults")
    release.uninstall()
    try:
        with tempfile.TemporaryDirectory() as work:
            values = Path(work) / "values.yaml"
            values.write_text(json.dumps(VALUES))
            release.install("--values", str(values))
        scene = Scene(cluster, release)
        faults = [fault for fault in FAULTS if re.search(options.only, fault.title)]
        rows: dict[str, list[Row]] = {fault.title: [] for fault in faults}
        for run in range(options.runs):
            for fault in faults:
                start = time.monotonic()
                row = measure(scene, fault)
                rows[fault.title].append(row)
                took = time.monotonic() - start
                print(f"{run + 1}/{options.runs} {took:.0f} s  {row}", file=sys.stderr, flush=True)
    finally:
        release.uninstall()
    print(f"Medians of {options.runs}, in seconds\n")
    print(table(list(rows.values())))
    return 0


def table(measured: Sequence[Sequence[Row]]) -> str:
    """In Markdown, a line for each fault."""
    lines = [HEAD, ("---",) * 3 + ("---:",) * 4, *map(_cells, measured)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(rows: Sequence[Row]) -> tuple[str, ...]:
    before = [row.before for row in rows if row.before]
    after = [row.after for row in rows if row.after]
    return (
        rows[0].fault.title,
        rows[0].symptom,
        "; ".join(dict.fromkeys(_came(timed) for timed in [*before, *after])),
        _median([timed.seconds - row.direct for row in rows if (timed := row.before) and timed.seconds is not None], 2),
        _median([row.withdrawn for row in rows if row.withdrawn is not None], 1),
        _median([timed.seconds - row.direct for row in rows if (timed := row.after) and timed.seconds is not None], 2),
        _median([row.back for row in rows if row.back is not None], 1),
    )


def _came(timed: Timed) -> str:
    """How a pull came, in words."""
    tries = len(timed.failed_tries)
    failed = f" after {tries} failed {'try' if tries == 1 else 'tries'}" if tries else ""
    if timed.freed is not None:
        return f"only {timed.freed:.0f} s after the fault's end{failed}"
    return f"from {'the ' if timed.served_by == 'upstream' else ''}{timed.served_by}{failed}"


def _median(seconds: Sequence[float], digits: int) -> str:
    return f"{statistics.median(seconds):.{digits}f}" if seconds else "-"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
