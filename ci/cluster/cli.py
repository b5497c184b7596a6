"""Starts, stops and describes the test cluster, which the tests and the demo use too."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from machine import SetupFailed, environment
from machine.links import Links, parse_delay, parse_rate

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


def set_links(cluster: Cluster, links: Links) -> None:
    """Set the links of a running cluster.

    Raises:
        CannotRun: It is not a native cluster, or it is down.
    """
    if not isinstance(cluster, NativeCluster) or not cluster.is_up():
        message = "only the links of a native cluster that is up can be set"
        raise CannotRun(message)
    cluster.set_links(links)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="ci/test-cluster", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "action",
        choices=("up", "down", "status", "links"),
        help="start it, stop it and remove all of it, describe it, or set its links (no option: no limit)",
    )
    parser.add_argument(
        "--name", default="demo", help="the name of the cluster, of which there may be several (default: demo)"
    )
    parser.add_argument("--kubeconfig", type=Path, help="use the cluster of this file")
    links = parser.add_argument_group("links of the native cluster", "A RATE is for example 200mbit or 1gbit.")
    links.add_argument("--node-rate", type=parse_rate, metavar="RATE", help="the rate of each node's link")
    links.add_argument("--upstream-rate", type=parse_rate, metavar="RATE", help="the rate of the upstreams' link")
    links.add_argument(
        "--upstream-delay",
        type=parse_delay,
        default=0.0,
        metavar="TIME",
        help="the round-trip time to the upstreams, for example 50ms",
    )
    links.add_argument(
        "--connection-rate", type=parse_rate, metavar="RATE", help="the rate of each connection to an upstream"
    )
    options = parser.parse_args(arguments)
    chosen = Links(options.node_rate, options.upstream_rate, options.upstream_delay, options.connection_rate)
    environment.clean_process()
    cluster = choose(options.name, options.kubeconfig)
    try:
        if options.action == "down":
            cluster.down()
        if options.action == "up":
            cluster.up()
        if options.action == "links" or (options.action == "up" and chosen != Links()):
            set_links(cluster, chosen)
    except (CannotRun, RuntimeError, SetupFailed, TimeoutError) as error:
        print(f"ci/test-cluster: {error}", file=sys.stderr)
        return 1
    print(cluster.status())
    return 0


if __name__ == "__main__":
    sys.exit(main())
