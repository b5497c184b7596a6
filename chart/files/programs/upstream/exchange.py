"""A request to the upstream, and the reply to it."""

from __future__ import annotations

import http
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, NamedTuple

from upstream.errors import Kind, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from email.message import Message
    from http.client import HTTPResponse

    from upstream.transport import Connection
    from upstream.urls import Url


class Request(NamedTuple):
    """A request as it is sent at first; `label` is what metrics count it as.

    `has_digest` says that the answer will be compared with a digest.
    """

    method: str
    label: str
    url: Url
    headers: Mapping[str, str]
    deadline: float
    has_digest: bool = False


class Reply(NamedTuple):
    """The head of an answer from the server at `url`, and the connection that its body comes from."""

    url: Url
    connection: Connection
    response: HTTPResponse

    @property
    def status(self) -> int:
        """The status code."""
        return self.response.status

    @property
    def headers(self) -> Message:
        """The headers."""
        return self.response.headers

    @property
    def refuses_access(self) -> bool:
        """Whether authentication or authorization failed."""
        return self.status in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN)

    def close(self) -> None:
        """End the connection."""
        self.response.close()
        self.connection.close()

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
