"""Byte streams to servers, with TLS and deadlines."""

from __future__ import annotations

import io
import ssl
import time
from typing import Protocol, cast

# A TLS record is a little more than 16 KiB.
TLS_READ_BYTES = 32 * 1024


class Transport(Protocol):
    """What plain sockets and those with TLS have in common."""

    def settimeout(self, value: float | None, /) -> None:
        """Set the seconds that each call may take from now on."""

    def recv_into(self, buffer: memoryview, /) -> int:
        """Wait for bytes and return how many there are; 0 means the end."""

    def sendall(self, data: bytes, /) -> None:
        """Send all bytes."""

    def close(self) -> None:
        """End the connection."""


class TlsInTls:
    """TLS inside TLS, which Python's sockets cannot do: to an https server, through a proxy that is itself https."""

    def __init__(self, outer: Transport, context: ssl.SSLContext, host: str) -> None:
        """Take the connection to the proxy; nothing is sent yet."""
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
                # This tells the server the reason.
                self._flush()
                raise
            else:
                self._flush()
                return

    def settimeout(self, value: float | None, /) -> None:
        """Set the seconds that each call may take from now on."""
        self._timeout = value
        self._outer.settimeout(value)

    def recv_into(self, buffer: memoryview, /) -> int:
        """Wait for bytes and return how many there are; 0 means the end."""
        deadline = self._deadline()
        while True:
            try:
                return cast("int", self._tls.read(len(buffer), buffer))  # with a buffer, it returns their number
            except ssl.SSLWantReadError:
                self._flush()
                self._receive(deadline)
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return 0

    def sendall(self, data: bytes, /) -> None:
        """Send all bytes."""
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
        # A record may arrive in many pieces, which all belong to a single call.
        self._outer.settimeout(None if deadline is None else seconds_left(deadline))
        buffer = memoryview(bytearray(TLS_READ_BYTES))
        if count := self._outer.recv_into(buffer):
            self._received.write(buffer[:count])
        else:
            self._received.write_eof()


class Connection:
    """A connection whose reads end at a deadline, and after `end_deadline` when nothing has come for a while."""

    def __init__(self, transport: Transport, deadline: float) -> None:
        """Own the transport: `close` ends it."""
        self.transport = transport
        self._deadline: float | None = deadline

    def end_deadline(self, read_timeout: float) -> None:
        """Drop the deadline; from now on, a read fails if nothing comes for `read_timeout` seconds."""
        self._deadline = None
        # The socket remembers it, whereas setting it before each read would be one system call more.
        self.transport.settimeout(read_timeout)

    def send(self, data: bytes) -> None:
        """Send all bytes of a request."""
        self._limit()
        self.transport.sendall(data)

    def receive_into(self, buffer: memoryview) -> int:
        """Wait for bytes and return how many there are; 0 means the end."""
        if self._deadline is not None:
            self._limit()
        return self.transport.recv_into(buffer)

    def close(self) -> None:
        """End the connection."""
        self.transport.close()

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return the file that http.client reads. Closing it leaves the connection open, as a tunnel needs it."""
        return io.BufferedReader(_Reader(self))

    def _limit(self) -> None:
        self.transport.settimeout(seconds_left(self._deadline or 0.0))


class _Reader(io.RawIOBase):
    """A connection as a file."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] # BufferedReader passes a memoryview
        return self._connection.receive_into(buffer)


def seconds_left(deadline: float) -> float:
    """Return the seconds until a deadline, which is a value of time.monotonic().

    Raises:
        TimeoutError: The deadline has passed.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
