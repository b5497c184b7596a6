"""Connections to servers, directly or through a proxy, and with TLS for https. Idle ones are reused.

A deadline is a value of time.monotonic(). It covers everything up to the head of the answer, unlike a socket's own
timeout, which starts again with each byte.
"""

from __future__ import annotations

import http.client
import math
import threading
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, cast

from common.dialing import dial

from upstream.credentials import read_credentials
from upstream.errors import Kind, Unavailable, translate_errors
from upstream.exchange import Reply
from upstream.lookups import Lookups
from upstream.pool import Pool, Route
from upstream.tls import TlsSessions
from upstream.transport import Connection, Tls, seconds_left

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping
    from pathlib import Path

    from upstream.credentials import Credentials
    from upstream.destinations import Destinations
    from upstream.proxies import Proxies
    from upstream.tls import TrustedAuthorities
    from upstream.transport import Transport
    from upstream.urls import Origin, Url

USER_AGENT = "registry-cache"
# A server to which there is no connection after this time counts as unreachable.
MIN_CONNECT_SECONDS = 0.5
# A firewall may have forgotten an idle connection, so that packets get lost. Then the kernel of the server does not
# acknowledge the request, which it does at once even if the server itself takes long for the answer.
ACKNOWLEDGE_SECONDS = 1.0
# A proxy acknowledges what the server may never get. This is the share of the time that it has to begin its answer.
PROXY_SHARE = 0.5


class _Message(NamedTuple):
    """A request as it is sent to a server, perhaps more than once."""

    method: str
    url: Url
    head: bytes
    deadline: float


class Connections:
    """Sends requests to servers, and reuses the connections."""

    def __init__(
        self,
        proxies: Proxies,
        proxy_credentials: Path | None,
        authorities: TrustedAuthorities,
        destinations: Destinations,
        connect_timeout: float = math.inf,
    ) -> None:
        """Take how and where to connect, and how many seconds that may take; nothing is read or sent yet."""
        self._proxies = proxies
        self._proxy_credentials = proxy_credentials
        self._authorities = authorities
        self._destinations = destinations
        self._connect_timeout = connect_timeout
        self._lookups = Lookups()
        self._pool = Pool()
        weakref.finalize(self, self._pool.close)
        self._sessions = TlsSessions()
        self._lock = threading.Lock()
        # How many connections to servers have been opened.
        self.opened = 0

    def send(self, method: str, url: Url, headers: Mapping[str, str], deadline: float, body: bytes = b"") -> Reply:
        """Send a request, which must be safe to repeat, and wait for the head of the answer.

        A server may close an idle connection at any time. If this is noticed only after the request was sent, the
        request is sent again on a new connection.

        Raises:
            Unavailable: There is no answer by the deadline.
        """
        route = self._route(url.origin)
        message = _Message(method, url, _head_of(method, url, headers, route) + body, deadline)
        connection = self._pool.take(route)
        if connection is not None:
            try:
                reply = self._exchange(connection, route, message, is_reused=True)
                # Some servers send this status when they close an idle connection (RFC 9110, section 15.5.9).
                if reply.status != http.HTTPStatus.REQUEST_TIMEOUT:
                    return reply
                reply.close()
            except Unavailable:
                if connection.has_received:
                    raise
        return self._exchange(self._open(route, deadline), route, message)

    def prepare(self, origin: Origin, count: int, deadline: float) -> None:
        """Open connections to a server until `count` are idle, or as many as are kept.

        Several threads may do this at once: they open that many connections together.

        Raises:
            Unavailable: A connection could not be opened.
        """
        route = self._route(origin)
        while self._pool.begin_opening(route, count):
            try:
                self._pool.put(route, self._open(route, deadline))
            finally:
                self._pool.end_opening(route)

    def _route(self, origin: Origin) -> Route:
        proxy = self._proxies.choose(origin)
        has_tls = origin.scheme == "https" or (proxy is not None and proxy.scheme == "https")
        return Route(
            origin,
            proxy,
            None if proxy is None else self._read_proxy_credentials(),
            self._authorities.context() if has_tls else None,
        )

    def _read_proxy_credentials(self) -> Credentials | None:
        try:
            return read_credentials(self._proxy_credentials)
        except OSError as error:
            message = f"the credentials for the proxy cannot be read: {error.strerror or error}"
            raise Unavailable(Kind.PROXY, message) from None

    def _exchange(self, connection: Connection, route: Route, message: _Message, *, is_reused: bool = False) -> Reply:
        """Send a request on a connection, which is closed if there is no answer."""
        url, proxy = message.url, route.proxy
        connection.set_deadline(message.deadline)
        try:
            with translate_errors(f"{url.origin} through the proxy {proxy}" if proxy else str(url.origin)):
                first_byte_deadline = _limit_reused(connection, route, message.deadline) if is_reused else None
                response = _send_head(connection, message.method, message.head, first_byte_deadline)
            if proxy is not None:
                _check_proxy_credentials(response, route)
        except BaseException:
            connection.close()
            raise
        return Reply(url, connection, response, partial(self._release, connection, route))

    def _release(self, connection: Connection, route: Route, *, is_reusable: bool) -> None:
        # To read the session takes a third of a millisecond, so it is done once for each connection.
        if route.context is not None and not connection.has_told_session:
            connection.has_told_session = True
            self._remember_session(connection, route)
        if is_reusable:
            self._pool.put(route, connection)
        else:
            connection.close()

    def _open(self, route: Route, deadline: float) -> Connection:
        """Open a connection that is ready for a request to the server."""
        started = time.monotonic()
        connect_deadline = min(deadline, started + self._connect_timeout)
        if route.proxy is not None:
            self._destinations.check_host(route.origin)
        try:
            if route.proxy is None:
                connection = self._connect(route.origin, route, connect_deadline)
            elif route.origin.scheme == "https":
                connection = self._open_tunnel(route.proxy, route, connect_deadline)
            else:
                connection = self._connect_to_proxy(route.proxy, route, connect_deadline)
        except Unavailable as problem:
            # What came before may have left no time.
            problem.is_connecting = (
                time.monotonic() < connect_deadline or connect_deadline - started >= MIN_CONNECT_SECONDS
            )
            raise
        with self._lock:
            self.opened += 1
        return connection

    def _connect(self, origin: Origin, route: Route, deadline: float) -> Connection:
        addresses = self._lookups.find_addresses(origin.host, origin.port, deadline)
        if origin != route.proxy:
            addresses = self._destinations.choose(origin, addresses)
        with translate_errors(str(origin)):
            connected = dial(addresses, deadline)
            self._destinations.note_connection(origin, connected.getpeername())
        transport: Transport = connected
        if origin.scheme == "https":
            transport = self._start_tls(transport, origin, route, deadline)
        return Connection(transport, deadline)

    def _connect_to_proxy(self, proxy: Origin, route: Route, deadline: float) -> Connection:
        try:
            return self._connect(proxy, route, deadline)
        except Unavailable as problem:
            raise Unavailable(Kind.PROXY, f"the proxy: {problem}") from None

    def _open_tunnel(self, proxy: Origin, route: Route, deadline: float) -> Connection:
        """Return a connection to the server whose bytes the proxy passes on unchanged (RFC 9110, section 9.3.6)."""
        connection = self._connect_to_proxy(proxy, route, deadline)
        origin = route.origin
        try:
            target = f"{origin.bracketed}:{origin.port}"
            try:
                with translate_errors(f"the proxy {proxy}"):
                    head = _format_head("CONNECT", target, {"Host": target, **_proxy_headers(route)})
                    response = _send_head(connection, "CONNECT", head)
            except Unavailable as problem:
                # After a timeout, it is most often the server for which the proxy waits.
                raise Unavailable(
                    Kind.TIMEOUT if problem.kind == Kind.TIMEOUT else Kind.PROXY, problem.message
                ) from None
            _check_proxy_credentials(response, route)
            _check_tunnel(response, route)
        except BaseException:
            connection.close()
            raise
        return Connection(self._start_tls(connection.transport, origin, route, deadline), deadline)

    def _start_tls(self, transport: Transport, server: Origin, route: Route, deadline: float) -> Transport:
        """Start TLS on a connection, which is closed if that fails."""
        context = route.context
        assert context is not None  # noqa: S101 - it is there for https
        session = self._sessions.find(server, context)
        try:
            with translate_errors(str(server)):
                tls = Tls(transport, context, server.host, session)
                tls.settimeout(seconds_left(deadline))
                tls.do_handshake()
                return tls
        except BaseException:
            transport.close()
            raise

    def _remember_session(self, connection: Connection, route: Route) -> None:
        """Remember the TLS session; with TLS 1.3, the server sends what it takes to resume it after the handshake."""
        server = route.origin if route.origin.scheme == "https" else route.proxy
        session = connection.transport.session if isinstance(connection.transport, Tls) else None
        if server is not None and route.context is not None and session is not None:
            self._sessions.remember(server, route.context, session)


