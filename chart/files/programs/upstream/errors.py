"""Why a server gave no useful answer."""

from __future__ import annotations

import http.client
import ssl
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Kind(StrEnum):
    """Why there is no answer, in one word."""

    DNS = "dns"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    TLS = "tls"
    # The connection ended before the head of the answer was complete.
    RESET = "reset"
    PROXY = "proxy"
    # The connection ended in the middle of a body.
    CUT = "cut"
    MALFORMED = "malformed"
    REDIRECTS = "redirects"
    # Statuses: 429, others from 400 that mean nothing special here, and those from 500.
    TOO_MANY = "429"
    CLIENT_ERROR = "4xx"
    SERVER_ERROR = "5xx"


# Problems with reaching a server at all, whatever is requested from it.
CONNECTION_KINDS = frozenset({Kind.DNS, Kind.REFUSED, Kind.UNREACHABLE, Kind.TLS, Kind.PROXY})
# After these answers to HEAD, GET is worth a try. After others, the upstream cannot be asked now.
WRONG_HEAD_KINDS = frozenset({Kind.CLIENT_ERROR, Kind.SERVER_ERROR, Kind.MALFORMED, Kind.REDIRECTS, Kind.RESET})


class Unavailable(Exception):
    """There is no useful answer; the message says what went wrong, and never contains a secret."""

    def __init__(self, kind: str, message: str, retry_after: float | None = None) -> None:
        """`kind` is a Kind; `retry_after` is the number of seconds that the server asks us to wait."""
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.retry_after = retry_after
        # Whether there was no connection to the server, so that the problem does not depend on what is requested.
        self.is_connecting = kind in CONNECTION_KINDS
        # Whether it is a problem of a token server or of a server that the upstream redirects to.
        self.is_elsewhere = False

    @property
    def may_concern_head_alone(self) -> bool:
        """Whether GET is worth a try if this came of HEAD, which some servers answer wrongly."""
        return self.kind in WRONG_HEAD_KINDS and self.retry_after is None

    def during(self, activity: str) -> Unavailable:
        """Return the same problem with a message that begins with what it prevents."""
        problem = Unavailable(self.kind, f"{activity}: {self.message}", self.retry_after)
        problem.is_connecting, problem.is_elsewhere = self.is_connecting, self.is_elsewhere
        return problem


class NotFound(Exception):
    """The upstream says that it does not have the blob or manifest."""

    def __init__(self, message: str = "", *, is_certain: bool = True) -> None:
        """`is_certain` says that the upstream knew who asked: some say this of what they do not let everyone see."""
        super().__init__(message)
        self.is_certain = is_certain


class Denied(Exception):
    """The upstream refuses access, with the credentials and without them."""

    def __init__(self, message: str = "", status: int = 403) -> None:
        """`status` is 401 if other credentials might help, or 403."""
        super().__init__(message)
        self.status = status


@contextmanager
def translate_errors(server: str) -> Iterator[None]:
    """Raise Unavailable, with a message about the server, for errors of a connection to it."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise Unavailable(Kind.TLS, f"the certificate of {server} is not accepted: {error.verify_message}") from None
    except ssl.SSLEOFError:
        raise Unavailable(Kind.RESET, f"{server} closed the connection before it answered") from None
    except ssl.SSLError as error:
        raise Unavailable(Kind.TLS, f"TLS with {server} failed: {error.reason or error.strerror}") from None
    except TimeoutError:
        raise Unavailable(Kind.TIMEOUT, f"{server} did not answer in time") from None
    except ConnectionRefusedError:
        raise Unavailable(Kind.REFUSED, f"{server} refused the connection") from None
    except ConnectionError:
        raise Unavailable(Kind.RESET, f"{server} closed the connection before it answered") from None
    except http.client.HTTPException:
        raise Unavailable(Kind.MALFORMED, f"the answer of {server} is not HTTP") from None
    except OSError as error:
        raise Unavailable(Kind.UNREACHABLE, f"{server} cannot be reached: {error.strerror or error}") from None
