"""Protects pulls from waiting for a source that is known to be unavailable.

The trouble of one repository stays with it: only if there is no connection to the source, or if several repositories
get no answer from it and no other one gets any, the source is unavailable for all of them.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from common.recent import RecentDict

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
# Without an answer to so many repositories one after the other, the source is unavailable for all.
SEVERAL_REPOSITORIES = 3
# The repositories that are remembered because the source is unavailable for them.
MAX_REPOSITORIES = 1024
# Problems of a single answer, which do not make the source unavailable.
SINGLE_ANSWER_KINDS = frozenset({Kind.CLIENT_ERROR, Kind.SERVER_ERROR, Kind.MALFORMED, Kind.REDIRECTS})
# Other problems are noticed at once if they take no longer than this. The rest of a body is requested nevertheless: a
# fetch pauses between its attempts, and it loses its clients if an upstream that restarts is not asked again for five
# seconds.
IMMEDIATE_SECONDS = 1.0
WAITING_KINDS = frozenset({Kind.TIMEOUT, Kind.DNS, Kind.TOO_MANY})


class _Pause(NamedTuple):
    """Why something is not asked, and until when."""

    problem: Unavailable
    until: float
    may_resume: bool


class AvailabilityGuard:
    """A source that is not asked for a while after it was unavailable."""

    def __init__(self, source: Source, name: str, log: Callable[[str], None], probe_type: str = "") -> None:
        """`name` is what the log calls the source.

        A request that accepts only `probe_type` shows how the source is, since it needs nobody else for its answer.
        """
        self._source = source
        self._name = name
        self._log = log
        self._probe_accept = (probe_type,)
        self._lock = threading.Lock()
        self._pause: _Pause | None = None
        self._pauses: RecentDict[str, _Pause] = RecentDict(MAX_REPOSITORIES)
        # The repositories that got no answer since any other one got one.
        self._unanswered: set[str] = set()

    def open(self, method: str, reference: Reference, *, timeout: float, **options: Unpack[Options]) -> Answer:
        """Request as `Client.open` does, or raise at once what was raised a few seconds ago.

        A request for the rest of a body is also made if the source failed at once the last time.
        """
        repository = reference.repository
        started = time.monotonic()
        with self._lock:
            for pause in (self._pause, self._pauses.get(repository)):
                if pause and started < pause.until and not (options.get("offset") and pause.may_resume):
                    raise Unavailable(pause.problem.kind, str(pause.problem))
        try:
            answer = self._source.open(method, reference, timeout=timeout, **options)
        except Unavailable as error:
            is_probe = tuple(options.get("accept", ())) == self._probe_accept
            self._note_problem(repository, error, time.monotonic() - started, is_probe=is_probe)
            raise
        except (NotFound, Denied):
            self._note_answer(repository)
            raise
        self._note_answer(repository)
        return answer

    @property
    def is_away(self) -> bool:
        """Whether the source was unavailable for all repositories when it was asked last."""
        with self._lock:
            return self._pause is not None

    def _note_problem(self, repository: str, problem: Unavailable, seconds: float, *, is_probe: bool) -> None:
        is_immediate = problem.kind not in WAITING_KINDS and seconds < IMMEDIATE_SECONDS
        if problem.kind in SINGLE_ANSWER_KINDS and problem.retry_after is None:
            if not problem.is_elsewhere:
                self._note_answer(repository)
            return
        if problem.is_elsewhere and is_immediate and problem.retry_after is None:
            # It costs the next request nothing to find out again.
            return
        pause_seconds = min(max(problem.retry_after or 0.0, PAUSE_SECONDS), MAX_PAUSE_SECONDS)
        pause = _Pause(problem, time.monotonic() + pause_seconds, is_immediate and problem.retry_after is None)
        with self._lock:
            is_new = repository not in self._pauses
            self._pauses[repository] = pause
            if not problem.is_elsewhere:
                self._unanswered.add(repository)
            is_away = not problem.is_elsewhere and (
                problem.is_connecting or is_probe or len(self._unanswered) >= SEVERAL_REPOSITORIES
            )
            was_away = self._pause is not None
            if is_away:
                # This is about no repository, and one that comes back is not to be kept waiting.
                self._pause = pause
                self._pauses.clear()
                self._unanswered.clear()
        if is_away and not was_away:
            self._log(f"{self._name} is unavailable, serving what is cached: {problem}")
        elif is_new and not is_away:
            self._log(f"{self._name} is unavailable for {repository}, serving what is cached: {problem}")

    def _note_answer(self, repository: str) -> None:
        with self._lock:
            was_away, self._pause = self._pause is not None, None
            was_paused = self._pauses.pop(repository, None) is not None
            self._unanswered.clear()
        if was_away:
            self._log(f"{self._name} is available again")
        elif was_paused:
            self._log(f"{self._name} is available again for {repository}")
