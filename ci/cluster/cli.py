"""Starts, stops and describes the test cluster, which the tests and the demo use too."""

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
With --kubeconfig, the cluster of that file is used. Otherwise, if a Docker engine answers and kind is installed, it is
a kind cluster. Otherwise it is a native cluster: real Kubernetes programs in network namespaces of this machine, which
needs root on Linux.

exit codes: 0 success; 1 failure, whose reason is printed; 2 wrong usage
"""


def choose(name: str, kubeconfig: Path | None = None) -> Cluster:
    """Return a cluster of the kind that this machine can have."""
    if kubeconfig is not None:
        return ExistingCluster(kubeconfig)
    return KindCluster(name) if kind.is_available() else NativeCluster(name)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="ci/test-cluster", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "action", choices=("up", "down", "status"), help="start it, stop it and remove all of it, or describe it"
    )
    parser.add_argument(
        "--name", default="demo", help="the name of the cluster, of which there may be several (default: demo)"
    )
    parser.add_argument("--kubeconfig", type=Path, help="use the cluster of this file")
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
