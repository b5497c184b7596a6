"""`ci/test-cluster up|down|status`: the test cluster for people and for CI."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from machine import SetupFailed, environment

from cluster import kind
from cluster.existing import ExistingCluster
from cluster.kind import KindCluster
from cluster.native import CannotRun, NativeCluster

if TYPE_CHECKING:
    from cluster.interface import Cluster

EPILOG = """
The cluster is a kind one where a Docker engine answers and kind is installed, the one of --kubeconfig where that is
given, and else a native one: real Kubernetes programs in network namespaces of this machine (root on Linux).

exit codes: 0 done; 1 it did not work, the reason is printed; 2 wrong usage
"""


def choose(name: str, kubeconfig: Path | None = None) -> Cluster:
    """The kind of cluster that this machine can have."""
    if kubeconfig is not None:
        return ExistingCluster(kubeconfig)
    return KindCluster(name) if kind.is_available() else NativeCluster(name)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="ci/test-cluster", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("up", "down", "status"))
    parser.add_argument("--name", default="demo", help="keeps several clusters apart (default: demo)")
    parser.add_argument("--kubeconfig", type=Path, help="use the cluster that this file leads to")
    options = parser.parse_args(arguments)
    environment.clean_process()
    cluster = choose(options.name, options.kubeconfig)
    try:
        if options.action == "up":
            cluster.up()
        elif options.action == "down":
            cluster.down()
    except (CannotRun, RuntimeError, SetupFailed, TimeoutError) as error:
        print(f"ci/test-cluster: {error}", file=sys.stderr)
        return 1
    print(cluster.status())
    return 0


if __name__ == "__main__":
    sys.exit(main())
