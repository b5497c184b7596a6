"""`make faults`: measures what each fault of a cache costs, and writes docs/faults.md and docs/faults-bare.md."""

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

from experiments.bare_fault_costs import measure_all
from experiments.bare_node import bare_node
from experiments.bare_scenarios import SCENARIOS
from experiments.cluster_fault_costs import Row, measure
from experiments.cluster_faults import VALUES, Scene
from experiments.fault_pages import bare_figures, cluster_figures, replace_figures
from experiments.faults import IN_CLUSTER

RUNS = 3
CLUSTER_PAGE = REPOSITORY / "docs" / "faults.md"
BARE_PAGE = REPOSITORY / "docs" / "faults-bare.md"


def main(arguments: list[str]) -> int:
    """Measure, write the pages, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("back_ends", nargs="*", metavar="BACK-END", help="cluster or bare (default: both)")
    parser.add_argument("--name", default="test", help="the test cluster to use (default: test)")
    parser.add_argument("--runs", type=int, default=RUNS, help=f"how often each fault is measured (default: {RUNS})")
    parser.add_argument(
        "--only", default="", help="a pattern of the faults to measure in the cluster, whose figures are only printed"
    )
    options = parser.parse_args(arguments)
    back_ends = options.back_ends or ["cluster", "bare"]
    if unknown := set(back_ends) - {"cluster", "bare"}:
        parser.error(f"{', '.join(unknown)}: write cluster or bare")
    environment.clean_process()
    if "cluster" in back_ends:
        cluster = choose(options.name)
        if not isinstance(cluster, NativeCluster):
            print("this needs the native test cluster", file=sys.stderr)
            return 1
        measure_in_cluster(cluster, options.runs, options.only)
    if "bare" in back_ends:
        measure_bare()
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
        versions = {containerd.release: containerd.version for containerd in node.containerds}
        measured = measure_all(node)
        outcomes = {}
        for scenario in SCENARIOS:
            outcomes[scenario.title] = scenario.run(node)
            _print(f"{scenario.title}: {outcomes[scenario.title].remark}")
        replace_figures(BARE_PAGE, bare_figures(versions, measured, outcomes))


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
