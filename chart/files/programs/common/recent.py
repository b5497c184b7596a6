"""A bounded memory of what happened last."""

from __future__ import annotations

from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class RecentDict(dict[Key, Value]):
    """A dictionary with a limited number of entries, which forgets the one that was set least recently.

    Its entries are in the order in which they were set, the oldest one first. It has no lock.
    """

    def __init__(self, limit: int) -> None:
        """Start empty, and keep at most `limit` entries."""
        super().__init__()
        self._limit = limit

    def __setitem__(self, key: Key, value: Value) -> None:
        """Set an entry, which becomes the last one."""
        self.pop(key, None)
        super().__setitem__(key, value)
        if len(self) > self._limit:
            del self[next(iter(self))]
