"""Asking a cache: only a whole, short 200 in time counts, and DNS that hangs or fails takes nothing away."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from common.endpoint import Endpoint
from node_program import cache_probe
from node_program.cache_probe import NoAnswer, ServiceAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VERSION = b"Docker-Distribution-Api-Version: registry/2.0\r\n"
GOOD = b"HTTP/1.1 200 OK\r\n" + VERSION + b"Content-Length: 2\r\n\r\n{}"
# Far more than any of these answers needs.
PATIENCE = 10.0


@contextmanager
def server(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port at which one connection is served."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            connection, _ = listener.accept()
            with connection:
                serve(connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(PATIENCE)
        assert not thread.is_alive()


def reply(answer: bytes) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        connection.recv(4096)
        try:
            connection.sendall(answer)
        except OSError:
            return  # it was too long for the probe, which hung up

    return serve


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(GOOD, id="length"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + VERSION.lower() + b"content-length:1\r\nX: y\r\n\r\n ", id="lower-case"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + VERSION + b"\r\n2\r\n{}\r\n0\r\n\r\n", id="chunked"
        ),
    ],
)
def test_whole_answer_counts(answer: bytes) -> None:
    with server(reply(answer)) as port:
        cache_probe.probe(Endpoint("http", "127.0.0.1", port), PATIENCE)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        *[
            pytest.param(f"HTTP/1.1 {code} X\r\nContent-Length: 0\r\n\r\n".encode(), f"status {code}", id=code)
            for code in ("301", "401", "404", "429", "500", "503")
        ],
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{", "the answer breaks off", id="cut-off-body"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "the answer breaks off", id="no-body"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Le", "the answer breaks off", id="cut-off-head"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "the answer breaks off", id="cut-off-chunk"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000, "the answer is too long", id="long"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "the answer is no registry's", id="no-registry"),
        pytest.param(GOOD.replace(b"2\r\n\r\n{}", b"0\r\n\r\n"), "the answer is empty", id="empty"),
        pytest.param(b"SSH-2.0-x\r\n", "the answer is not HTTP", id="other-protocol"),
        pytest.param(b"", "the answer is not HTTP", id="hangs-up"),
    ],
)
def test_anything_else_does_not_count(answer: bytes, message: str) -> None:
    with server(reply(answer)) as port, pytest.raises(NoAnswer, match=f"^{message}$"):
        cache_probe.probe(Endpoint("http", "127.0.0.1", port), PATIENCE)


def test_server_that_keeps_the_connection_open_does_not_cost_the_deadline() -> None:
    def serve(connection: socket.socket) -> None:
        reply(GOOD)(connection)
        connection.recv(1)  # until the probe hangs up

    with server(serve) as port:
        cache_probe.probe(Endpoint("http", "127.0.0.1", port), PATIENCE)


@pytest.mark.parametrize("left", [0.0, -0.04])
def test_no_time_left_is_no_answer_in_time(left: float) -> None:
    """A busy node gives the program no time between two of its lines."""
    with pytest.raises(NoAnswer, match=r"^no answer in time$"):
        cache_probe.probe(Endpoint("http", "127.0.0.1", 1), left)


def test_single_bytes_do_not_prolong_the_deadline() -> None:
    def serve(connection: socket.socket) -> None:
        try:
            for byte in b"HTTP/1.1 200 OK\r\n" * 100:
                connection.sendall(bytes([byte]))
                time.sleep(0.05)
        except OSError:
            return  # the probe hung up

    begun = time.monotonic()
    with server(serve) as port, pytest.raises(NoAnswer, match=r"^no answer in time$"):
        cache_probe.probe(Endpoint("http", "127.0.0.1", port), 0.3)
    assert time.monotonic() - begun < 2


def test_silence_ends_with_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(NoAnswer, match=r"^no answer in time$"):
        cache_probe.probe(Endpoint("http", "127.0.0.1", listener.getsockname()[1]), 0.2)


def test_refused_connection_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(NoAnswer, match=r"^connection refused$"):
        cache_probe.probe(Endpoint("http", "127.0.0.1", port), PATIENCE)


@pytest.mark.parametrize("service", ["127.0.0.1", "localhost"])
def test_number_and_localhost_are_addresses(service: str) -> None:
    assert ServiceAddress(service, 5000).current(PATIENCE) == "127.0.0.1"


class Resolver:
    """Stands for getaddrinfo; what it does is set from outside."""

    def __init__(self) -> None:
        """Answer at once, with one address."""
        self.addresses = ["10.0.0.1"]
        self.error: Exception | None = None
        self.open = threading.Event()
        self.open.set()
        self.asked = 0

    def __call__(self, _: str, port: int, **__: Any) -> list[Any]:
        self.asked += 1
        self.open.wait()
        if self.error:
            raise self.error
        return [(None, None, None, "", (address, port)) for address in self.addresses]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    made = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", made)
    monkeypatch.setattr(cache_probe, "FRESH_SECONDS", 0.0)
    yield made
    made.open.set()


def test_one_of_several_addresses_is_always_the_same(resolver: Resolver) -> None:
    address = ServiceAddress("cache", 5000)
    for addresses in (["fd00::1", "10.0.0.2", "10.0.0.1"], ["10.0.0.1", "fd00::1", "10.0.0.2"]):
        resolver.addresses = addresses
        assert address.current(PATIENCE) == "10.0.0.1"


def test_address_that_answers_is_looked_up_seldom_and_one_that_does_not_at_once(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_probe, "FRESH_SECONDS", 600.0)
    address = ServiceAddress("cache", 5000)
    for _ in range(5):
        assert address.current(PATIENCE) == "10.0.0.1"
    assert resolver.asked == 1
    resolver.addresses = ["10.0.0.2"]
    address.note_failed_probe()
    assert address.current(PATIENCE) == "10.0.0.2"
    now = time.monotonic()
    monkeypatch.setattr(cache_probe.time, "monotonic", lambda: now + 601)
    address.current(PATIENCE)
    assert resolver.asked == 3


def test_changed_address_is_noticed(resolver: Resolver) -> None:
    address = ServiceAddress("cache", 5000)
    for number in ("10.0.0.1", "10.0.0.2"):
        resolver.addresses = [number]
        assert address.current(PATIENCE) == number


def test_resolver_that_hangs_is_asked_once_and_the_last_address_stays(resolver: Resolver) -> None:
    address = ServiceAddress("cache", 5000)
    address.current(PATIENCE)
    resolver.open.clear()
    threads = threading.active_count()
    for _ in range(5):
        assert address.current(0.02) == "10.0.0.1"
    assert resolver.asked == 2
    assert threading.active_count() == threads + 1
    resolver.addresses = ["10.0.0.2"]
    resolver.open.set()
    assert address.current(PATIENCE) == "10.0.0.2"


def test_resolver_that_never_answered_is_told(resolver: Resolver) -> None:
    resolver.open.clear()
    with pytest.raises(NoAnswer, match="the address of cache is not known yet"):
        ServiceAddress("cache", 5000).current(0.02)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(socket.gaierror(socket.EAI_AGAIN, "try again"), id="away"),
        pytest.param(socket.gaierror(socket.EAI_NONAME, "no such name"), id="no-such-name"),
        pytest.param(UnicodeError("label too long"), id="no-name-at-all"),
    ],
)
def test_resolver_that_fails_takes_no_address_away(resolver: Resolver, error: Exception) -> None:
    address = ServiceAddress("cache", 5000)
    address.current(PATIENCE)
    resolver.error = error
    assert address.current(PATIENCE) == "10.0.0.1"


def test_address_of_a_deleted_service_is_forgotten_once_nobody_answers(resolver: Resolver) -> None:
    address = ServiceAddress("cache", 5000)
    address.current(PATIENCE)
    resolver.error = socket.gaierror(socket.EAI_AGAIN, "try again")
    address.current(PATIENCE)
    address.note_failed_probe()
    assert address.current(PATIENCE) == "10.0.0.1", "the resolver is away: who knows"
    resolver.error = socket.gaierror(socket.EAI_NONAME, "no such name")
    address.current(PATIENCE)
    address.note_failed_probe()
    with pytest.raises(NoAnswer, match="cache has no address: no such name"):
        address.current(PATIENCE)
