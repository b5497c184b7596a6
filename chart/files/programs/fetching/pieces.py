"""Saves CPU time for bodies that come slowly, and so in small pieces, each of which costs as much as a large one."""

from __future__ import annotations

import time

# The most that a connection holds in memory.
CHUNK_BYTES = 1 << 18
# After a piece that is smaller than this, so long is waited for more.
SMALL_BYTES = 1 << 15
COLLECT_SECONDS = 0.005
# At a higher rate, the receive buffer could be full by then.
MAX_BYTES_PER_SECOND = 30_000_000
# How long a rate is measured.
PERIOD_SECONDS = 0.1


class Pieces:
    """The pieces of one body."""

    def __init__(self) -> None:
        """Measure from now on."""
        self._since = time.monotonic()
        self._bytes = 0
        self._is_slow = False

    def collect_more(self, received: int) -> None:
        """Wait a moment, if a piece of `received` bytes is small and the body comes slowly."""
        self._bytes += received
        now = time.monotonic()
        if (elapsed := now - self._since) >= PERIOD_SECONDS:
            self._is_slow = self._bytes < MAX_BYTES_PER_SECOND * elapsed
            self._since, self._bytes = now, 0
        if self._is_slow and received < SMALL_BYTES:
            time.sleep(COLLECT_SECONDS)
