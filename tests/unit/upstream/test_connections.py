"""Connections to servers: look-ups that hang, and names with several addresses."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from common.dialing import ATTEMPT_SECONDS, MAX_ATTEMPTS, dial, interleave
from machine.processes import wait_for
from upstream.client import Client, Settings
from upstream.errors import Unavailable
from upstream.lookups import MAX_KNOWN, MAX_LOOKUPS, Lookups
from upstream.reference import Reference
from upstreams.scripted_server import ScriptedServer

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT_SECONDS = 10.0
UNKNOWN_FAMILY = 250
BLOB = Reference("blob", "a", "sha256:0")


class Resolver:
    """Replaces getaddrinfo; it hangs until it is opened."""

    def __init__(self) -> None:
        """Hang at first."""
        self.open = threading.Event()
        self.known: set[str] = set()
        self.asked: list[str] = []

    def __call__(self, host: str, port: int, **__: Any) -> list[Any]:
        self.asked.append(host)
        if host not in self.known:
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
    lookups = Lookups()
    for number in range(MAX_LOOKUPS + 5):
        with pytest.raises(Unavailable, match=r"^DNS (did|does) not answer"):
            lookups.find_addresses(f"host-{number}", 443, time.monotonic())
    wait_for("the look-ups", lambda: len(resolver.asked) >= MAX_LOOKUPS, TIMEOUT_SECONDS, 0.01)
    assert len(resolver.asked) == MAX_LOOKUPS


def test_names_that_hang_block_no_name_that_had_an_address(resolver: Resolver) -> None:
    """A repository can redirect to any number of names; the upstream is still looked up for each new connection."""
    resolver.known = {"registry.example.com.", "cdn.example.com."}
    lookups = Lookups()
    for host in ("registry.example.com", "cdn.example.com"):
        lookups.find_addresses(host, 443, time.monotonic() + TIMEOUT_SECONDS)
    for number in range(MAX_LOOKUPS + 5):
        with pytest.raises(Unavailable):
            lookups.find_addresses(f"host-{number}", 443, time.monotonic())
    for host in ("registry.example.com", "cdn.example.com"):
        lookups.find_addresses(host, 443, time.monotonic() + TIMEOUT_SECONDS)
    resolver.open.set()
    for lookup in lookups._running.values():
        assert lookup.wait(TIMEOUT_SECONDS)
    for number in range(MAX_KNOWN + 5):
        lookups.find_addresses(f"other-{number}", 443, time.monotonic() + TIMEOUT_SECONDS)
    assert len(lookups._known) == MAX_KNOWN


@pytest.fixture
def silent_address() -> Iterator[tuple[str, int]]:
    """An address that answers no request for a connection: its queue is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        waiting = []
        for _ in range(3):
            client = socket.socket()
            client.settimeout(0.0)
            client.connect_ex(full.getsockname())
            waiting.append(client)
        time.sleep(0.05)  # the kernel fills the queue
        yield full.getsockname()
        for client in waiting:
            client.close()


def addresses_of(*pairs: tuple[str, int]) -> list[Any]:
    return [(socket.AF_INET, pair) for pair in pairs]


def test_second_address_is_tried_if_the_first_does_not_answer(silent_address: tuple[str, int]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as refusing:
        refused = refusing.getsockname()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        good = listener.getsockname()
        for dead, seconds in ((refused, ATTEMPT_SECONDS / 2), (silent_address, ATTEMPT_SECONDS)):
            begin = time.monotonic()
            connected = dial(addresses_of(dead, good), time.monotonic() + TIMEOUT_SECONDS)
            assert connected.getpeername() == good
            assert connected.gettimeout() is None
            assert seconds / 2 - 0.1 < time.monotonic() - begin < seconds + 1.0
            connected.close()
        many = [*[silent_address] * (MAX_ATTEMPTS - 2), refused, good]
        dial(addresses_of(*many), time.monotonic() + TIMEOUT_SECONDS).close()
    with pytest.raises(ConnectionRefusedError):
        dial(addresses_of(refused, good), time.monotonic() + TIMEOUT_SECONDS)


def test_address_that_answers_late_is_used_if_no_other_one_does(silent_address: tuple[str, int]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as refusing:
        refused = refusing.getsockname()
    begin = time.monotonic()
    with pytest.raises(TimeoutError):
        dial(addresses_of(silent_address, refused, refused), time.monotonic() + 0.6)
    assert 0.5 < time.monotonic() - begin < 2.0
    with pytest.raises(TimeoutError):
        dial(addresses_of(refused), time.monotonic())


def test_attempts_leave_no_socket_open(silent_address: tuple[str, int]) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    with pytest.raises(TimeoutError):
        dial(addresses_of(*[silent_address] * 3), time.monotonic() + 0.7)
    assert count() == before


def test_families_take_turns() -> None:
    six, four = socket.AF_INET6, socket.AF_INET
    addresses: list[Any] = [(six, ("1",)), (six, ("2",)), (six, ("3",)), (four, ("4",)), (four, ("5",))]
    assert [address[1][0] for address in interleave(addresses)] == ["1", "4", "2", "5", "3"]


def test_family_that_the_machine_does_not_have_costs_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        begin = time.monotonic()
        addresses = [
            (socket.AF_INET6, ("2001:db8::1", 443)),
            (UNKNOWN_FAMILY, ("x",)),
            *addresses_of(listener.getsockname()),
        ]
        dial(addresses, time.monotonic() + TIMEOUT_SECONDS).close()
        assert time.monotonic() - begin < 2 * ATTEMPT_SECONDS + 1.0


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
