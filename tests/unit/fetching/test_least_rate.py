"""A blob that comes too slowly gives its room and its turn back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

import pytest
from fetching import download, least_rate
from fetching.fetches import Fetches
from fetching.least_rate import LeastRate, TooSlow
from made_sources import Asked, MadeAnswer, MadeSource, cut
from made_stores import is_empty
from store.store import Store
from upstream.errors import Kind, Unavailable
from upstream.reference import BLOB, Reference
from upstreams.oci import digest

if TYPE_CHECKING:
    from pathlib import Path

    from upstream.source import Source

TIMEOUT_SECONDS = 30.0
SIZE = 60 << 20


class Drip(MadeAnswer):
    """The body of an upstream that sends a byte now and then, and breaks off after `count` of them."""

    def __init__(self, asked: Asked, count: int) -> None:
        """Begin where the client asks."""
        super().__init__([], SIZE - asked.offset, asked.offset)
        self.left = count

    def read(self, _size: int) -> bytes:
        if not self.left:
            raise cut()
        self.left -= 1
        time.sleep(0.01)  # it is slow
        return b"x"


class Clock:
    """Replaces time.monotonic."""

    def __init__(self) -> None:
        """Begin at 0."""
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def test_rate_is_that_of_each_period(clock: Clock) -> None:
    rate = LeastRate()
    for _ in range(3):
        rate.add(least_rate.MIN_BYTES_PER_SECOND * 60)
        clock.now += 60
        rate.add(0)
    clock.now += 59
    rate.add(12)
    clock.now += 1
    with pytest.raises(TooSlow, match=r"^the upstream sent only 12 bytes within 60 s$"):
        rate.add(0)


@pytest.mark.parametrize("count", [10**9, 5], ids=["one response", "a response for each few bytes"])
def test_dripping_blob_gives_its_room_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, count: int) -> None:
    """Each byte that is new made the fetch go on, so that it kept the room for 60 MiB for hours."""
    monkeypatch.setattr(least_rate, "PERIOD_SECONDS", 0.3)
    monkeypatch.setattr(download, "RESUME_PAUSES_SECONDS", (0.01,))
    store = Store(tmp_path, 64 << 20)
    store.load()
    source = MadeSource(lambda asked: Drip(asked, count))
    fetches = Fetches(store, cast("Source", source), print)
    fetch, _ = fetches.get(Reference(BLOB, "a/b", digest(b"")))
    assert fetch.wait_for_end(TIMEOUT_SECONDS)
    assert isinstance(fetch.failure, Unavailable)
    assert fetch.failure.kind == Kind.TIMEOUT
    assert "the upstream sent only" in str(fetch.failure)
    assert fetches.count() == 0
    assert is_empty(tmp_path)
    store.begin_blob(digest(b"1"), SIZE).abandon()
