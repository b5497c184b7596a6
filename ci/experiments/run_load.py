"""`make load`: lets many nodes pull from one cache pod as containerd does, and prints what they saw.

"late by itself" is how late the program of the nodes wakes up from short sleeps. That noise of the machine is in all
other times too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from machine import environment

from experiments.load import load_bed, put_load

NODES = 500
MINUTES = 10.0
PULL_PERIOD_SECONDS = 20.0


def main(arguments: list[str]) -> int:
    """Put the load on a pod, print the figures, and return 1 if a node was refused or a container ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=NODES, help=f"(default: {NODES})")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"(default: {MINUTES:g})")
    parser.add_argument(
        "--period",
        type=float,
        default=PULL_PERIOD_SECONDS,
        help=f"seconds between two pulls of a node (default: {PULL_PERIOD_SECONDS:g})",
    )
    options = parser.parse_args(arguments)
    environment.clean_process()
    with tempfile.TemporaryDirectory() as work, load_bed(Path(work)) as bed:
        print(f"{options.nodes} nodes pull for {options.minutes:g} min, each every {options.period:g} s", flush=True)
        outcome = put_load(bed, options.nodes, options.minutes * 60, options.period)
        print(outcome.describe())
    return 1 if outcome.results.problems or outcome.restarts or outcome.kills else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
