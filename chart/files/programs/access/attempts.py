"""Counts the credentials that each client shows, so that no client has the upstream asked without end."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from common.recent import RecentDict

WINDOW_SECONDS = 60.0
# About so many credentials of one address the upstream is asked in a minute, and so many of them it may refuse. All
# nodes may have the same address. What is above that, they pull from the upstream.
MAX_ASKED = 1200
MAX_REFUSALS = 60
MAX_CLIENTS = 4096


@dataclass
class _Window:
    """What a client showed since a moment."""

    begun: float
    asked: int = 0
    refused: int = 0


class Attempts:
    """The credentials that clients showed in the last minute, for many threads at once."""

    def __init__(self) -> None:
        """Start without any."""
        self._lock = threading.Lock()
        self._windows: RecentDict[str, _Window] = RecentDict(MAX_CLIENTS)

    def take(self, client: str) -> bool:
        """Count one more of a client, and return whether the upstream may be asked about it."""
        with self._lock:
            window = self._window(client)
            if window.asked >= MAX_ASKED or window.refused >= MAX_REFUSALS:
                return False
            window.asked += 1
            return True

    def note_refusal(self, client: str) -> None:
        """Count what the upstream refused."""
        with self._lock:
            self._window(client).refused += 1

    def _window(self, client: str) -> _Window:
        now = time.monotonic()
        window = self._windows.get(client)
        if window is None or now - window.begun >= WINDOW_SECONDS:
            window = self._windows[client] = _Window(now)
        return window
