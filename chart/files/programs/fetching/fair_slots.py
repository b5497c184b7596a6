"""Limits how much goes on at once, so that one client cannot take everything that the others need."""

from __future__ import annotations

import threading
from collections import Counter


class Overloaded(Exception):
    """Too much goes on already; the client may try again later."""


class FairSlots:
    """A number of slots, of which a client may take one more only if it has fewer than are free.

    So one client gets half of them at most, a second one a quarter, and some are always left for a client that has
    none. No number for each client has to be chosen: many nodes may be behind one address, and it gets half too.
    """

    def __init__(self, capacity: int) -> None:
        """All slots are free."""
        self._capacity = capacity
        self._lock = threading.Lock()
        self._taken_by: Counter[str] = Counter()
        self._taken = 0

    @property
    def taken(self) -> int:
        """The number of slots that are taken."""
        return self._taken

    def take(self, client: str) -> bool:
        """Take a slot, and return whether that was possible."""
        with self._lock:
            if self._taken_by[client] >= self._capacity - self._taken:
                if not self._taken_by[client]:
                    del self._taken_by[client]
                return False
            self._taken_by[client] += 1
            self._taken += 1
            return True

    def release(self, client: str) -> None:
        """Release a slot that was taken."""
        with self._lock:
            self._taken -= 1
            self._taken_by[client] -= 1
            if not self._taken_by[client]:
                del self._taken_by[client]
