"""Says what a client is told when its request is refused.

Messages to clients name no server: they would tell anyone in the cluster which addresses the upstream redirects to, and
what these answer. The log has the details.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from common.log import SeldomLog
from fetching.fair_slots import Overloaded
from store.store import NoRoom, WrongContent
from upstream.errors import Denied, NotFound, Unavailable

from gate.metrics import CONTENT, DENIED, NO_ROOM, NOT_FOUND, OVERLOAD, VOLUME

if TYPE_CHECKING:
    from collections.abc import Callable

    from fetching.fetch import Failure

# A message is logged again after this time, and this many are remembered.
LOG_INTERVAL_SECONDS = 60.0
MAX_LOGGED_MESSAGES = 256


class Refusal(NamedTuple):
    """An answer with an error status."""

    status: int
    code: str
    """The code of the OCI distribution spec."""
    message: str
    reason: str = ""
    """What the metrics call the reason, or "" if they do not count it."""


def refusal_for(problem: Failure | Overloaded, kind: str) -> Refusal:
    """Return the answer to a request for a blob or manifest that failed.

    It never has the status 429, after which containerd would repeat the request five times at once
    (core/remotes/docker/resolver.go).
    """
    match problem:
        case NotFound():
            refusal = Refusal(404, f"{kind.upper()}_UNKNOWN", f"the upstream does not have the {kind}", NOT_FOUND)
        case Denied():
            refusal = Refusal(403, "DENIED", "the upstream refuses access", DENIED)
        case Unavailable():
            message = f"the upstream gave no usable answer ({problem.kind}); the log of the gate says more"
            refusal = Refusal(503, "UNAVAILABLE", message, problem.kind)
        case Overloaded():
            refusal = Refusal(503, "UNAVAILABLE", f"the cache is busy: {problem}", OVERLOAD)
        case WrongContent():
            message = "the upstream sent something else than was requested"
            refusal = Refusal(503, "UNAVAILABLE", message, CONTENT)
        case NoRoom():
            refusal = Refusal(503, "UNAVAILABLE", f"the volume has no room for the {kind}", NO_ROOM)
        case _:
            refusal = Refusal(503, "UNAVAILABLE", "the volume cannot be used; the log of the gate says more", VOLUME)
    return refusal


class RefusalLog:
    """Logs why requests were refused, each message once in a while."""

    def __init__(self, log: Callable[[str], None]) -> None:
        """Pass messages on to `log`."""
        self._seldom_log = SeldomLog(log, LOG_INTERVAL_SECONDS, MAX_LOGGED_MESSAGES)

    def note(self, problem: Failure | Overloaded) -> None:
        """Log a problem, unless it only means that the upstream does not have something."""
        if not isinstance(problem, NotFound):
            message = f"refused a request: {problem}"
            self._seldom_log.log(message, message)
