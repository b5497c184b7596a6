"""Time that passed by the clock and that the program did not see pass, so that it is no time without use.

A clock that jumps forward, after it was set or the machine was suspended, would let everything expire at once. So would
a clock that is wrong when the program starts. A file tells when the program before this one was there last.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# The time of the file is set no more often than this.
INTERVAL_SECONDS = 60.0


class UnseenTime:
    """Finds time that nobody saw pass."""

    def __init__(self, path: Path, monotonic: Callable[[], float]) -> None:
        """Use the time of the file `path`, unless it does not exist, and a clock that does not jump."""
        self._path = path
        self._monotonic = monotonic
        self._last: tuple[float, float] | None = None
        self._recorded = float("-inf")

    def start(self) -> None:
        """Remember when the program before this one was there last."""
        with suppress(OSError):
            self._recorded = self._path.stat().st_mtime
            self._last = self._recorded, self._monotonic()

    def take(self, now: float) -> float:
        """Return the seconds up to `now` that nobody saw pass since the last call, or since the program before."""
        monotonic = self._monotonic()
        before, self._last = self._last, (now, monotonic)
        return 0.0 if before is None else (now - before[0]) - (monotonic - before[1])

    def record(self, now: float) -> None:
        """Record that the program is there."""
        if abs(now - self._recorded) >= INTERVAL_SECONDS:
            self._recorded = now
            with suppress(OSError):
                os.utime(self._path, (now, now))
