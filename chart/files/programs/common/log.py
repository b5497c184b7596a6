"""The log of a program, which is its standard output."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING

from common.recent import RecentDict

if TYPE_CHECKING:
    from collections.abc import Callable


class SeldomLog:
    """Logs lines, and those of one topic only once in a while, for many threads at once."""

    def __init__(self, log: Callable[[str], None], interval_seconds: float, max_topics: int) -> None:
        """Pass lines on to `log`; of more topics, the one that was logged least recently is forgotten."""
        self._log = log
        self._interval_seconds = interval_seconds
        self._lock = threading.Lock()
        self._logged_at: RecentDict[str, float] = RecentDict(max_topics)

    def log(self, topic: str, line: str) -> None:
        """Log a line, unless one of the same topic was logged within the interval."""
        now = time.monotonic()
        with self._lock:
            logged_at = self._logged_at.get(topic)
            if logged_at is not None and now - logged_at < self._interval_seconds:
                return
            self._logged_at[topic] = now
        self._log(line)


class ProblemLog:
    """Logs what does not work when it begins or changes, and not each time that it is tried again.

    One thread at a time may call it.
    """

    def __init__(self, log: Callable[[str], None]) -> None:
        """Pass lines on to `log`."""
        self._log = log
        self._last = ""

    def note(self, problem: str) -> None:
        """Take the problem of the latest try, or "" if it worked."""
        if problem not in ("", self._last):
            self._log(problem)
        self._last = problem


def log(line: str) -> None:
    """Write a line to the log, in one piece even if several threads write at the same time."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def describe_oserror(error: OSError) -> str:
    """Return the system's words for an error, followed by the path that it is about, if there is one."""
    reason = error.strerror or str(error)
    return f"{reason}: {error.filename}" if error.filename else reason
