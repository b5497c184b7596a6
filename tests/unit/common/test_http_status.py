"""The HTTP server for Prometheus and the kubelet."""

from __future__ import annotations

import socket
import threading
import time
import urllib.request
from contextlib import suppress

import pytest
from common import http_status
from common.http_status import StatusServer
from common.prometheus_text import CONTENT_TYPE
from machine.processes import free_port

TIMEOUT_SECONDS = 10.0
NEEDS_IPV6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")


@pytest.fixture
def port() -> int:
    """The port of a server with two metrics."""
    port = free_port()
    StatusServer(port, lambda: "up 1\nähem 2\n").listen()
    return port


def ask(port: int, request: bytes, host: str = "127.0.0.1") -> bytes:
    """Send bytes, and return all that comes back."""
    with socket.create_connection((host, port), timeout=TIMEOUT_SECONDS) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(4096), b""))


def test_metrics_and_health_are_served(port: int) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=TIMEOUT_SECONDS) as answer:
        assert (answer.headers["Content-Type"], answer.read().decode()) == (CONTENT_TYPE, "up 1\nähem 2\n")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=TIMEOUT_SECONDS) as answer:
        assert answer.read() == b"ok\n"


@pytest.mark.parametrize("request_line", [b"GET /", b"GET /metrics2", b"POST /metrics", b"\xff", b"GET"])
def test_anything_else_is_not_found(port: int, request_line: bytes) -> None:
    answer = ask(port, request_line + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 404 ")


def test_both_address_families_are_served(port: int) -> None:
    for host in ("127.0.0.1", "::1") if socket.has_dualstack_ipv6() else ("127.0.0.1",):
        assert ask(port, b"GET /healthz HTTP/1.1\r\n\r\n", host).endswith(b"ok\n")


def test_client_that_never_ends_its_head_is_answered(port: int) -> None:
    assert ask(port, b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 2000).endswith(b"ok\n")


def test_client_that_hangs_up_is_not_logged(port: int, capfd: pytest.CaptureFixture[str]) -> None:
    socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS).close()
    assert ask(port, b"GET /healthz HTTP/1.1\r\n\r\n").endswith(b"ok\n")
    assert capfd.readouterr() == ("", "")


def test_port_that_is_taken_is_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = StatusServer(port, lambda: "")
        for _ in range(2):
            with pytest.raises(OSError, match="Address already in use"):
                server.listen()
    for _ in range(2):
        server.listen()
    assert ask(port, b"GET /healthz HTTP/1.1\r\n\r\n").endswith(b"ok\n")


def test_traceback_of_a_defect_is_logged(capfd: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    StatusServer(port, lambda: str(1 // 0)).listen()
    assert ask(port, b"GET /metrics HTTP/1.1\r\n\r\n") == b""
    assert "ZeroDivisionError" in capfd.readouterr().err


@pytest.mark.parametrize("address", ["127.0.0.2", pytest.param("::1", marks=NEEDS_IPV6)])
def test_one_address_is_served_and_no_other(address: str) -> None:
    port = free_port()
    StatusServer(port, lambda: "", address=address).listen()
    assert ask(port, b"GET /healthz HTTP/1.1\r\n\r\n", address).endswith(b"ok\n")
    with pytest.raises(ConnectionRefusedError):
        ask(port, b"", "127.0.0.1")


def test_slow_connections_hold_up_no_scrape_and_take_few_threads(port: int) -> None:
    before = threading.active_count()
    slow = []
    for _ in range(100):
        slow.append(socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS))
        slow[-1].sendall(b"GET /metrics HTTP/1.1\r\nX: ")
    assert ask(port, b"GET /healthz HTTP/1.1\r\n\r\n").endswith(b"ok\n")
    assert threading.active_count() <= before + http_status.MAX_CONNECTIONS
    for connection in slow:
        connection.close()


def test_single_bytes_do_not_prolong_a_request(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_status, "REQUEST_SECONDS", 0.5)
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS) as connection:
        connection.settimeout(0.1)
        while time.monotonic() < start + TIMEOUT_SECONDS:
            with suppress(TimeoutError):
                try:
                    connection.sendall(b"x")
                    if connection.recv(1) == b"":
                        break
                except ConnectionError:
                    break
    assert time.monotonic() - start < TIMEOUT_SECONDS / 2
