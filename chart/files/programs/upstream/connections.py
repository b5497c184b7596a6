"""Connections to servers, directly or through a proxy, and with TLS for https. Each carries one request.

A deadline is a value of time.monotonic(). It covers everything up to the head of the answer, unlike a socket's own
timeout, which starts again with each byte.
"""

from __future__ import annotations

import http.client
import ipaddress
import math
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from common.name_lookup import NameLookup, describe_lookup_error

from upstream.credentials import read_credentials
from upstream.errors import Kind, Unavailable, translate_errors
from upstream.transport import Connection, TlsInTls, seconds_left

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from common.name_lookup import Address

    from upstream.proxies import Proxies
    from upstream.tls import TrustedAuthorities
    from upstream.transport import Transport
    from upstream.urls import Origin, Url

USER_AGENT = "registry-cache"
# The names that may be looked up at once. They come from the configuration, token servers and redirects.
MAX_LOOKUPS = 32
# The least time for each address of a name that has several (Go, net/dial.go, partialDeadline).
MIN_ADDRESS_SECONDS = 2.0


class Lookups:
    """Looks up host names; all who want the same name at the same time share one look-up."""

    def __init__(self) -> None:
        """Look up nothing yet."""
        self._lock = threading.Lock()
        self._running: dict[tuple[str, int], NameLookup] = {}

    def find_addresses(self, host: str, port: int, deadline: float) -> list[Address]:
        """Return the addresses of a host, at least one, in the order in which to try them.

        Raises:
            Unavailable: The host has none, or DNS did not answer in time.
        """
        with suppress(ValueError):
            ip = ipaddress.ip_address(host)
            return [(socket.AF_INET6 if ip.version == 6 else socket.AF_INET, (host, port))]  # noqa: PLR2004 - IPv6
        with self._lock:
            lookup = self._join_or_start(host, port)
        if not lookup.wait(deadline - time.monotonic()):
            message = f"DNS did not answer in time for {host}"
            raise Unavailable(Kind.DNS, message)
        try:
            return lookup.addresses()
        except (OSError, UnicodeError) as error:
            raise Unavailable(Kind.DNS, describe_lookup_error(host, error)) from None

    def _join_or_start(self, host: str, port: int) -> NameLookup:
        self._running = {key: lookup for key, lookup in self._running.items() if not lookup.has_ended}
        if (lookup := self._running.get((host, port))) is not None:
            return lookup
        if len(self._running) >= MAX_LOOKUPS:
            message = f"DNS does not answer for {len(self._running)} other names, so {host} is not looked up"
            raise Unavailable(Kind.DNS, message)
        lookup = self._running[host, port] = NameLookup(host, port)
        return lookup


