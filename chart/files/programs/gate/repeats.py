"""Who asks for the same blob again: a node that pulls it once more after a while found its content wrong, as a rule."""

from __future__ import annotations

import threading
import time

# Seconds: the kubelet tries a pull again after five minutes at the latest (pkg/kubelet/images, MaxContainerBackOff).
REPEATED = 600.0
# So many pairs of a node and a blob are remembered, the latest ones: about 200 bytes each.
REMEMBERED = 50_000


class Repeats:
    """The whole blobs that were asked for lately."""

    def __init__(self) -> None:
        """None yet."""
        self._lock = threading.Lock()
        self._asked: dict[tuple[str, str], float] = {}
        self._told: dict[str, float] = {}

    def is_one(self, client: str, digest: str) -> bool:
        """Whether a client asked for a blob before, and nobody was told so of this blob lately."""
        now = time.monotonic()
        with self._lock:
            before = self._asked.pop((client, digest), None)
            self._asked[client, digest] = now
            if len(self._asked) > REMEMBERED:
                del self._asked[next(iter(self._asked))]
            self._told = {name: at for name, at in self._told.items() if now - at < REPEATED}
            if before is None or now - before >= REPEATED or digest in self._told:
                return False
            self._told[digest] = now
            return True