def _proxy_headers(route: Route) -> dict[str, str]:
    return {"Proxy-Authorization": route.proxy_credentials.basic()} if route.proxy_credentials else {}


def _check_proxy_credentials(response: http.client.HTTPResponse, route: Route) -> None:
    if response.status == http.HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        has_some = route.proxy_credentials is not None
        problem = "does not accept the credentials" if has_some else "requires credentials, and there are none"
        raise Unavailable(Kind.PROXY, f"the proxy {route.proxy} {problem}: status {response.status}")


def _check_tunnel(response: http.client.HTTPResponse, route: Route) -> None:
    if response.status != http.HTTPStatus.OK:
        message = f"the proxy {route.proxy} does not connect to {route.origin}: status {response.status}"
        raise Unavailable(Kind.PROXY, message)


def _limit_reused(connection: Connection, route: Route, deadline: float) -> float:
    """Limit the time after which a reused connection counts as broken, so that some is left for a new one.

    Return the deadline for the first byte of the answer.
    """
    if route.proxy is not None:
        return time.monotonic() + PROXY_SHARE * seconds_left(deadline)
    connection.limit_acknowledgement(min(ACKNOWLEDGE_SECONDS, seconds_left(deadline) / 3))
    return deadline


def _head_of(method: str, url: Url, headers: Mapping[str, str], route: Route) -> bytes:
    headers = {"Host": url.origin.authority, **headers}
    if route.proxy is None or url.origin.scheme == "https":
        return _format_head(method, url.target, headers)
    return _format_head(method, str(url), {**headers, **_proxy_headers(route)})


def _format_head(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"User-Agent: {USER_AGENT}", "", ""]).encode("ascii")


def _send_head(
    connection: Connection, method: str, head: bytes, first_byte_deadline: float | None = None
) -> http.client.HTTPResponse:
    """Send a request, and read the head of the answer."""
    connection.send(head, first_byte_deadline)
    # It needs nothing of a socket but makefile.
    response = http.client.HTTPResponse(cast("socket.socket", connection), method=method)
    response.begin()
    # http.client itself skips only 100. After 101, another protocol is spoken.
    while response.status < http.HTTPStatus.OK and response.status != http.HTTPStatus.SWITCHING_PROTOCOLS:
        response.headers = None  # type: ignore[assignment] # as before the first head, so that it reads the next one
        response.begin()
    return response