class Connections:
    """Sends requests to servers, each on a connection of its own."""

    def __init__(
        self,
        proxies: Proxies,
        proxy_credentials: Path | None,
        authorities: TrustedAuthorities,
        connect_timeout: float = math.inf,
    ) -> None:
        """Take how to connect, and how many seconds that may take; nothing is read or sent yet."""
        self._proxies = proxies
        self._proxy_credentials = proxy_credentials
        self._authorities = authorities
        self._connect_timeout = connect_timeout
        self._lookups = Lookups()

    def send(
        self, method: str, url: Url, headers: Mapping[str, str], deadline: float
    ) -> tuple[Connection, http.client.HTTPResponse]:
        """Send a request and wait for the head of the answer; the caller has to close the connection.

        Raises:
            Unavailable: There is no answer by the deadline.
        """
        origin = url.origin
        proxy = self._proxies.choose(origin)
        target, proxy_headers = url.target, {}
        if proxy is None:
            connection = self._connect(origin, deadline)
        elif origin.scheme == "https":
            connection = self._open_tunnel(proxy, origin, deadline)
        else:
            connection = self._connect_to_proxy(proxy, deadline)
            target, proxy_headers = str(url), self._proxy_headers(connection)
        try:
            server = f"{origin} through the proxy {proxy}" if proxy else str(origin)
            with translate_errors(server):
                response = _exchange(connection, method, target, {"Host": origin.authority, **headers, **proxy_headers})
            if proxy is not None:
                _check_proxy_credentials(response, proxy, proxy_headers)
        except BaseException:
            connection.close()
            raise
        return connection, response

    def _connect(self, origin: Origin, deadline: float) -> Connection:
        connect_deadline = min(deadline, time.monotonic() + self._connect_timeout)
        addresses = self._lookups.find_addresses(origin.host, origin.port, connect_deadline)
        with translate_errors(str(origin)):
            transport: Transport = _dial(addresses, connect_deadline)
        if origin.scheme == "https":
            transport = self._start_tls(transport, origin, deadline)
        return Connection(transport, deadline)

    def _connect_to_proxy(self, proxy: Origin, deadline: float) -> Connection:
        try:
            return self._connect(proxy, deadline)
        except Unavailable as problem:
            raise Unavailable(Kind.PROXY, f"the proxy: {problem}") from None

    def _open_tunnel(self, proxy: Origin, origin: Origin, deadline: float) -> Connection:
        """Return a connection to the server whose bytes the proxy passes on unchanged (RFC 9110, section 9.3.6)."""
        connection = self._connect_to_proxy(proxy, deadline)
        try:
            proxy_headers = self._proxy_headers(connection)
            target = f"{origin.bracketed}:{origin.port}"
            try:
                with translate_errors(f"the proxy {proxy}"):
                    response = _exchange(connection, "CONNECT", target, {"Host": target, **proxy_headers})
            except Unavailable as problem:
                # After a timeout, it is most often the server for which the proxy waits.
                raise Unavailable(
                    Kind.TIMEOUT if problem.kind == Kind.TIMEOUT else Kind.PROXY, problem.message
                ) from None
            _check_proxy_credentials(response, proxy, proxy_headers)
            _check_tunnel(response, proxy, origin)
        except BaseException:
            connection.close()
            raise
        return Connection(self._start_tls(connection.transport, origin, deadline), deadline)

    def _start_tls(self, transport: Transport, origin: Origin, deadline: float) -> Transport:
        """Start TLS on a connection, which is closed if that fails."""
        try:
            context = self._authorities.context()
            with translate_errors(str(origin)):
                if type(transport) is socket.socket:
                    transport.settimeout(seconds_left(deadline))
                    return context.wrap_socket(transport, server_hostname=origin.host)
                inner = TlsInTls(transport, context, origin.host)
                inner.settimeout(seconds_left(deadline))
                inner.do_handshake()
                return inner
        except BaseException:
            transport.close()
            raise

    def _proxy_headers(self, connection: Connection) -> dict[str, str]:
        """Return the header with the credentials for the proxy; the connection is closed if they cannot be read."""
        try:
            credentials = read_credentials(self._proxy_credentials)
        except OSError as error:
            connection.close()
            message = f"the credentials for the proxy cannot be read: {error.strerror or error}"
            raise Unavailable(Kind.PROXY, message) from None
        return {"Proxy-Authorization": credentials.basic()} if credentials else {}


def _check_proxy_credentials(
    response: http.client.HTTPResponse, proxy: Origin, proxy_headers: Mapping[str, str]
) -> None:
    if response.status == http.HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        problem = "does not accept the credentials" if proxy_headers else "requires credentials, and there are none"
        raise Unavailable(Kind.PROXY, f"the proxy {proxy} {problem}: status {response.status}")


def _check_tunnel(response: http.client.HTTPResponse, proxy: Origin, origin: Origin) -> None:
    if response.status != http.HTTPStatus.OK:
        raise Unavailable(Kind.PROXY, f"the proxy {proxy} does not connect to {origin}: status {response.status}")


def _dial(addresses: list[Address], deadline: float) -> socket.socket:
    """Connect to the first address that answers; each gets a share of the time, so that the others can be tried.

    Raises:
        OSError: The problem with the first address.
    """
    first_error: OSError | None = None
    for position, (family, address) in enumerate(addresses):
        left = deadline - time.monotonic()
        share = max(left / (len(addresses) - position), min(MIN_ADDRESS_SECONDS, left))
        if share <= 0:
            break
        connecting = socket.socket(family, socket.SOCK_STREAM)
        try:
            connecting.settimeout(share)
            connecting.connect(address)
        except OSError as error:
            connecting.close()
            first_error = first_error or error
        except BaseException:
            connecting.close()
            raise
        else:
            return connecting
    raise first_error or TimeoutError


def _exchange(connection: Connection, method: str, target: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    lines += [f"User-Agent: {USER_AGENT}", *([] if method == "CONNECT" else ["Connection: close"])]
    connection.send("\r\n".join([*lines, "", ""]).encode("ascii"))
    # It needs nothing of a socket but makefile.
    response = http.client.HTTPResponse(cast("socket.socket", connection), method=method)
    response.begin()
    # http.client itself skips only 100. After 101, another protocol is spoken.
    while response.status < http.HTTPStatus.OK and response.status != http.HTTPStatus.SWITCHING_PROTOCOLS:
        response.headers = None  # type: ignore[assignment] # as before the first head, so that it reads the next one
        response.begin()
    return response
