"""The figures of the store, for metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections import Counter


class Statistics(NamedTuple):
    """The state of the store; all sizes are in bytes."""

    stored_bytes: int
    blobs: int
    """All blobs, including manifests."""
    manifests: int
    tags: int
    usable_bytes: int
    """The room that content may take."""
    free_bytes: int
    """The free room on the file system."""
    least_recent_use: float | None
    """The last use of the least recently used blob, in seconds since the epoch."""
    removed: Counter[str]
    """How many blobs were removed since the start, by reason."""
    refetched_bytes: int
    """How much was stored again since the start, after it had been evicted."""
    inaccessible_files: int
    """How many files and folders could not be read, written or removed."""
    high_water: float
    """The share of the usable bytes above which content is evicted."""
