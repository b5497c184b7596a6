"""Protects pulls from waiting for a source that is known to be unavailable."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from upstream.errors import Denied, Kind, NotFound, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Unpack

    from upstream.client import Answer
    from upstream.reference import Reference
    from upstream.source import Options, Source

# How long an unavailable source is not asked again, unless it asks for a longer pause, up to MAX_PAUSE_SECONDS.
PAUSE_SECONDS = 5.0
MAX_PAUSE_SECONDS = 60.0
# Problems of a single answer, which do not make the source unavailable.
SINGLE_ANSWER_KINDS = frozenset({Kind.CLIENT_ERROR, Kind.SERVER_ERROR, Kind.MALFORMED, Kind.REDIRECTS})
# Problems that are noticed at once. The rest of a body is requested nevertheless: a fetch pauses between its attempts,
# and it loses its clients if an upstream that restarts is not asked again for five seconds.
IMMEDIATE_KINDS = frozenset({Kind.REFUSED, Kind.RESET})


class AvailabilityGuard:
    """A source that is not asked for a while after it was unavailable."""

    def __init__(self, source: Source, name: str, log: Callable[[str], None]) -> None:
        """`name` is what the log calls the source."""
        self._source = source
        self._name = name
        self._log = log
        self._lock = threading.Lock()
        self._problem: Unavailable | None = None
        self._paused_until = 0.0

    def open(self, method: str, reference: Reference, *, timeout: float, **options: Unpack[Options]) -> Answer:
        """Request as `Client.open` does, or raise at once what was raised a few seconds ago.

        A request for the rest of a body is also made if the source failed at once the last time.
        """
        with self._lock:
            problem = self._problem
            if problem is not None and time.monotonic() < self._paused_until:
                may_resume = problem.kind in IMMEDIATE_KINDS and problem.retry_after is None
                if not options.get("offset") or not may_resume:
                    raise Unavailable(problem.kind, str(problem))
        try:
            answer = self._source.open(method, reference, timeout=timeout, **options)
        except Unavailable as error:
            if error.kind not in SINGLE_ANSWER_KINDS or error.retry_after is not None:
                self._note_unavailable(error)
            else:
                self._note_available()
            raise
        except (NotFound, Denied):
            self._note_available()
            raise
        self._note_available()
        return answer

    @property
    def is_away(self) -> bool:
        """Whether the source was unavailable when it was asked last."""
        with self._lock:
            return self._problem is not None

    def _note_unavailable(self, problem: Unavailable) -> None:
        pause_seconds = max(problem.retry_after or 0.0, PAUSE_SECONDS)
        with self._lock:
            is_new = self._problem is None
            self._problem = problem
            self._paused_until = time.monotonic() + min(pause_seconds, MAX_PAUSE_SECONDS)
        if is_new:
            self._log(f"{self._name} is unavailable, serving what is cached: {problem}")

    def _note_available(self) -> None:
        with self._lock:
            previous, self._problem = self._problem, None
        if previous is not None:
            self._log(f"{self._name} is available again")
