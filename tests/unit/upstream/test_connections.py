"""Connections to servers: look-ups that hang, and names with several addresses."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from upstream import connections
from upstream.client import Client, Settings
from upstream.errors import Unavailable
from upstream.reference import Reference
from upstreams.scripted_server import ScriptedServer

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT_SECONDS = 10.0
BLOB = Reference("blob", "a", "sha256:0")


class Resolver:
    """Replaces getaddrinfo; it hangs until it is opened."""

    def __init__(self) -> None:
        """Hang at first."""
        self.open = threading.Event()
        self.asked: list[str] = []

    def __call__(self, host: str, port: int, **__: Any) -> list[Any]:
        self.asked.append(host)
        self.open.wait()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    resolver = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    yield resolver
    resolver.open.set()


def test_dns_that_hangs_takes_no_longer_than_the_deadline_and_one_thread(resolver: Resolver) -> None:
    seen: list[tuple[str, str]] = []
    settings = Settings("http://registry.example.com:1")
    client = Client(settings, observe=lambda method, outcome, _: seen.append((method, outcome)), log=seen.clear)  # type: ignore[arg-type] # never called
    before = threading.active_count()
    for _ in range(5):
        begin = time.monotonic()
        with pytest.raises(Unavailable, match=r"^DNS did not answer in time for registry\.example\.com$") as raised:
            client.open("GET", BLOB, timeout=0.1)
        assert raised.value.kind == "dns"
        assert time.monotonic() - begin < TIMEOUT_SECONDS / 2
    assert resolver.asked == ["registry.example.com."]
    assert threading.active_count() <= before + 1
    assert seen == [("GET", "dns")] * 5
    resolver.open.set()
    with pytest.raises(Unavailable, match="refused the connection"):
        client.open("GET", BLOB, timeout=TIMEOUT_SECONDS)


@pytest.mark.usefixtures("resolver")
def test_connecting_may_have_less_time_than_the_answer() -> None:
    settings = Settings("http://registry.example.com:1", connect_timeout=0.1)
    client = Client(settings, observe=lambda *_: None, log=str)  # type: ignore[arg-type] # never called
    begin = time.monotonic()
    with pytest.raises(Unavailable, match=r"^DNS did not answer in time"):
        client.open("GET", BLOB, timeout=TIMEOUT_SECONDS)
    assert time.monotonic() - begin < TIMEOUT_SECONDS / 2


def test_number_of_lookups_that_hang_is_limited(resolver: Resolver) -> None:
    lookups = connections.Lookups()
    for number in range(connections.MAX_LOOKUPS + 5):
        with pytest.raises(Unavailable, match=r"^DNS (did|does) not answer"):
            lookups.find_addresses(f"host-{number}", 443, time.monotonic())
    assert len(resolver.asked) == connections.MAX_LOOKUPS


def test_second_address_is_tried_if_the_first_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as refusing:
        refused = refusing.getsockname()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        addresses = [(socket.AF_INET, refused), (socket.AF_INET, listener.getsockname())]
        connections._dial(addresses, time.monotonic() + TIMEOUT_SECONDS).close()
    with pytest.raises(ConnectionRefusedError):
        connections._dial(addresses, time.monotonic() + TIMEOUT_SECONDS)
    with pytest.raises(TimeoutError):
        connections._dial(addresses, time.monotonic())


def test_head_of_an_answer_is_bounded() -> None:
    """100 lines of 64 KiB, as http.client allows, would take a fortieth of the gate's memory for each answer."""

    def send(connection: socket.socket, _: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        for number in range(90):
            connection.sendall(b"X-%d: %b\r\n" % (number, b"x" * 60_000))
        connection.sendall(b"Content-Length: 0\r\n\r\n")

    def send_usual(connection: socket.socket, _: str) -> None:
        head = b"HTTP/1.1 200 OK\r\nX-1: %b\r\nContent-Length: 100000\r\n\r\n" % (b"x" * 30_000)
        connection.sendall(head + bytes(100_000))

    with ScriptedServer(send) as server:
        client = Client(Settings(server.url, no_proxy=("*",)), observe=lambda *_: None, log=lambda _: None)
        with pytest.raises(Unavailable) as raised:
            client.open("GET", BLOB, timeout=TIMEOUT_SECONDS)
        assert raised.value.kind == "malformed"
    with ScriptedServer(send_usual) as server:
        client = Client(Settings(server.url, no_proxy=("*",)), observe=lambda *_: None, log=lambda _: None)
        with client.open("GET", BLOB, timeout=TIMEOUT_SECONDS) as answer:
            received = 0
            while chunk := answer.read(1 << 16):
                received += len(chunk)
        assert received == 100_000
