"""Large blobs come in ranges on several connections, if one connection is slower than the line."""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING, Self, cast

import pytest
from fetching import segments, trial
from fetching.fetches import Fetches
from made_sources import Asked, MadeAnswer, MadeSource, cut
from store.store import Store
from upstream.reference import BLOB, Reference
from upstreams.oci import digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from upstream.source import Source

TIMEOUT_SECONDS = 60.0
MIB = 1 << 20
CONTENT = random.Random(1).randbytes(12 * MIB)  # noqa: S311 - content, not a secret
CHUNK_BYTES = 128 << 10
RATE = 4 * MIB


class PacedAnswer(MadeAnswer):
    """A body that comes with the rate of its connection, or with a share of the rate of the line."""

    def __init__(self, content: bytes, offset: int, pace: Callable[[int], None], *, has_ranges: bool) -> None:
        """Send `content`, which begins at `offset` of the blob."""
        super().__init__([], len(content), offset)
        if has_ranges:
            self.headers["Accept-Ranges"] = "bytes"
        self._left = memoryview(content)
        self._pace = pace

    def close(self) -> None:
        self._left = memoryview(b"")

    def read(self, size: int) -> bytes:
        part = bytes(self._left[: min(size, CHUNK_BYTES)])
        self._left = self._left[len(part) :]
        self._pace(len(part))
        return part


class Line:
    """A line that all connections share, or one that limits each of them."""

    def __init__(self, bytes_per_second: float, *, shared: bool) -> None:
        """Let bytes pass at a rate."""
        self._rate = bytes_per_second
        self._lock = threading.Lock() if shared else None

    def send(self, count: int) -> None:
        if self._lock is None:
            time.sleep(count / self._rate)
            return
        with self._lock:
            time.sleep(count / self._rate)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    loaded = Store(tmp_path, 64 << 20)
    loaded.load()
    return loaded


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blobs of 12 MiB are large, and more connections always seem to help."""
    for module, name, value in (
        (trial, "PERIOD_SECONDS", 0.1),
        (trial, "MAX_CHANGE", 1000.0),
        (trial, "MIN_REMAINING_BYTES", 2 * MIB),
        (trial, "MIN_REMAINING_SECONDS", 0.5),
        (trial, "AHEAD_SECONDS", 0.25),
        (trial, "TRIAL_BYTES", MIB // 2),
        (trial, "WARM_UP_BYTES", MIB // 4),
        (trial, "CLEAR_GAIN", 0.0),
        (segments, "TRIAL_BYTES", MIB // 2),
        (segments, "SEGMENT_BYTES", MIB),
        (segments, "GROW_SECONDS", 0.2),
        (segments, "RETRY_PAUSE_SECONDS", 0.01),
    ):
        monkeypatch.setattr(module, name, value)


def fetch_all(store: Store, answer: Callable[[Asked], MadeAnswer]) -> list[Asked]:
    """Fetch the blob, check it, and return the requests."""
    source = MadeSource(answer)
    fetch, _ = Fetches(store, cast("Source", source), print).get(Reference(BLOB, "a/b", digest(CONTENT)))
    assert fetch.wait_for_end(TIMEOUT_SECONDS)
    assert fetch.failure is None
    assert store.blob_path(digest(CONTENT)).read_bytes() == CONTENT
    return source.asked


def answer_at(line: Line, *, has_ranges: bool = True) -> Callable[[Asked], MadeAnswer]:
    def answer(asked: Asked) -> MadeAnswer:
        end = len(CONTENT) if asked.last_byte is None else asked.last_byte + 1
        return PacedAnswer(CONTENT[asked.offset : end], asked.offset, line.send, has_ranges=has_ranges)

    return answer


def requested_bytes(asked: list[Asked]) -> int:
    return sum(one.last_byte - one.offset + 1 for one in asked if one.last_byte is not None)


def test_ranges_are_used_if_each_connection_is_limited(store: Store) -> None:
    asked = fetch_all(store, answer_at(Line(RATE, shared=False)))
    ranges = sorted(one for one in asked if one.last_byte is not None)
    assert len(ranges) > 3
    assert {one.location for one in ranges} == {"where the blob is"}
    # No byte is requested twice, and none is left out.
    assert [one.last_byte + 1 for one in ranges] == [*(one.offset for one in ranges[1:]), len(CONTENT)]


def test_one_connection_is_enough_for_a_line_that_is_the_limit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "CLEAR_GAIN", 2.0)
    asked = fetch_all(store, answer_at(Line(RATE, shared=True)))
    assert requested_bytes(asked) <= segments.TRIAL_BYTES


def test_fast_connection_is_left_alone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "FAST_BYTES_PER_SECOND", RATE // 10)
    assert len(fetch_all(store, answer_at(Line(RATE, shared=False)))) == 1


def test_upstream_that_does_not_offer_ranges_gets_one_request(store: Store) -> None:
    assert len(fetch_all(store, answer_at(Line(RATE, shared=False), has_ranges=False))) == 1


def test_upstream_that_ignores_ranges_gets_one_connection(store: Store) -> None:
    """It offers them, but sends the whole blob."""
    line = Line(RATE, shared=False)
    asked = fetch_all(store, lambda _: PacedAnswer(CONTENT, 0, line.send, has_ranges=True))
    assert len(asked) <= 1 + segments.MAX_FRUITLESS_RESPONSES


def test_range_that_the_first_connection_has_passed_is_not_requested_again(store: Store) -> None:
    first = Line(RATE, shared=False)

    def answer(asked: Asked) -> MadeAnswer:
        # The first byte of a range comes when the first connection is far beyond it, a second later.
        return answer_at(first if asked.last_byte is None else Line(CHUNK_BYTES, shared=False))(asked)

    assert len([one for one in fetch_all(store, answer) if one.last_byte is not None]) == 1


def test_range_that_breaks_off_is_requested_again_from_there(store: Store) -> None:
    line, broken = Line(RATE, shared=False), threading.Event()

    def answer(asked: Asked) -> MadeAnswer:
        if asked.offset > 8 * MIB and not broken.is_set():
            broken.set()
            return MadeAnswer([CONTENT[asked.offset : asked.offset + 1000], cut()], MIB, asked.offset)
        return answer_at(line)(asked)

    offsets = [one.offset for one in fetch_all(store, answer)]
    assert broken.is_set()
    assert any(offset + 1000 in offsets for offset in offsets)


def test_ranges_that_always_fail_leave_the_rest_to_one_connection(store: Store) -> None:
    line = Line(RATE, shared=False)

    def answer(asked: Asked) -> MadeAnswer:
        if asked.last_byte is not None and asked.offset > 6 * MIB:
            raise cut()
        return answer_at(line)(asked)

    asked = fetch_all(store, answer)
    assert asked[-1].last_byte is None
    assert asked[-1].offset > 2 * MIB


def test_additional_connections_are_limited_for_all_blobs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fetching.fetches.MAX_ADDITIONAL_CONNECTIONS", 2)
    line, active, most, lock = Line(RATE, shared=False), 0, 0, threading.Lock()

    class Counted(PacedAnswer):
        def __enter__(self) -> Self:
            nonlocal active, most
            with lock:
                active += 1
                most = max(most, active)
            return self

        def __exit__(self, *_: object) -> None:
            nonlocal active
            with lock:
                active -= 1

    def answer(asked: Asked) -> MadeAnswer:
        end = len(CONTENT) if asked.last_byte is None else asked.last_byte + 1
        return Counted(CONTENT[asked.offset : end], asked.offset, line.send, has_ranges=True)

    fetch_all(store, answer)
    assert most == 3
