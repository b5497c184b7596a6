"""Writes the figures of `make faults` into the pages docs/faults*.md."""

from __future__ import annotations

import re
import statistics
from typing import TYPE_CHECKING

from experiments.cold_body_faults import COLD_BODY_FAULTS, LAYER_BYTES
from experiments.faults import BARE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from experiments.bare_fault_costs import Costs, Measured
    from experiments.bare_node import Pull
    from experiments.bare_scenarios import Outcome
    from experiments.cluster_fault_costs import Row, Timed
    from experiments.cold_body_faults import ColdBodyResult
    from experiments.odd_pulls import OddPulls

BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"
QUOTED = re.compile(r' ".*"')
CLUSTER_HEAD = (
    *("fault", "response at the node", "pull", "delay", "withdrawn after"),
    *("delay after the withdrawal", "used again after"),
)


def replace_figures(page: Path, text: str) -> None:
    """Replace the text between the marks of a page."""
    before, _, rest = page.read_text().partition(f"{BEGIN}\n")
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def cluster_figures(measured: Sequence[Sequence[Row]]) -> str:
    """Return the table for docs/faults.md, with a line for each fault and the medians of its rows."""
    return table([CLUSTER_HEAD, ("---",) * 3 + ("---:",) * 4, *map(_cluster_cells, measured)])


def bare_figures(versions: Mapping[str, str], measured: Measured, outcomes: Mapping[str, Outcome]) -> str:
    """Return the tables for docs/faults-bare.md."""
    names = [f"containerd {version}" for version in versions.values()]
    direct = ", ".join(f"{measured.direct[release]:.2f} s with {version}" for release, version in versions.items())
    noticed, unnoticed = [], []
    for fault in BARE:
        costs = measured.faults[fault.title]
        cells = [fault.title, *(_before(costs, release, measured) for release in versions)]
        if fault.noticed:
            noticed.append([*cells, *_later(costs, measured)])
        else:
            unnoticed.append(cells)
    others = []
    for title, outcome in outcomes.items():
        pulls = [_pull(release, outcome.pulls[release], measured, timed=outcome.timed) for release in versions]
        others.append([title, *pulls, outcome.remark])
    return "\n".join(
        [
            f"Without a cache, such a pull takes {direct}.",
            "\n### Faults that the node program notices\n",
            _with_rule(["fault", *names, "withdrawn after", "delay after the withdrawal", "used again after"], noticed),
            "\n### Faults that the node program cannot notice, because /v2/ still works\n",
            _with_rule(["fault", *names], unnoticed),
            "\n### The node, the node program and TLS\n",
            _with_rule(["event", *names, "node program"], others),
        ]
    )


def cold_body_figures(
    versions: Mapping[str, str], direct: Mapping[str, Pull], results: Mapping[str, ColdBodyResult]
) -> str:
    """Return the table for docs/faults-first-pull.md."""
    seconds = ", ".join(f"{direct[release].seconds:.1f} s with {version}" for release, version in versions.items())
    rows = []
    for fault in COLD_BODY_FAULTS:
        result = results[fault.title]
        longer = fault.layer_bytes / LAYER_BYTES
        pulls = [_first_pull(result, release, direct[release].seconds * longer) for release in versions]
        rows.append([fault.title, *pulls, _source_of_rest(result), f"{result.fetched_bytes / fault.layer_bytes:.2f}"])
    head = ["in the middle of the layer", *versions.values(), "rest of the layer", "fetched by the cache, in layers"]
    return f"Without a cache, such a pull takes {seconds}.\n\n{_with_rule(head, rows)}"


def odd_figures(versions: Mapping[str, str], measured: Mapping[str, OddPulls]) -> str:
    """Return the table for docs/faults-odd-repositories.md, by the title of each oddity."""
    head = ["the repository", "without a cache", "through the cache", "the next pull", "another repository meanwhile"]
    rows = []
    for title, pulls in measured.items():
        cells = (pulls.direct, pulls.through, pulls.again, pulls.other)
        rows.append([title, *(_slowest(each, versions) for each in cells)])
    usual = max(pull.seconds for pulls in measured.values() for pull in pulls.other_direct.values())
    return f"Without a cache, a pull of the other repository takes {usual:.1f} s at most.\n\n{_with_rule(head, rows)}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _with_rule(head: list[str], rows: list[list[str]]) -> str:
    return table([head, ["---"] * len(head), *rows])


def _cluster_cells(rows: Sequence[Row]) -> tuple[str, ...]:
    before = [row.before for row in rows if row.before]
    after = [row.after for row in rows if row.after]
    return (
        rows[0].fault.title,
        rows[0].symptom,
        "; ".join(dict.fromkeys(_describe(timed) for timed in [*before, *after])),
        _median([timed.seconds - row.direct for row in rows if (timed := row.before) and timed.seconds is not None], 2),
        _median([row.withdrawn for row in rows if row.withdrawn is not None], 1),
        _median([timed.seconds - row.direct for row in rows if (timed := row.after) and timed.seconds is not None], 2),
        _median([row.back for row in rows if row.back is not None], 1),
    )


def _describe(timed: Timed) -> str:
    """Return who served a pull, and how often it was tried."""
    tries = len(timed.failed_tries)
    failed = f", after {tries} failed {'try' if tries == 1 else 'tries'}" if tries else ""
    if timed.freed is not None:
        return f"only {timed.freed:.0f} s after the fault had ended{failed}"
    return f"from the {timed.served_by}{failed}"


def _median(seconds: Sequence[float], digits: int) -> str:
    return f"{statistics.median(seconds):.{digits}f}" if seconds else "-"


def _before(costs: Costs, release: str, measured: Measured) -> str:
    if release in costs.held:
        return f"hangs; ends {costs.freed[release]:.2f} s after its connection"
    return _pull(release, costs.before[release], measured)


def _first_pull(result: ColdBodyResult, release: str, direct_seconds: float) -> str:
    pull = result.pulls[release]
    if not pull.error:
        return f"{pull.seconds - direct_seconds:+.1f} s"
    retry = result.retries[release]
    return "fails" if retry.error else f"fails once; the next try takes {retry.seconds:.1f} s"


def _slowest(pulls: Mapping[str, Pull], versions: Mapping[str, str]) -> str:
    """Return how long the slowest pull took, and which releases failed."""
    failed = [versions[release] for release, pull in pulls.items() if pull.error]
    if len(failed) == len(pulls):
        return "fails"
    slowest = max(pull.seconds for pull in pulls.values() if not pull.error)
    return f"{slowest:.1f} s; fails with {', '.join(failed)}" if failed else f"{slowest:.1f} s"


def _source_of_rest(result: ColdBodyResult) -> str:
    if not result.direct:
        return "cache"
    return "upstream" if result.direct == set(result.pulls) else "cache or upstream"


def _later(costs: Costs, measured: Measured) -> list[str]:
    longer = max(pull.seconds - measured.direct[release] for release, pull in costs.after.items())
    return [f"{costs.withdrawn:.1f} s", f"+{max(0.0, longer):.2f} s", f"{costs.returned:.1f} s"]


def _pull(release: str, pull: Pull, measured: Measured, *, timed: bool = True) -> str:
    if pull.error:
        return f"fails: {QUOTED.sub('', pull.error.rpartition(': ')[2])}"
    return f"+{max(0.0, pull.seconds - measured.direct[release]):.2f} s" if timed else "pulls"
