"""Idle connections: how many there are, for how long, and which one is used next."""

from __future__ import annotations

import socket
import ssl
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from upstream import pool as pool_module
from upstream.credentials import Credentials
from upstream.pool import MAX_IDLE, MAX_IDLE_PER_ORIGIN, Pool, Route
from upstream.transport import Connection
from upstream.urls import Origin

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUTE = Route(Origin("http", "registry.example.com", 80))


class Lines:
    """Connections and their other ends."""

    def __init__(self, stack: ExitStack) -> None:
        """Close the other ends with `stack`."""
        self._stack = stack
        self.ends: dict[Connection, socket.socket] = {}

    def connect(self) -> Connection:
        own, end = socket.socketpair()
        self._stack.enter_context(own)
        self._stack.enter_context(end)
        end.settimeout(10.0)
        connection = Connection(own, time.monotonic() + 10.0)
        self.ends[connection] = end
        return connection

    def is_closed(self, connection: Connection) -> bool:
        transport = connection.transport
        assert isinstance(transport, socket.socket)
        return transport.fileno() == -1


@pytest.fixture
def lines() -> Iterator[Lines]:
    with ExitStack() as stack:
        yield Lines(stack)


def test_most_recently_used_connection_is_used_next(lines: Lines) -> None:
    pool = Pool()
    first, second = lines.connect(), lines.connect()
    pool.put(ROUTE, first)
    pool.put(ROUTE, second)
    assert [pool.take(ROUTE), pool.take(ROUTE), pool.take(ROUTE)] == [second, first, None]


def test_number_of_idle_connections_to_a_server_is_limited(lines: Lines) -> None:
    pool = Pool()
    connections = [lines.connect() for _ in range(MAX_IDLE_PER_ORIGIN + 2)]
    for connection in connections:
        pool.put(ROUTE, connection)
    assert [lines.is_closed(connection) for connection in connections] == [True] * 2 + [False] * MAX_IDLE_PER_ORIGIN
    assert pool.take(ROUTE) is connections[-1]


def test_number_of_all_idle_connections_is_limited(lines: Lines) -> None:
    pool = Pool()
    connections = [lines.connect() for _ in range(MAX_IDLE + 2)]
    for number, connection in enumerate(connections):
        pool.put(Route(Origin("http", f"{number % 5}.example.com", 80)), connection)
    assert [lines.is_closed(connection) for connection in connections] == [True] * 2 + [False] * MAX_IDLE


def test_connection_that_was_idle_for_too_long_is_closed(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool()
    connection, other = lines.connect(), lines.connect()
    pool.put(ROUTE, connection)
    monkeypatch.setattr(pool_module, "MAX_IDLE_SECONDS", 0.0)
    pool.put(Route(Origin("http", "other.example.com", 80)), other)
    assert lines.is_closed(connection)
    assert pool.take(ROUTE) is None


@pytest.mark.parametrize(
    "other",
    [
        ROUTE._replace(proxy=Origin("http", "proxy.example.com", 3128)),
        ROUTE._replace(proxy_credentials=Credentials(b"user", b"new")),
        ROUTE._replace(context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)),
    ],
    ids=["proxy", "credentials", "authorities"],
)
def test_connections_by_a_former_route_are_closed(lines: Lines, other: Route) -> None:
    pool = Pool()
    connection = lines.connect()
    pool.put(ROUTE, connection)
    assert pool.take(other) is None
    assert lines.is_closed(connection)


def test_connection_to_another_server_is_not_used(lines: Lines) -> None:
    pool = Pool()
    connection = lines.connect()
    pool.put(ROUTE, connection)
    for origin in (ROUTE.origin._replace(host="x.test"), ROUTE.origin._replace(port=81), Origin("https", "x", 80)):
        assert pool.take(Route(origin)) is None
    assert pool.take(ROUTE) is connection


@pytest.mark.parametrize("happens_before", [True, False], ids=["before", "while-idle"])
@pytest.mark.parametrize("event", ["closed", "reset", "stray-bytes"])
def test_connection_that_the_server_closed_or_sent_something_on_is_not_used(
    lines: Lines, event: str, *, happens_before: bool
) -> None:
    pool = Pool()
    connection = lines.connect()
    if not happens_before:
        pool.put(ROUTE, connection)
    end = lines.ends[connection]
    if event == "stray-bytes":
        end.sendall(b"HTTP/1.1 200 OK\r\n")
    else:
        if event == "reset":
            # Closing a socket with unread bytes resets the connection.
            assert isinstance(connection.transport, socket.socket)
            connection.transport.sendall(b"x")
        end.close()
    if happens_before:
        pool.put(ROUTE, connection)
        assert lines.is_closed(connection)
    assert pool.take(ROUTE) is None
    assert lines.is_closed(connection)


def test_connection_with_unread_bytes_in_its_buffer_is_not_used(lines: Lines) -> None:
    pool = Pool()
    connection = lines.connect()
    lines.ends[connection].sendall(b"bodyHTTP/1.1 200 OK\r\n")
    assert connection.makefile("rb").read(4) == b"body"
    pool.put(ROUTE, connection)
    assert lines.is_closed(connection)


def test_as_many_connections_are_opened_in_advance_as_are_missing(lines: Lines) -> None:
    pool = Pool()
    idle, closed = lines.connect(), lines.connect()
    pool.put(ROUTE, idle)
    pool.put(ROUTE, closed)
    lines.ends[closed].close()
    assert [pool.begin_opening(ROUTE, 3) for _ in range(3)] == [True, True, False]
    pool.put(ROUTE, lines.connect())
    pool.end_opening(ROUTE)
    assert not pool.begin_opening(ROUTE, 3)
    # The second connection could not be opened.
    pool.end_opening(ROUTE)
    assert pool.begin_opening(ROUTE, 3)
    assert lines.is_closed(closed)


def test_not_more_connections_are_opened_in_advance_than_are_kept() -> None:
    pool = Pool()
    assert sum(pool.begin_opening(ROUTE, 100) for _ in range(100)) == MAX_IDLE_PER_ORIGIN


def test_old_connection_is_not_used_again(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would reach the address of a server that moved as long as there are requests."""
    pool = Pool()
    connection, waiting = lines.connect(), lines.connect()
    pool.put(ROUTE, waiting)
    now = time.monotonic()
    for seconds in (15, 30, 45, 59):
        monkeypatch.setattr(time, "monotonic", lambda seconds=seconds: now + seconds)
        pool.put(ROUTE, connection)
        assert pool.take(ROUTE) is connection
    pool.put(ROUTE, connection)
    monkeypatch.setattr(time, "monotonic", lambda: now + pool_module.MAX_AGE_SECONDS + 1)
    assert pool.take(ROUTE) is None
    assert lines.is_closed(connection)
    old = lines.connect()
    monkeypatch.setattr(time, "monotonic", lambda: now + 2 * pool_module.MAX_AGE_SECONDS + 2)
    pool.put(ROUTE, old)
    assert lines.is_closed(old)
