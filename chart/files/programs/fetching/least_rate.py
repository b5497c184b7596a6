"""Ends what comes so slowly that it would keep its room and its turn for hours."""

from __future__ import annotations

import time

from upstream.errors import Kind, Unavailable

# The least that has to come in each period: less than what the slowest lines carry, shared by many fetches.
PERIOD_SECONDS = 60.0
MIN_BYTES_PER_SECOND = 4096


class TooSlow(Unavailable):
    """The upstream sends too slowly; to request the rest would not help."""


class LeastRate:
    """The rate of one body, in all of its responses."""

    def __init__(self) -> None:
        """Measure from now on."""
        self._since = time.monotonic()
        self._bytes = 0

    def add(self, count: int) -> None:
        """Note that `count` bytes have come; 0 only checks the time.

        Raises:
            TooSlow: Less than the least rate has come over a period.
        """
        self._bytes += count
        elapsed = time.monotonic() - self._since
        if elapsed < PERIOD_SECONDS:
            return
        if self._bytes < MIN_BYTES_PER_SECOND * elapsed:
            message = f"the upstream sent only {self._bytes} bytes within {elapsed:.0f} s"
            raise TooSlow(Kind.TIMEOUT, message)
        self._since, self._bytes = time.monotonic(), 0
