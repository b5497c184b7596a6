"""Byte streams to servers, with TLS and deadlines."""

from __future__ import annotations

import http.client
import io
import math
import socket
import ssl
import time
from contextlib import suppress
from typing import Protocol, cast

# A TLS record has 16 KiB at most. Reading many at once saves two system calls for each.
TLS_READ_BYTES = 128 * 1024
# What is not content: the head of an answer, and what one read of a body takes besides, such as the sizes of chunks and
# trailers. http.client itself allows 100 lines of 64 KiB in a head, and any number of them in trailers.
MAX_HEAD_BYTES = 64 * 1024


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


class Tls:
    """TLS to a server, over a plain connection or over another one with TLS, as to a proxy that is itself https.

    It takes less CPU time than Python's SSLSocket, which reads each record with two system calls, and it can be nested.
    """

    def __init__(
        self, outer: Transport, context: ssl.SSLContext, host: str, session: ssl.SSLSession | None = None
    ) -> None:
        """Take the connection that carries it, and the session to resume; nothing is sent yet."""
        self.outer = outer
        self._buffer = memoryview(bytearray(TLS_READ_BYTES))
        self._timeout: float | None = None
        self._received = ssl.MemoryBIO()
        self._to_send = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_hostname=host, session=session)

    @property
    def session(self) -> ssl.SSLSession | None:
        """The session, as SSLSocket.session."""
        return self._tls.session

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
        self.outer.settimeout(value)

    def recv_into(self, buffer: memoryview, /) -> int:
        """Wait for bytes and return how many there are; 0 means the end."""
        deadline = self._deadline()
        while True:
            try:
                count = self._read(buffer)
            except ssl.SSLWantReadError:
                self._flush()
                self._receive(deadline)
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return 0
            else:
                return count + self._read_more(buffer[count:])

    def _read(self, buffer: memoryview) -> int:
        return cast("int", self._tls.read(len(buffer), buffer))  # with a buffer, it returns their number

    def _read_more(self, buffer: memoryview) -> int:
        """Return how many bytes are in the records that have come already; the next call reports an error."""
        total = 0
        with suppress(ssl.SSLError):
            while total < len(buffer) and (count := self._read(buffer[total:])):
                total += count
        return total

    def sendall(self, data: bytes, /) -> None:
        """Send all bytes."""
        self._tls.write(data)
        self._flush()

    def close(self) -> None:
        """End the connection."""
        self.outer.close()

    def _flush(self) -> None:
        if data := self._to_send.read():
            self.outer.sendall(data)

    def _deadline(self) -> float | None:
        return time.monotonic() + self._timeout if self._timeout else None

    def _receive(self, deadline: float | None) -> None:
        # A record may arrive in many pieces, which all belong to a single call. A timeout of 0 means not to wait.
        self.outer.settimeout(self._timeout if deadline is None else seconds_left(deadline))
        if count := self.outer.recv_into(self._buffer):
            self._received.write(self._buffer[:count])
        else:
            self._received.write_eof()


