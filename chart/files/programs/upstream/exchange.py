"""A request to the upstream, and the reply to it."""

from __future__ import annotations

import http
import time
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse
from typing import TYPE_CHECKING, NamedTuple, Protocol

from upstream.errors import Kind, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from email.message import Message

    from upstream.transport import Connection
    from upstream.urls import Url

# The rest of a body that nobody needs is read if that is cheaper than another connection.
MAX_DISCARDED_BYTES = 64 * 1024
MAX_DISCARD_SECONDS = 0.25
# As http.client writes it.
HTTP_1_1 = 11


class Request(NamedTuple):
    """A request as it is sent at first; `label` is what metrics count it as.

    `has_digest` says that the answer will be compared with a digest. A body is sent to the server of `url` alone.
    """

    method: str
    label: str
    url: Url
    headers: Mapping[str, str]
    deadline: float
    has_digest: bool = False
    body: bytes = b""


class _Release(Protocol):
    def __call__(self, *, is_reusable: bool) -> None:
        """Take a connection back."""


class Reply:
    """An answer from the server at `url`: its head, and its body, which is read from the connection."""

    def __init__(self, url: Url, connection: Connection, response: HTTPResponse, release: _Release) -> None:
        """Take an answer whose head has been read; `release` gets the connection back when the answer is closed."""
        self.url = url
        self.status = response.status
        self.headers: Message = response.headers
        # The bytes of the body, 0 for HEAD; None if it comes in chunks or ends with the connection.
        self.length = response.length
        self.bytes_read = 0
        # Whether there should be credentials, and this is the answer to a request without them.
        self.is_anonymous = False
        self.has_ended = self.length == 0
        self._connection = connection
        self._response = response
        self._release = release
        self._is_closed = False

    @property
    def refuses_access(self) -> bool:
        """Whether authentication or authorization failed."""
        return self.status in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN)

    def read(self, size: int) -> bytes:
        """Wait for bytes of the body and return at most `size`; none means the end of the body or the connection.

        Raises:
            OSError, HTTPException: The body breaks off.
        """
        if self.length is not None:
            # http.client of Python 3.11 would wait for more if the server leaves the connection open.
            size = min(size, self.length - self.bytes_read)
        self._connection.begin_read(size)
        content = self._response.read1(size) if size else b""
        self.bytes_read += len(content)
        self.has_ended = not content if self.length is None else self.bytes_read == self.length
        return content

    def end_deadline(self, read_timeout: float) -> None:
        """Drop the deadline; from now on, a read fails if nothing comes for `read_timeout` seconds."""
        self._connection.end_deadline(read_timeout)

    def discard(self) -> None:
        """Read the rest of a short body, so that the connection can be reused, and close the answer."""
        if self._is_closed:
            return
        limit = self.bytes_read + MAX_DISCARDED_BYTES
        if _keeps_connection(self._response) and (self.length or 0) <= limit:
            self._connection.set_deadline(time.monotonic() + MAX_DISCARD_SECONDS)
            try:
                while not self.has_ended and self.bytes_read < limit:
                    if not self.read(MAX_DISCARDED_BYTES):
                        break
            except (OSError, HTTPException):
                pass
        self.close()

    def close(self) -> None:
        """End the connection, unless the body has been read to its end and the server keeps the connection open."""
        if not self._is_closed:
            self._is_closed = True
            self._response.close()
            self._release(is_reusable=self.has_ended and _keeps_connection(self._response))

    def unusable(self) -> Unavailable:
        """Return the error for an answer with a status that cannot be used."""
        outcome = outcome_of(self.status)
        is_known = outcome in (Kind.TOO_MANY, Kind.CLIENT_ERROR, Kind.SERVER_ERROR)
        message = f"{self.url.origin} answered {self.status}"
        return Unavailable(outcome if is_known else Kind.MALFORMED, message, self._retry_after_seconds())

    def _retry_after_seconds(self) -> float | None:
        """Return the wait that the server asks for (RFC 9110, section 10.2.3), by its own clock if it names a time."""
        text = self.headers.get("Retry-After", "").strip()
        if text.isascii() and text.isdecimal():
            return float(text)
        try:
            wait = parsedate_to_datetime(text) - parsedate_to_datetime(self.headers["Date"])
        except (TypeError, ValueError, OverflowError):
            return None
        return max(0.0, wait.total_seconds())


def outcome_of(status: int) -> str:
    """Return a status as one of the few outcomes that metrics distinguish."""
    if status in (401, 403, 404, 429):
        return str(status)
    return f"{status // 100}xx" if status // 100 in (2, 3, 4, 5) else "malformed"


def _keeps_connection(response: HTTPResponse) -> bool:
    """Return whether the next response can follow on the same connection (RFC 9112, sections 6.3 and 9.3)."""
    headers = response.headers
    options = ",".join(headers.get_all("Connection", [])).lower()
    # A body with both of them, or two lengths, may end elsewhere for a proxy than for this client.
    framing = [*headers.get_all("Content-Length", []), *headers.get_all("Transfer-Encoding", [])]
    return (
        response.version == HTTP_1_1
        and response.status != http.HTTPStatus.SWITCHING_PROTOCOLS
        and not response.will_close
        and "close" not in options
        and len(framing) <= 1
    )
