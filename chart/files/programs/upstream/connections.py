"""Connections to servers: made, through a proxy and TLS where it is so, and asked once, by a moment that is given.

A deadline is a value of time.monotonic(). It bounds all that is done up to the answer's head: a socket's own timeout
begins anew with each byte that comes.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import math
import socket
import ssl
import threading
import time
from contextlib import contextmanager, suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, cast

from common.name_lookup import NameLookup, describe_lookup_error

from upstream import credentials

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from common.name_lookup import Address

    from upstream.proxies import Proxies
    from upstream.urls import Origin, Url

AGENT = "registry-cache"
# The names that may be looked up at once. They come from the configuration, token servers and redirects.
MAX_LOOKUPS = 32
# Seconds that an address is given at least where a name has several (Go, net/dial.go, partialDeadline).
LEAST_FOR_ADDRESS = 2.0
# A record of TLS is 16 KiB and some.
TLS_PART = 32 * 1024


class Kind(StrEnum):
    """In one word why there is no answer."""

    DNS = "dns"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    TLS = "tls"
    # The connection ended before the answer's head was there.
    RESET = "reset"
    PROXY = "proxy"
    # The connection ended in the middle of a body.
    CUT = "cut"
    MALFORMED = "malformed"
    REDIRECTS = "redirects"
    # Statuses: 429, any other from 400 on that is not told apart, any from 500 on.
    TOO_MANY = "429"
    CLIENT_ERROR = "4xx"
    SERVER_ERROR = "5xx"


class Unavailable(Exception):
    """No answer that is of use; the message says in words what went wrong, and never a secret."""

    def __init__(self, kind: str, message: str, retry_after: float | None = None) -> None:
        """`kind` is a Kind; `retry_after` the wait in seconds that a server asked for."""
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.retry_after = retry_after


@contextmanager
def problems(who: str) -> Iterator[None]:
    """Say what goes wrong with a connection to `who` in words of ours."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise Unavailable(Kind.TLS, f"the certificate of {who} is not accepted: {error.verify_message}") from None
    except ssl.SSLError as error:
        raise Unavailable(Kind.TLS, f"no TLS with {who}: {error.reason or error.strerror}") from None
    except TimeoutError:
        raise Unavailable(Kind.TIMEOUT, f"{who} does not answer in time") from None
    except ConnectionRefusedError:
        raise Unavailable(Kind.REFUSED, f"{who} refuses connections") from None
    except ConnectionError:
        raise Unavailable(Kind.RESET, f"{who} ends the connection before it answers") from None
    except http.client.HTTPException:
        raise Unavailable(Kind.MALFORMED, f"what {who} answers is no HTTP") from None
    except OSError as error:
        raise Unavailable(Kind.UNREACHABLE, f"{who} cannot be reached: {error.strerror or error}") from None


class Transport(Protocol):
    """What sockets have, plain ones and those with TLS."""

    def settimeout(self, value: float | None, /) -> None:
        """Seconds for each call from now on."""

    def recv_into(self, buffer: memoryview, /) -> int:
        """Wait for bytes and return how many there are; none at the end."""

    def sendall(self, data: bytes, /) -> None:
        """Send all."""

    def close(self) -> None:
        """End the connection."""


class TlsInside:
    """TLS inside TLS, which Python's sockets cannot: to a server by https, through a proxy that is asked by https."""

    def __init__(self, outer: Transport, context: ssl.SSLContext, host: str) -> None:
        """Nothing is sent yet."""
        self._outer = outer
        self._timeout: float | None = None
        self._received = ssl.MemoryBIO()
        self._to_send = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_hostname=host)

    def do_handshake(self) -> None:
        """Agree on keys, and check the certificate."""
        deadline = self._deadline()
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                self._receive(deadline)
            except ssl.SSLError:
                # The server is told why.
                self._flush()
                raise
            else:
                self._flush()
                return

    def settimeout(self, value: float | None, /) -> None:
        """Seconds for each call from now on."""
        self._timeout = value
        self._outer.settimeout(value)

    def recv_into(self, buffer: memoryview, /) -> int:
        """Wait for bytes and return how many there are; none at the end."""
        deadline = self._deadline()
        while True:
            try:
                return cast("int", self._tls.read(len(buffer), buffer))  # into the buffer, so it returns their number
            except ssl.SSLWantReadError:
                self._flush()
                self._receive(deadline)
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return 0

    def sendall(self, data: bytes, /) -> None:
        """Send all."""
        self._tls.write(data)
        self._flush()

    def close(self) -> None:
        """End the connection."""
        self._outer.close()

    def _flush(self) -> None:
        if data := self._to_send.read():
            self._outer.sendall(data)

    def _deadline(self) -> float | None:
        return None if self._timeout is None else time.monotonic() + self._timeout

    def _receive(self, deadline: float | None) -> None:
        # A record may come in many pieces, and all of it belongs to one call.
        self._outer.settimeout(None if deadline is None else _left(deadline))
        buffer = memoryview(bytearray(TLS_PART))
        if count := self._outer.recv_into(buffer):
            self._received.write(buffer[:count])
        else:
            self._received.write_eof()