class Connection:
    """A connection that carries one request after the other.

    Reads end at a deadline, and after `end_deadline` when nothing has come for a while.
    """

    def __init__(self, transport: Transport, deadline: float) -> None:
        """Own the transport: `close` ends it."""
        self.transport = transport
        # By time.monotonic().
        self.opened_at = time.monotonic()
        # Whether its TLS session was remembered.
        self.has_told_session = False
        self._stream = _Stream(transport, deadline)
        # One reader for all responses, since it may have read more than the response that is being read.
        self._reader = _Reader(self._stream)

    def set_deadline(self, deadline: float) -> None:
        """Let each call fail that has not ended by the deadline."""
        self._stream.deadline = deadline

    def end_deadline(self, read_timeout: float) -> None:
        """Drop the deadline; from now on, a read fails if nothing comes for `read_timeout` seconds."""
        self._stream.deadline = None
        self._stream.read_timeout = read_timeout
        # The socket remembers it, whereas setting it before each read would be one system call more.
        self.transport.settimeout(read_timeout)

    def send(self, data: bytes, first_byte_deadline: float | None = None) -> None:
        """Send all bytes of a request, whose response begins by the earlier deadline if there is one."""
        self._stream.has_received = False
        self._stream.bytes_left = MAX_HEAD_BYTES
        self._stream.first_byte_deadline = first_byte_deadline
        self._stream.limit()
        self.transport.sendall(data)

    def begin_read(self, size: int) -> None:
        """Limit what one read of at most `size` bytes of a body may take, with what it reads besides them.

        A server could otherwise send trailers, or the size of a chunk, without an end.
        """
        self._stream.bytes_left = size + MAX_HEAD_BYTES
        self._stream.read_until = time.monotonic() + self._stream.read_timeout

    def limit_acknowledgement(self, seconds: float) -> None:
        """Let the connection fail if bytes that were sent are not acknowledged within this time.

        A proxy acknowledges everything at once, so this finds nothing out about a server behind it.
        """
        transport = self.transport
        while isinstance(transport, Tls):
            transport = transport.outer
        if isinstance(transport, socket.socket):
            transport.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(seconds * 1000)))

    @property
    def has_received(self) -> bool:
        """Whether anything has come since the last request was sent."""
        return self._stream.has_received

    def is_quiet(self) -> bool:
        """Return whether the server has neither closed the connection nor sent anything that was not requested.

        What TLS itself sends between two responses, such as session tickets, is processed here.
        """
        if self._holds_unread_bytes():
            return False
        self.transport.settimeout(0.0)
        try:
            self.transport.recv_into(memoryview(bytearray(1)))
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """End the connection."""
        self.transport.close()

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return the file that http.client reads. Closing it leaves the connection open for the next response."""
        return self._reader

    def _holds_unread_bytes(self) -> bool:
        self._stream.is_paused = True
        try:
            return bool(self._reader.peek())
        finally:
            self._stream.is_paused = False


class _Stream(io.RawIOBase):
    """The bytes that a transport receives, as a file."""

    def __init__(self, transport: Transport, deadline: float) -> None:
        self.deadline: float | None = deadline
        self.first_byte_deadline: float | None = None
        self.has_received = False
        # How many more bytes the head of an answer or one read of its body may take.
        self.bytes_left = MAX_HEAD_BYTES
        # Without a deadline, no more is waited for within one read of a body after this time.
        self.read_timeout = self.read_until = math.inf
        # While it is set, there is nothing to read.
        self.is_paused = False
        self._transport = transport

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int | None:  # type: ignore[override] # BufferedReader passes a memoryview
        if self.is_paused:
            return None
        if self.deadline is not None:
            self.limit()
        elif time.monotonic() > self.read_until:
            raise TimeoutError
        count = self._transport.recv_into(buffer)
        if count:
            self.has_received = True
        self.bytes_left -= count
        if self.bytes_left < 0:
            message = f"more than {MAX_HEAD_BYTES} bytes are not content"
            raise http.client.HTTPException(message)
        return count

    def limit(self) -> None:
        """Give the next call of the transport the time that is left."""
        deadline = self.deadline or 0.0
        if self.first_byte_deadline is not None and not self.has_received:
            deadline = min(deadline, self.first_byte_deadline)
        self._transport.settimeout(seconds_left(deadline))


class _Reader(io.BufferedReader):
    """The one reader of a connection. http.client closes it at the end of each body, which does nothing."""

    def close(self) -> None:
        """Stay open."""

    def flush(self) -> None:
        """Do nothing: http.client flushes what it closes, which may be long after the connection has been closed."""


def seconds_left(deadline: float) -> float:
    """Return the seconds until a deadline, which is a value of time.monotonic().

    Raises:
        TimeoutError: The deadline has passed.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
