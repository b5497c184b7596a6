"""`make faults`: measures what each fault of a cache costs, and writes the pages docs/faults*.md."""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from pathlib import Path

from cluster.cli import choose
from cluster.native import NativeCluster
from cluster.release import Release
from machine import environment
from machine.paths import REPOSITORY
from upstreams.odd_repositories import ODD_ANSWERS

from experiments.bare_fault_costs import measure_all
from experiments.bare_node import OLDER_RELEASES, RELEASES, bare_node, versions
from experiments.bare_scenarios import SCENARIOS
from experiments.cluster_fault_costs import Row, measure
from experiments.cluster_faults import VALUES, Scene
from experiments.cold_body_faults import COLD_BODY_FAULTS, cold_body_bed, measure_cold_body
from experiments.fault_pages import bare_figures, cluster_figures, cold_body_figures, odd_figures, replace_figures
from experiments.faults import IN_CLUSTER
from experiments.odd_pulls import measure_odd, odd_bed

RUNS = 3
CLUSTER_PAGE = REPOSITORY / "docs" / "faults.md"
BARE_PAGE = REPOSITORY / "docs" / "faults-bare.md"
FIRST_PULL_PAGE = REPOSITORY / "docs" / "faults-first-pull.md"
ODD_PAGE = REPOSITORY / "docs" / "faults-odd-repositories.md"
BACK_ENDS = ("cluster", "bare", "first-pull", "odd")


def main(arguments: list[str]) -> int:
    """Measure, write the pages, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("back_ends", nargs="*", metavar="BACK-END", help=f"{', '.join(BACK_ENDS)} (default: all)")
    parser.add_argument("--name", default="test", help="the test cluster to use (default: test)")
    parser.add_argument("--runs", type=int, default=RUNS, help=f"how often each fault is measured (default: {RUNS})")
    parser.add_argument(
        "--only", default="", help="a pattern of the faults to measure in the cluster, whose figures are only printed"
    )
    options = parser.parse_args(arguments)
    back_ends = options.back_ends or BACK_ENDS
    if unknown := set(back_ends) - set(BACK_ENDS):
        parser.error(f"{', '.join(unknown)}: write {', '.join(BACK_ENDS)}")
    environment.clean_process()
    if "cluster" in back_ends:
        cluster = choose(options.name)
        if not isinstance(cluster, NativeCluster):
            print("this needs the native test cluster", file=sys.stderr)
            return 1
        measure_in_cluster(cluster, options.runs, options.only)
    if "bare" in back_ends:
        measure_bare()
    if "first-pull" in back_ends:
        measure_first_pulls()
    if "odd" in back_ends:
        measure_odd_repositories()
    return 0


def measure_in_cluster(cluster: NativeCluster, runs: int, only: str) -> None:
    """Measure the faults of a cache in the cluster, and write or print the medians."""
    cluster.up()
    release = Release(cluster, name="faults", namespace="faults")
    release.uninstall()
    try:
        with tempfile.TemporaryDirectory() as work:
            values = Path(work) / "values.yaml"
            values.write_text(json.dumps(VALUES))
            release.install("--values", str(values))
        scene = Scene(cluster, release)
        faults = [fault for fault in IN_CLUSTER if re.search(only, fault.title)]
        rows: dict[str, list[Row]] = {fault.title: [] for fault in faults}
        for run in range(runs):
            for fault in faults:
                start = time.monotonic()
                rows[fault.title].append(measure(scene, fault))
                _print(f"{run + 1}/{runs} {time.monotonic() - start:.0f} s  {rows[fault.title][-1]}")
    finally:
        release.uninstall()
    figures = cluster_figures(list(rows.values()))
    print(f"Medians of {runs}, in seconds\n\n{figures}")
    if not only:
        replace_figures(CLUSTER_PAGE, figures)


def measure_bare() -> None:
    """Measure the faults of a cache without Kubernetes, and write them."""
    with tempfile.TemporaryDirectory() as work, bare_node(Path(work)) as node:
        measured = measure_all(node)
        outcomes = {}
        for scenario in SCENARIOS:
            outcomes[scenario.title] = scenario.run(node)
            _print(f"{scenario.title}: {outcomes[scenario.title].remark}")
        replace_figures(BARE_PAGE, bare_figures(versions(node.containerds), measured, outcomes))


def measure_first_pulls() -> None:
    """Measure the faults in the middle of a layer, with all releases of containerd, and write them."""
    releases = sorted({**RELEASES, **OLDER_RELEASES})
    with tempfile.TemporaryDirectory() as work, cold_body_bed(Path(work), releases) as bed:
        direct = bed.pull_directly()
        results = {}
        for fault in COLD_BODY_FAULTS:
            results[fault.title] = measure_cold_body(bed, fault)
            _print(f"{fault.title}: {results[fault.title]}")
        replace_figures(FIRST_PULL_PAGE, cold_body_figures(versions(bed.containerds), direct, results))


def measure_odd_repositories() -> None:
    """Measure what a repository for which the registry answers oddly costs, and write it."""
    with tempfile.TemporaryDirectory() as work, odd_bed(Path(work), RELEASES) as bed:
        measured = {}
        for answer in ODD_ANSWERS:
            measured[answer.title] = measure_odd(bed, answer)
            _print(f"{answer.title}: {measured[answer.title]}")
        replace_figures(ODD_PAGE, odd_figures(versions(bed.containerds), measured))


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