class Connection:
    """A connection whose reads end by a moment, and later when nothing came for a while."""

    def __init__(self, transport: Transport, deadline: float) -> None:
        """Take it over: `close` ends it."""
        self.transport = transport
        self._deadline: float | None = deadline
        self._silence = 0.0

    def stay(self, silence: float) -> None:
        """Have no deadline any more; a read ends when nothing came for `silence` seconds."""
        self._deadline, self._silence = None, silence
        # A socket keeps it; before each read it would be one call of the kernel more.
        self.transport.settimeout(silence)

    def send(self, data: bytes) -> None:
        """Send all of a request."""
        self._limit()
        self.transport.sendall(data)

    def receive_into(self, buffer: memoryview) -> int:
        """Wait for bytes and return how many there are; none at the end."""
        if self._deadline is not None:
            self._limit()
        return self.transport.recv_into(buffer)

    def close(self) -> None:
        """End it."""
        self.transport.close()

    def makefile(self, _mode: str) -> io.BufferedReader:
        """What http.client reads from. Closing that leaves the connection, which lives on after a proxy's answer."""
        return io.BufferedReader(_Reader(self))

    def _limit(self) -> None:
        self.transport.settimeout(_left(self._deadline or 0.0))


class _Reader(io.RawIOBase):
    """A connection as a file."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] # a memoryview is what BufferedReader gives
        return self._connection.receive_into(buffer)


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
            message = f"DNS does not answer in time for {host}"
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


class Contexts:
    """The certificates that are trusted: the system's, and those of a file, which may change at any time."""

    def __init__(self, file: Path | None, source: str) -> None:
        """Nothing is read yet; `source` is what the file is the key ca.crt of."""
        self._file = file
        self._source = source
        self._lock = threading.Lock()
        self._made: tuple[object, ssl.SSLContext] | None = None

    def current(self) -> ssl.SSLContext:
        """What to make connections with.

        Raises:
            Unavailable: the file cannot be read, or holds no certificates.
        """
        with self._lock:
            try:
                version = self._version()
                if self._made is None or self._made[0] != version:
                    self._made = version, self._make()
            except FileNotFoundError:
                # Both look alike here: the kubelet mounts an empty folder for what is not there.
                message = f"{self._source} is not there or has no key ca.crt"
                raise Unavailable(Kind.TLS, message) from None
            except OSError as error:
                message = f"ca.crt of {self._source} cannot be read: {error.strerror or error}"
                raise Unavailable(Kind.TLS, message) from None
            return self._made[1]

    def _version(self) -> object:
        if self._file is None:
            return None
        status = self._file.stat()
        return status.st_ino, status.st_size, status.st_mtime_ns

    def _make(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        # As Go has it, and so containerd: each certificate in the file is trusted, one of no root too, and those are
        # taken that lack what RFC 5280 asks of an authority. Python 3.13 has both set the other way than 3.11.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.set_alpn_protocols(["http/1.1"])
        if self._file is not None:
            context.load_verify_locations(cafile=self._file)
        return context


class Connections:
    """Asks servers, each request on a connection of its own."""

    def __init__(
        self, proxies: Proxies, proxy_credentials: Path | None, contexts: Contexts, connect_timeout: float = math.inf
    ) -> None:
        """Take how to connect, and how many seconds that may take; nothing is read or asked yet."""
        self._connect_timeout = connect_timeout
        self._proxies = proxies
        self._proxy_credentials = proxy_credentials
        self._contexts = contexts
        self._lookups = Lookups()

    def ask(
        self, method: str, url: Url, headers: Mapping[str, str], deadline: float
    ) -> tuple[Connection, http.client.HTTPResponse]:
        """Send a request and wait for the answer's head; the connection is the caller's to close.

        Raises:
            Unavailable: there is no answer by the deadline.
        """
        origin = url.origin
        proxy = self._proxies.choose(origin)
        target, through = url.target, {}
        if proxy is None:
            connection = self._connect(origin, deadline)
        elif origin.scheme == "https":
            connection = self._tunnel(proxy, origin, deadline)
        else:
            connection = self._connect_to_proxy(proxy, deadline)
            target, through = str(url), self._for_proxy(connection)
        try:
            who = f"{origin} through the proxy {proxy}" if proxy else str(origin)
            with problems(who):
                response = _ask(connection, method, target, {"Host": origin.authority, **headers, **through})
            if proxy is not None:
                _check_known(response, proxy, through)
        except BaseException:
            connection.close()
            raise
        return connection, response

    def _connect(self, origin: Origin, deadline: float) -> Connection:
        connected = min(deadline, time.monotonic() + self._connect_timeout)
        addresses = self._lookups.find_addresses(origin.host, origin.port, connected)
        with problems(str(origin)):
            transport: Transport = _dial(addresses, connected)
        if origin.scheme == "https":
            transport = self._secure(transport, origin, deadline)
        return Connection(transport, deadline)

    def _connect_to_proxy(self, proxy: Origin, deadline: float) -> Connection:
        try:
            return self._connect(proxy, deadline)
        except Unavailable as problem:
            raise Unavailable(Kind.PROXY, f"the proxy: {problem}") from None

    def _tunnel(self, proxy: Origin, origin: Origin, deadline: float) -> Connection:
        """A connection to the server, which the proxy passes on as it is (RFC 9110, section 9.3.6)."""
        connection = self._connect_to_proxy(proxy, deadline)
        try:
            through = self._for_proxy(connection)
            target = f"{origin.bracketed}:{origin.port}"
            try:
                with problems(f"the proxy {proxy}"):
                    response = _ask(connection, "CONNECT", target, {"Host": target, **through})
            except Unavailable as problem:
                # Most often it is the server that the proxy waits for.
                raise Unavailable(
                    Kind.TIMEOUT if problem.kind == Kind.TIMEOUT else Kind.PROXY, problem.message
                ) from None
            _check_known(response, proxy, through)
            _check_tunnel(response, proxy, origin)
        except BaseException:
            connection.close()
            raise
        return Connection(self._secure(connection.transport, origin, deadline), deadline)

    def _secure(self, transport: Transport, origin: Origin, deadline: float) -> Transport:
        """Put TLS on a connection; where that fails it is closed."""
        try:
            context = self._contexts.current()
            with problems(str(origin)):
                if type(transport) is socket.socket:
                    transport.settimeout(_left(deadline))
                    return context.wrap_socket(transport, server_hostname=origin.host)
                inside = TlsInside(transport, context, origin.host)
                inside.settimeout(_left(deadline))
                inside.do_handshake()
                return inside
        except BaseException:
            transport.close()
            raise

    def _for_proxy(self, connection: Connection) -> dict[str, str]:
        """The header that tells the proxy who asks; where that cannot be read, the connection is closed."""
        try:
            found = credentials.read(self._proxy_credentials)
        except OSError as error:
            connection.close()
            message = f"the credentials for the proxy cannot be read: {error.strerror or error}"
            raise Unavailable(Kind.PROXY, message) from None
        return {"Proxy-Authorization": found.basic()} if found else {}


def _check_known(response: http.client.HTTPResponse, proxy: Origin, through: Mapping[str, str]) -> None:
    if response.status == http.HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        how = "does not accept the credentials" if through else "asks for credentials, and there are none"
        raise Unavailable(Kind.PROXY, f"the proxy {proxy} {how}: status {response.status}")


def _check_tunnel(response: http.client.HTTPResponse, proxy: Origin, origin: Origin) -> None:
    if response.status != http.HTTPStatus.OK:
        raise Unavailable(Kind.PROXY, f"the proxy {proxy} does not connect to {origin}: status {response.status}")


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _dial(addresses: list[Address], deadline: float) -> socket.socket:
    """A connection to the first address that has one; of an address that does not answer, some time is left.

    Raises:
        OSError: what was wrong with the first address.
    """
    first: OSError | None = None
    for position, (family, address) in enumerate(addresses):
        left = deadline - time.monotonic()
        share = max(left / (len(addresses) - position), min(LEAST_FOR_ADDRESS, left))
        if share <= 0:
            break
        made = socket.socket(family, socket.SOCK_STREAM)
        try:
            made.settimeout(share)
            made.connect(address)
        except OSError as error:
            made.close()
            first = first or error
        except BaseException:
            made.close()
            raise
        else:
            return made
    raise first or TimeoutError


def _ask(connection: Connection, method: str, target: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    lines += [f"User-Agent: {AGENT}", "Connection: close"] if method != "CONNECT" else [f"User-Agent: {AGENT}"]
    connection.send("\r\n".join([*lines, "", ""]).encode("ascii"))
    # All that it asks of a socket is makefile.
    response = http.client.HTTPResponse(cast("socket.socket", connection), method=method)
    response.begin()
    # http.client itself passes over 100 alone. After 101 another protocol is spoken.
    while response.status < http.HTTPStatus.OK and response.status != http.HTTPStatus.SWITCHING_PROTOCOLS:
        response.headers = None  # type: ignore[assignment] # as before the first head, so that it reads the next one
        response.begin()
    return response
