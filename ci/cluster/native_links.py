"""Sets the rates and the delay of a native cluster's links while it runs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from machine import own_network
from machine.links import set_rate
from machine.paths import REPOSITORY
from machine.processes import wait_for

from cluster.delay_line import DEVICE
from cluster.native_network import enter_network, run_ip, write_settings

if TYPE_CHECKING:
    from machine.links import Links

    from cluster.native import NativeCluster

PROGRAM = "delay-line"
# Priorities of routing rules. Delayed packets go to the real link. So do packets to this machine, which pushes images
# and reads logs. All other packets are delayed.
TABLE = "100"
DELAYED, EXEMPT, OTHERS = "100", "101", "102"
DEVICE_UP_SECONDS = 30.0


def set_links(cluster: NativeCluster, links: Links) -> None:
    """Replace the rates and the delay of a running cluster's links."""
    network, upstream = cluster.network, cluster.upstream_namespace
    ends = [(node.namespace, node.address, links.node_rate) for node in cluster.nodes]
    for namespace, address, rate in [*ends, (upstream, network.upstream, links.upstream_rate)]:
        set_rate(network.link(address), rate)
        set_rate("eth0", rate, enter_network(namespace))
    _remove_delay(cluster)
    if links.upstream_delay:
        _add_delay(cluster, links.upstream_delay)
    cluster.upstream.limit_connections(links.connection_rate // 8 if links.connection_rate else None)


def _add_delay(cluster: NativeCluster, seconds: float) -> None:
    """Delay everything that the upstreams send by the round-trip time; packets to the upstreams are not delayed."""
    namespace, place = cluster.upstream_namespace, cluster.upstream.place
    command = [sys.executable, "-m", "cluster.delay_line", f"{seconds:.6f}"]
    place.start(PROGRAM, command, {"PYTHONPATH": str(REPOSITORY / "ci")})

    def has_device() -> bool:
        place.fail_if_dead(PROGRAM)
        return bool(place.run(["ip", "-brief", "link", "show", "dev", DEVICE], check=False))

    wait_for("the device that delays packets", has_device, DEVICE_UP_SECONDS)
    # The packets come out of the device with a source address that is the namespace's own.
    settings = {f"net.ipv4.conf.{DEVICE}.{name}": "1" for name in ("forwarding", "accept_local")}
    settings |= {f"net.ipv4.conf.{device}.rp_filter": "0" for device in ("all", "eth0", DEVICE)}
    own_network.run(*enter_network(namespace), "sh", "-euc", write_settings(settings))
    run_ip("-netns", namespace, "link", "set", DEVICE, "up", "mtu", "1500", "txqueuelen", "10000")
    run_ip("-netns", namespace, "rule", "add", "iif", DEVICE, "lookup", "main", "pref", DELAYED)
    run_ip("-netns", namespace, "rule", "add", "to", cluster.network.control_plane, "lookup", "main", "pref", EXEMPT)
    run_ip("-netns", namespace, "rule", "add", "lookup", TABLE, "pref", OTHERS)
    run_ip("-netns", namespace, "route", "add", "default", "dev", DEVICE, "table", TABLE)


def _remove_delay(cluster: NativeCluster) -> None:
    cluster.upstream.place.stop(PROGRAM)
    for preference in (DELAYED, EXEMPT, OTHERS):
        run_ip("-netns", cluster.upstream_namespace, "rule", "delete", "pref", preference, check=False)
