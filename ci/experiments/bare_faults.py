"""Puts faults of a cache in place without Kubernetes, each with a cache at an address of its own."""

from __future__ import annotations

import signal
import socket
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from machine.processes import wait_for
from upstreams.distribution import Distribution
from upstreams.fault_server import FaultServer

from experiments.bare_node import CACHE_PORT, NOTICE_SECONDS, UPSTREAM_PORT, BareNode, drop_packets, stop_dropping

if TYPE_CHECKING:
    from collections.abc import Callable

    from upstreams.fault_server import Fault
    from upstreams.listener import Address

    from experiments.faults import CacheFault


@dataclass(frozen=True)
class Cache:
    """A cache whose fault begins with `spoil` and ends with `mend`, which also cuts its connections."""

    address: Address
    spoil: Callable[[], None]
    mend: Callable[[], None]
    close: Callable[[], None]


def cache_with(fault: CacheFault, node: BareNode, number: int) -> Cache:
    """Start a cache that can have a fault; `number` tells the caches of a node apart."""
    if fault.answers:
        return _answering(fault.answers, node, number)
    return BY_TITLE[fault.title](node, number)


def server_before_cache(node: BareNode, number: int) -> FaultServer:
    """Start a server that passes requests on to the node's cache."""
    server = FaultServer((f"127.0.2.{number}", CACHE_PORT), ("127.0.0.1", node.cache.port))
    server.start()
    return server


def _answering(fault: Fault, node: BareNode, number: int) -> Cache:
    server = server_before_cache(node, number)
    return Cache(server.address, partial(setattr, server, "fault", fault), server.mend, server.stop)


def _signalled(number: signal.Signals) -> Callable[[BareNode, int], Cache]:
    """Return a function that starts a cache which gets a signal, and is mended as a kubelet does it, by a restart."""

    def start(node: BareNode, index: int) -> Cache:
        remote = f"http://127.0.0.1:{UPSTREAM_PORT}"
        cache = Distribution(node.place, f"cache-{index}", CACHE_PORT, remote, host=f"127.0.2.{index}")
        cache.start()

        def mend() -> None:
            cache.signal(signal.SIGKILL)
            wait_for("the cache to end", lambda: node.place.process_id(cache.name) is None, NOTICE_SECONDS)
            cache.start()

        return Cache((cache.host, cache.port), partial(cache.signal, number), mend, lambda: None)

    return start


def _packets_dropped(node: BareNode, number: int) -> Cache:
    server = server_before_cache(node, number)
    return Cache(server.address, partial(drop_packets, server.address[0]), stop_dropping, server.stop)


def _backlog_full(node: BareNode, number: int) -> Cache:
    server = server_before_cache(node, number)
    held: list[socket.socket] = []

    def spoil() -> None:
        server.stop()
        held.append(socket.create_server(server.address, backlog=0))
        for _ in range(3):
            held.append(socket.socket())
            held[-1].setblocking(False)  # noqa: FBT003 - the standard library's
            held[-1].connect_ex(server.address)

    def close() -> None:
        server.stop()
        while held:
            held.pop().close()

    def mend() -> None:
        close()
        server.start()

    return Cache(server.address, spoil, mend, close)


BY_TITLE: dict[str, Callable[[BareNode, int], Cache]] = {
    "nothing listens": _signalled(signal.SIGKILL),
    "packets dropped": _packets_dropped,
    "backlog full, connections are not accepted": _backlog_full,
    "processes stopped: connections are accepted, requests are not answered": _signalled(signal.SIGSTOP),
}
