"""Interrupted blobs: the beginning of a large blob survives what ends its fetch, and the next fetch resumes there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from made_stores import KIB, MIB, Clock, content, find_faults, is_empty, put_blob
from store import incoming_blob, room
from store.interrupted import MAX_AGE_SECONDS
from store.store import IncomingBlob, Store, WrongContent
from upstreams.oci import digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LARGE = content(1, 3 * MIB)
NAME = digest(LARGE)


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming_blob, "RESUMABLE_BYTES", 2 * MIB)
    monkeypatch.setattr(room, "STEP_BYTES", MIB)


def begin_and_record(store: Store, size: int, whole: bytes = LARGE) -> IncomingBlob:
    """Write some bytes of a blob, record them, and write some more."""
    incoming = store.begin_blob(digest(whole), len(whole))
    incoming.write(whole[:size])
    store.record_incoming_blobs()
    incoming.write(whole[size : size + 1000])
    return incoming


def finish(store: Store, whole: bytes = LARGE) -> int:
    """Store a blob, and return how much of it was there already."""
    incoming = store.begin_blob(digest(whole), len(whole))
    incoming.append_written(incoming.recorded)
    incoming.write(whole[incoming.written :])
    incoming.commit("one")
    assert store.blob_path(digest(whole)).read_bytes() == whole
    return incoming.recorded


def test_recorded_part_survives_the_end_of_the_program(
    store: Store, open_store: Callable[..., Store], tmp_path: Path
) -> None:
    killed = begin_and_record(store, 1_500_001)
    again = open_store(tmp_path)
    os.close(killed.reservation.descriptor)
    assert again.interrupted_size(NAME) == 1_500_001
    assert 1_500_001 <= again.statistics().stored_bytes < 1_500_001 + 8 * KIB
    assert again.find_blob(NAME) is None
    assert finish(again) == 1_500_001
    assert find_faults(tmp_path) == []
    assert finish(open_store(tmp_path)) == 0


def test_part_that_was_not_recorded_does_not_count(
    store: Store, open_store: Callable[..., Store], tmp_path: Path
) -> None:
    """After a crash of the node, the disk may have any bytes there."""
    killed = begin_and_record(store, MIB)
    os.pwrite(killed.reservation.descriptor, b"x" * 1000, MIB)
    os.close(killed.reservation.descriptor)
    assert finish(open_store(tmp_path)) == MIB


def test_blob_of_a_fetch_that_ends_too_early_is_resumed_without_a_restart(store: Store, tmp_path: Path) -> None:
    begin_and_record(store, MIB).interrupt()
    resumed = store.begin_blob(NAME, len(LARGE))
    assert resumed.recorded == MIB + 1000
    # Nobody has wanted it, so that nothing was read.
    resumed.interrupt()
    assert finish(store) == MIB + 1000
    assert find_faults(tmp_path) == []


def test_small_blobs_and_those_of_unknown_size_are_not_kept(store: Store, tmp_path: Path) -> None:
    begin_and_record(store, MIB, content(2, 2 * MIB - 1)).interrupt()
    unknown = store.begin_blob(NAME, None)
    unknown.write(LARGE[:-1])
    unknown.interrupt()
    assert is_empty(tmp_path)


def test_wrong_content_is_found_at_the_end_and_removed(
    store: Store, open_store: Callable[..., Store], tmp_path: Path
) -> None:
    begin_and_record(store, MIB).interrupt()
    (path,) = (tmp_path / "parts").iterdir()
    with path.open("r+b") as file:
        file.write(b"wrong")
    with pytest.raises(WrongContent):
        finish(open_store(tmp_path))
    assert is_empty(tmp_path)


@pytest.mark.parametrize("size", [None, MIB])
def test_blob_of_another_size_begins_anew(store: Store, tmp_path: Path, size: int | None) -> None:
    begin_and_record(store, MIB).interrupt()
    incoming = store.begin_blob(NAME, size)
    assert incoming.recorded == 0
    incoming.abandon()
    assert is_empty(tmp_path)


def test_interrupted_blob_of_content_that_was_stored_otherwise_is_removed(
    store: Store, open_store: Callable[..., Store], tmp_path: Path
) -> None:
    first, second = (begin_and_record(store, size) for size in (MIB, MIB + 1))
    second.write(LARGE[second.written :])
    first.interrupt()
    second.commit("one")
    assert store.interrupted_size(NAME) == 0
    assert find_faults(tmp_path) == []
    (tmp_path / "parts" / f"{NAME.removeprefix('sha256:')}.1000").write_bytes(bytes(1000))
    assert open_store(tmp_path).interrupted_size(NAME) == 0
    assert find_faults(tmp_path) == []


def test_file_that_is_too_short_is_removed(open_store: Callable[..., Store], tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / f"{NAME.removeprefix('sha256:')}.1000").write_bytes(bytes(999))
    assert open_store(tmp_path).interrupted_size(NAME) == 0
    assert is_empty(tmp_path)


def test_interrupted_blob_is_evicted_by_its_age(disk: Path, open_store: Callable[..., Store], clock: Clock) -> None:
    store = open_store(disk, 64 * MIB)
    older = put_blob(store, "one", content(2, 2 * MIB))
    clock.now += 1
    begin_and_record(store, 2 * MIB).interrupt()
    clock.now += 1
    newer = put_blob(store, "one", content(3, 2 * MIB))
    assert store.interrupted_size(NAME)
    put_blob(store, "one", content(4, 3 * MIB))
    assert store.find_blob(older) is None
    assert store.interrupted_size(NAME)
    put_blob(store, "one", content(5, MIB))
    assert store.interrupted_size(NAME) == 0
    assert store.find_blob(newer)


def test_blob_that_resumes_needs_only_room_for_the_rest(disk: Path, open_store: Callable[..., Store]) -> None:
    store = open_store(disk, 64 * MIB)
    whole = content(1, 6 * MIB)
    begin_and_record(store, 4 * MIB, whole).interrupt()
    kept = put_blob(store, "one", content(2, MIB))
    assert finish(store, whole) > 4 * MIB
    assert store.find_blob(kept)


def test_interrupted_blob_that_nobody_resumes_is_removed_after_a_day(
    store: Store, clock: Clock, open_store: Callable[..., Store], tmp_path: Path
) -> None:
    begin_and_record(store, MIB).interrupt()
    clock.now += MAX_AGE_SECONDS - 1
    again = open_store(tmp_path)
    assert again.expire(0) == []
    assert again.interrupted_size(NAME)
    clock.now += 2
    again.expire(0)
    assert is_empty(tmp_path)
