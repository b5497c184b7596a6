"""Notices when a node requests the same blob again, which it does if it found the content wrong."""

from __future__ import annotations

import threading
import time

from common.recent import RecentDict

# The kubelet retries a pull after five minutes at the latest (pkg/kubelet/images, MaxContainerBackOff).
REPEAT_WINDOW_SECONDS = 600.0
# The latest pairs of a node and a blob that are remembered, at about 200 bytes each.
MAX_REMEMBERED_REQUESTS = 50_000


class Repeats:
    """The recent requests for whole blobs."""

    def __init__(self) -> None:
        """Remember no request yet."""
        self._lock = threading.Lock()
        self._requested_at: RecentDict[tuple[str, str], float] = RecentDict(MAX_REMEMBERED_REQUESTS)
        self._reported_at: dict[str, float] = {}

    def is_repeat(self, client: str, digest: str) -> bool:
        """Remember a request, and return whether it is the second one of this client for this blob.

        Each blob is reported at most once within the window, whichever client repeats its request.
        """
        now = time.monotonic()
        with self._lock:
            previous = self._requested_at.get((client, digest))
            self._requested_at[client, digest] = now
            # The oldest report comes first.
            while self._reported_at and (
                len(self._reported_at) > MAX_REMEMBERED_REQUESTS
                or now - next(iter(self._reported_at.values())) >= REPEAT_WINDOW_SECONDS
            ):
                del self._reported_at[next(iter(self._reported_at))]
            if previous is None or now - previous >= REPEAT_WINDOW_SECONDS or digest in self._reported_at:
                return False
            self._reported_at[digest] = now
            return True
