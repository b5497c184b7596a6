"""Connections that wait for their next request."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import ssl

    from upstream.credentials import Credentials
    from upstream.transport import Connection
    from upstream.urls import Origin

# containerd pulls 3 layers of an image at once, and a few images may be pulled at once.
MAX_IDLE_PER_ORIGIN = 8
MAX_IDLE = 32
# Servers close idle connections too, and a request must not meet that moment: most wait for 60 s or longer.
MAX_IDLE_SECONDS = 20.0
# A new connection looks the name of its server up again, so that a server that moved is followed.
MAX_AGE_SECONDS = 60.0


class Route(NamedTuple):
    """Everything that a connection depends on. A server has one route at a time, which its connections share."""

    origin: Origin
    proxy: Origin | None = None
    proxy_credentials: Credentials | None = None
    context: ssl.SSLContext | None = None
    """For TLS with the server or the proxy, and None without TLS."""


class _Idle(NamedTuple):
    route: Route
    connection: Connection
    since: float


class Pool:
    """Idle connections, for many threads at once.

    Connections that have been idle for too long are closed when the pool is used next.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._lock = threading.Lock()
        # The most recently used is the last.
        self._idle: list[_Idle] = []
        self._being_opened: Counter[Route] = Counter()

    def take(self, route: Route) -> Connection | None:
        """Remove and return the most recently used connection of a route that is still usable, or None."""
        while True:
            with self._lock:
                self._close_outdated(route)
                position = max((index for index, idle in enumerate(self._idle) if idle.route == route), default=None)
                if position is None:
                    return None
                connection = self._idle.pop(position).connection
            if connection.is_quiet():
                return connection
            connection.close()

    def put(self, route: Route, connection: Connection) -> None:
        """Keep a connection for the next request, or close it if it is not usable; it must not be used after that."""
        if not connection.is_quiet() or time.monotonic() - connection.opened_at > MAX_AGE_SECONDS:
            connection.close()
            return
        with self._lock:
            self._close_outdated(route)
            self._idle.append(_Idle(route, connection, time.monotonic()))
            same = [idle for idle in self._idle if idle.route == route]
            if len(same) > MAX_IDLE_PER_ORIGIN:
                self._close(same[0])
            elif len(self._idle) > MAX_IDLE:
                self._close(self._idle[0])

    def begin_opening(self, route: Route, count: int) -> bool:
        """Note that a connection is being opened in advance, unless `count` are usable or being opened."""
        with self._lock:
            self._close_outdated(route)
            for idle in [idle for idle in self._idle if idle.route == route and not idle.connection.is_quiet()]:
                self._close(idle)
            usable = sum(idle.route == route for idle in self._idle)
            if usable + self._being_opened[route] >= min(count, MAX_IDLE_PER_ORIGIN):
                return False
            self._being_opened[route] += 1
            return True

    def end_opening(self, route: Route) -> None:
        """Note that a connection has been put, or could not be opened."""
        with self._lock:
            self._being_opened[route] -= 1
            # This drops the routes with 0.
            self._being_opened = +self._being_opened

    def close(self) -> None:
        """Close all idle connections."""
        with self._lock:
            for idle in list(self._idle):
                self._close(idle)

    def _close_outdated(self, route: Route) -> None:
        """Close connections that were idle for too long or are old, and those by other routes to the server."""
        now = time.monotonic()
        for idle in list(self._idle):
            is_old = now - idle.since > MAX_IDLE_SECONDS or now - idle.connection.opened_at > MAX_AGE_SECONDS
            if is_old or (idle.route.origin == route.origin and idle.route != route):
                self._close(idle)

    def _close(self, idle: _Idle) -> None:
        self._idle.remove(idle)
        idle.connection.close()
