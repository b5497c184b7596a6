"""Content does not expire because of a clock that jumps."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from made_stores import Clock, content, put_blob
from store.store import Store
from store.volume import LOCK_NAME

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def steady() -> Clock:
    return Clock()


@pytest.fixture
def open_watched(tmp_path: Path, clock: Clock, steady: Clock) -> Callable[[], Store]:
    """A store with a lock file, as the gate has, and with a clock that may jump beside one that does not."""
    (tmp_path / LOCK_NAME).touch()
    os.utime(tmp_path / LOCK_NAME, (clock.now, clock.now))

    def opened() -> Store:
        store = Store(tmp_path, 1 << 30, now=clock, monotonic=steady)
        store.load()
        return store

    return opened


DAY = 86_400.0


def pass_days(store: Store, clock: Clock, steady: Clock, days: float) -> list[str]:
    removed = []
    for _ in range(round(days * 24)):
        clock.now += 3600
        steady.now += 3600
        removed += store.expire(7 * DAY)
    return removed


@pytest.mark.parametrize("restarts", [False, True])
def test_clock_that_jumps_forward_expires_nothing(
    open_watched: Callable[[], Store], clock: Clock, steady: Clock, *, restarts: bool
) -> None:
    store = open_watched()
    old = put_blob(store, "one", content(1))
    assert pass_days(store, clock, steady, 3) == []
    new = put_blob(store, "one", content(2))
    for _ in range(3):
        clock.now += 30 * DAY
        if restarts:
            steady.now += 1
            store = open_watched()
        assert store.expire(7 * DAY) == []
    if restarts:
        store = open_watched()
    assert pass_days(store, clock, steady, 3.9) == []
    assert pass_days(store, clock, steady, 0.2) == [old]
    # A clock that is set right again prolongs the life of content, and nothing else.
    clock.now -= 90 * DAY
    assert store.expire(7 * DAY) == []
    assert store.find_blob(new)
    assert pass_days(store, clock, steady, 7.1) == [new]


def test_content_expires_in_time_although_the_pod_restarts_often(
    open_watched: Callable[[], Store], clock: Clock, steady: Clock
) -> None:
    store = open_watched()
    name = put_blob(store, "one", content(1))
    removed = []
    for _ in range(15):
        removed += pass_days(store, clock, steady, 0.5)
        clock.now += 30
        store = open_watched()
    assert removed == [name]
