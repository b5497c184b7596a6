"""Finds out whether a second connection to the upstream adds to the speed of the first one.

A false "yes" makes a pull slower: on a line that is itself the limit, connections take their bytes from each other, and
a client gets the first ones later. So a second connection is tried only while the rate of the first one is low and
steady, and it has to be clear that the first one does not lose what the second one gets.
"""

from __future__ import annotations

from collections import deque

# The first connection is observed for two periods of this length.
PERIOD_SECONDS = 1.0
# A rate is steady if it changes by this factor at most from one period to the next. Some upstreams send much at once,
# and then nothing until the average is right.
MAX_CHANGE = 1.25
# A connection that is as fast as this is no obstacle.
FAST_BYTES_PER_SECOND = 60_000_000
# No trial if a blob is nearly there.
MIN_REMAINING_SECONDS = 2.0
MIN_REMAINING_BYTES = 32 << 20
# How far before the first connection the range of the trial starts. Some upstreams send at once what a second allows.
AHEAD_SECONDS = 1.25
# The range of the trial, which the first connection receives again if the trial fails. Its first part does not count,
# since a connection starts slowly.
TRIAL_BYTES = 3 << 20
WARM_UP_BYTES = 2 << 20
# The trial succeeds if the second connection alone is this much faster than the first one was, which some upstreams
# limit only after a while.
CLEAR_GAIN = 2.0
# It also succeeds if both together are this much faster, and the first one keeps this share of its rate.
MIN_GAIN = 1.3
MIN_KEPT = 0.8


class Trial:
    """The rates of the first connection before and during the trial, and that of the second one."""

    def __init__(self) -> None:
        """Observe the first connection from now on."""
        self.is_running = False
        self.has_succeeded = False
        self._is_over = False
        self._observed: deque[tuple[float, int]] = deque()
        self._rate = 0.0
        self._begun = 0.0, 0
        self._warm_at: float | None = None
        self._end_at: float | None = None

    def is_due(self, now: float, written: int, size: int) -> bool:
        """Take note of how far the first connection is, and return whether the second one should start."""
        if self.is_running or self._is_over:
            return False
        self._observed.append((now, written))
        while len(self._observed) > 1 and now - self._observed[1][0] >= 2 * PERIOD_SECONDS:
            self._observed.popleft()
        if now - self._observed[0][0] < 2 * PERIOD_SECONDS:
            return False
        middle = next(each for each in self._observed if now - each[0] <= PERIOD_SECONDS)
        before, self._rate = _rate(self._observed[0], middle), _rate(middle, (now, written))
        is_steady = 0 < before / MAX_CHANGE <= self._rate <= before * MAX_CHANGE
        if self._rate >= FAST_BYTES_PER_SECOND or not is_steady:
            return False
        self._is_over = size - written < max(MIN_REMAINING_BYTES, self._rate * MIN_REMAINING_SECONDS)
        return not self._is_over

    def begin(self) -> int:
        """Return where the range of the trial starts: where the first connection will not be for a while."""
        self.is_running = True
        self._begun = self._observed[-1]
        return self._begun[1] + max(3 * TRIAL_BYTES, int(self._rate * AHEAD_SECONDS))

    def observe_second(self, now: float, received: int) -> None:
        """Take note of how many bytes of the trial's range have come."""
        if self._warm_at is None and received >= WARM_UP_BYTES:
            self._warm_at = now
        if self._end_at is None and received >= TRIAL_BYTES:
            self._end_at = now

    def decide(self, now: float, written: int) -> None:
        """Decide, if the trial's range is there; the first connection is at `written` bytes."""
        if not self.is_running or self._warm_at is None or self._end_at is None:
            return
        self.is_running, self._is_over = False, True
        second = (TRIAL_BYTES - WARM_UP_BYTES) / max(self._end_at - self._warm_at, 1e-6)
        first = _rate(self._begun, (now, written))
        is_kept = first >= self._rate * MIN_KEPT
        self.has_succeeded = second >= self._rate * CLEAR_GAIN or (is_kept and first + second >= self._rate * MIN_GAIN)

    def give_up(self) -> None:
        """End without success."""
        self.is_running, self._is_over = False, True


def _rate(first: tuple[float, int], last: tuple[float, int]) -> float:
    """Return the bytes per second between two observations."""
    return (last[1] - first[1]) / max(last[0] - first[0], 1e-6)
