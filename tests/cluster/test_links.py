"""The links of the test cluster have the rates and delays that are set, until they are cleared."""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING

import pytest
from cluster.pulls import new_image
from machine.links import Links
from machine.processes import wait_for
from upstreams import pki

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.native import NativeCluster
    from cluster.native_node import NativeNode

pytestmark = pytest.mark.cluster

RATE = 80_000_000
DELAY = 0.1
PORT = 15999
LAYER_BYTES = 8_000_000
# Runs on a node: receives all that an address sends after a line, and prints the seconds of the connection and of all.
RECEIVE = """
import socket, ssl, sys, time
begun = time.monotonic()
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
connected = time.monotonic()
if sys.argv[4]:
    connection = ssl.create_default_context(cafile=sys.argv[4]).wrap_socket(connection, server_hostname="quay.io")
connection.sendall(sys.argv[3].encode())
length = 0
while part := connection.recv(1 << 20):
    length += len(part)
print(connected - begun, time.monotonic() - begun, length)
"""
# Sends bytes to each client that has sent a line.
SEND = """
import socket, sys
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
while True:
    connection, _ = server.accept()
    with connection:
        if connection.recv(100):
            connection.sendall(bytes(int(sys.argv[3])))
"""


@pytest.fixture
def links(native: NativeCluster) -> Iterator[NativeCluster]:
    """A cluster whose links are unlimited again after the test."""
    yield native
    native.set_links(Links())


def test_links_have_a_rate_and_a_delay_until_they_are_cleared(links: NativeCluster) -> None:
    first, second = links.nodes
    blob = pushed_blob(links)
    request = f"GET /v2/tests/links/blobs/{blob} HTTP/1.1\r\nHost: quay.io\r\nConnection: close\r\n\r\n"
    upstream = (links.network.upstream, 443, request, str(pki.authority_file()))
    first.place.start("sender", [sys.executable, "-c", SEND, first.address, PORT, LAYER_BYTES])
    try:
        wait_for("the sender to listen", lambda: listens(first.address), 30)
        at_rate = LAYER_BYTES * 8 / RATE
        assert is_free(second, *upstream)
        links.set_links(Links(node_rate=RATE))
        for seconds in (received(second, first.address, PORT, "\r\n")[1], received(second, *upstream)[1]):
            assert at_rate * 0.8 < seconds < at_rate * 10
        links.set_links(Links(upstream_rate=RATE, upstream_delay=DELAY))
        connected, seconds = received(second, *upstream)
        assert DELAY <= connected < DELAY * 10
        assert at_rate * 0.8 < seconds < at_rate * 10
        assert is_free(second, first.address, PORT, "\r\n"), "nodes are near each other"
        links.set_links(Links(connection_rate=RATE))
        connected, seconds = received(second, *upstream)
        assert connected < DELAY
        assert at_rate * 0.5 < seconds < at_rate * 10
        links.set_links(Links())
        assert is_free(second, *upstream)
    finally:
        first.place.stop("sender")


def pushed_blob(cluster: NativeCluster) -> str:
    """Return a blob of an upstream, whose size is about LAYER_BYTES."""
    _, image = new_image(cluster, "quay.io/tests/links:1", layers=1, layer_bytes=LAYER_BYTES)
    return max(image.blobs, key=lambda digest: len(image.blobs[digest]))


def received(node: NativeNode, address: str, port: int, line: str, authority: str = "") -> tuple[float, float]:
    """Return the seconds until a node is connected, and until it has received all."""
    output = node.run(sys.executable, "-c", RECEIVE, address, str(port), line, authority)
    connected, seconds, length = output.split()
    assert int(length) >= LAYER_BYTES
    return float(connected), float(seconds)


def is_free(node: NativeNode, address: str, port: int, line: str, authority: str = "") -> bool:
    """Return whether one of two attempts was faster than the rate and the delay allow."""
    times = [received(node, address, port, line, authority) for _ in range(2)]
    return any(connected < DELAY and seconds < LAYER_BYTES * 8 / RATE / 2 for connected, seconds in times)


def listens(address: str) -> bool:
    """Return whether the sender accepts connections."""
    with socket.socket() as connection:
        return connection.connect_ex((address, PORT)) == 0
