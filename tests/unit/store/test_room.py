"""Room for incoming blobs: what is evicted and when, on disks that are full, small or shared."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING
from unittest import mock

import pytest
from made_stores import (
    KIB,
    MIB,
    Clock,
    bytes_on_disk,
    content,
    fill_disk,
    find_faults,
    manifest_of,
    put_blob,
    remount,
    small_disk,
)
from store import room
from store.layout import LAYER, Link
from store.store import NoRoom, Store
from upstreams.oci import digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_least_recently_used_layers_go_first(disk: Path, open_store: Callable[..., Store], clock: Clock) -> None:
    store = open_store(disk, 64 * MIB)
    names = []
    for number in range(7):
        clock.now += 1
        names.append(put_blob(store, "one", content(number, MIB)))
    clock.now += 1
    store.mark_used("one", names[0])
    manifest = store.put_manifest("one", manifest_of(b"config", [content(0, MIB)]), "v1")
    names.append(put_blob(store, "one", content(7, MIB)))
    assert [number for number, name in enumerate(names) if store.find_blob(name) is None] == [1]
    assert store.resolve_tag("one", "v1") == manifest
    assert store.statistics().removed == {"evicted": 1}
    assert find_faults(disk) == []


def test_manifests_are_evicted_last(disk: Path, open_store: Callable[..., Store], clock: Clock) -> None:
    store = open_store(disk, MIB)
    old = store.put_manifest("one", b'{"a": "' + b"x" * (90 * KIB) + b'"}', "old")
    clock.now += 1
    layer = put_blob(store, "one", content(1, 500 * KIB))
    clock.now += 1
    other = put_blob(store, "one", content(2, 500 * KIB))
    assert store.find_blob(layer) is None
    assert store.resolve_tag("one", "old") == old
    put_blob(store, "one", content(3, 960 * KIB))
    assert store.find_blob(other) is None
    assert store.resolve_tag("one", "old") is None
    assert find_faults(disk) == []


def test_many_manifests_do_not_evict_all_layers(disk: Path, open_store: Callable[..., Store], clock: Clock) -> None:
    store = open_store(disk, 4 * MIB)
    layers = [put_blob(store, "one", content(number, 64 * KIB)) for number in range(40)]
    for number in range(60):
        clock.now += 1
        store.put_manifest("one", b'{"a": "%d%s"}' % (number, b"x" * (60 * KIB)))
        for layer in layers:
            store.mark_used("one", layer)
    kept = [layer for layer in layers if store.find_blob(layer)]
    assert len(kept) == 40
    # Without manifests of their own, the layers are the older content.
    clock.now += 1
    for number in range(60):
        store.put_manifest("one", b'{"b": "%d%s"}' % (number, b"x" * (60 * KIB)))
    assert len([layer for layer in layers if store.find_blob(layer)]) < 40
    assert find_faults(disk) == []


def test_blobs_of_unknown_size_evict_a_share_of_the_content_only(
    disk: Path, open_store: Callable[..., Store], clock: Clock
) -> None:
    store = open_store(disk, 4 * MIB)
    layers = [put_blob(store, "one", content(number, 96 * KIB)) for number in range(40)]
    endless = [store.begin_blob(digest(b"endless %d" % number), None) for number in range(3)]
    refused = 0
    for _ in range(100):
        for blob in endless:
            try:
                blob.write(bytes(16 * KIB))
            except NoRoom:
                refused += 1
    assert refused > 200
    assert len([layer for layer in layers if store.find_blob(layer)]) >= 34
    for blob in endless:
        blob.abandon()
    # What was evicted for them is room for the next one.
    put_blob(store, "one", content(100, 300 * KIB))
    assert len([layer for layer in layers if store.find_blob(layer)]) >= 34
    assert find_faults(disk) == []


def test_blob_is_refused_if_all_content_is_being_read(disk: Path, open_store: Callable[..., Store]) -> None:
    store = open_store(disk, 2 * MIB)
    names = [put_blob(store, "one", content(number, 240 * KIB)) for number in range(8)]
    with ExitStack() as stack:
        files = [stack.enter_context(store.blob_path(name).open("rb")) for name in names]
        with pytest.raises(NoRoom, match="only 0 are stored that nobody reads"):
            put_blob(store, "one", content(100, 512 * KIB))
        assert all(store.find_blob(name) for name in names)
        files[3].close()
        files[5].close()
        put_blob(store, "one", content(100, 512 * KIB))
        assert [store.find_blob(name) is None for name in names] == [number in (3, 5) for number in range(8)]
    assert find_faults(disk) == []


def test_few_inodes_are_regained_from_the_blob_with_the_most_links(
    tmp_path: Path, open_store: Callable[..., Store], clock: Clock
) -> None:
    with small_disk(tmp_path / "disk", "size=16m", "nr_inodes=3000") as disk:
        store = open_store(disk, 16 * MIB)
        layers = [put_blob(store, "one", content(number, 4 * KIB)) for number in range(40)]
        clock.now += 100
        shared = put_blob(store, "one", content(100, 4 * KIB))
        store.put_manifest("one", manifest_of(b"", [content(100, 4 * KIB)]))
        for number in range(600):
            # An upstream that has every repository.
            store._writer.add_link_if_possible(shared, Link(LAYER, f"{'deep/' * 4}place{number}"))
            store.evict_above_high_water()
        assert all(store.find_blob(layer) for layer in layers)
        assert store.find_blob(shared) is None
        assert find_faults(disk) == []


def test_blob_that_is_larger_than_the_volume_evicts_nothing(disk: Path, open_store: Callable[..., Store]) -> None:
    store = open_store(disk, 64 * MIB)
    name = put_blob(store, "one", content(1, MIB))
    with pytest.raises(NoRoom, match="the volume has room for"):
        store.begin_blob(digest(b"large"), 9 * MIB)
    limited = open_store(disk, 2 * MIB)
    with pytest.raises(NoRoom, match="the volume has room for 2097152"):
        limited.begin_blob(digest(b"large"), 3 * MIB)
    assert store.find_blob(name)
    assert find_faults(disk) == []


def test_incoming_blobs_share_the_room(disk: Path, open_store: Callable[..., Store]) -> None:
    store = open_store(disk, 64 * MIB)
    first, second = (store.begin_blob(digest(content(number, 3 * MIB)), 3 * MIB) for number in (1, 2))
    with pytest.raises(NoRoom, match="6291456 of 8388608 are reserved"):
        store.begin_blob(digest(content(3, 3 * MIB)), 3 * MIB)
    # Other programs cannot take what is reserved.
    with pytest.raises(OSError, match="No space"):
        (disk / "foreign").write_bytes(bytes(3 * MIB))
    (disk / "foreign").unlink()
    second.abandon()
    third = store.begin_blob(digest(content(3, 3 * MIB)), 3 * MIB)
    for number, incoming in ((1, first), (3, third)):
        incoming.write(content(number, 3 * MIB))
        incoming.commit("one")
    assert store.statistics().stored_bytes == 6 * MIB == bytes_on_disk(disk)
    assert store.statistics().usable_bytes <= 8 * MIB
    assert find_faults(disk) == []


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "STEP_BYTES", MIB)


@pytest.mark.usefixtures("small_steps")
def test_large_blob_that_breaks_off_early_has_evicted_little(
    disk: Path, open_store: Callable[..., Store], clock: Clock
) -> None:
    store = open_store(disk, 64 * MIB)
    names = []
    for number in range(7):
        clock.now += 1
        names.append(put_blob(store, "one", content(number, MIB)))
    incoming = store.begin_blob(digest(content(9, 7 * MIB)), 7 * MIB)
    incoming.write(bytes(MIB + 1))
    incoming.abandon()
    assert [number for number, name in enumerate(names) if store.find_blob(name) is None] == [0, 1]
    large = put_blob(store, "one", content(9, 7 * MIB))
    assert store.blob_path(large).read_bytes() == content(9, 7 * MIB)
    assert store.statistics().stored_bytes == bytes_on_disk(disk) <= 8 * MIB
    assert find_faults(disk) == []


@pytest.mark.usefixtures("small_steps")
def test_room_of_a_large_blob_is_not_promised_twice(disk: Path, open_store: Callable[..., Store]) -> None:
    store = open_store(disk, 64 * MIB)
    first = store.begin_blob(digest(content(1, 5 * MIB)), 5 * MIB)
    with pytest.raises(NoRoom, match="5242880 of 8388608 are reserved"):
        store.begin_blob(digest(content(2, 5 * MIB)), 5 * MIB)
    unknown = store.begin_blob(digest(content(3, 5 * MIB)), None)
    unknown.write(content(3, 5 * MIB)[: 3 * MIB])
    with pytest.raises(NoRoom, match="are reserved"):
        unknown.write(bytes(MIB))
    unknown.abandon()
    first.write(content(1, 5 * MIB))
    first.commit("one")


@pytest.mark.usefixtures("small_steps")
def test_room_is_made_for_bytes_that_are_written_ahead(disk: Path, open_store: Callable[..., Store]) -> None:
    store = open_store(disk, 64 * MIB)
    put_blob(store, "one", content(1, 4 * MIB))
    whole = content(2, 7 * MIB)
    incoming = store.begin_blob(digest(whole), len(whole))
    assert incoming.write_ahead(5 * MIB, memoryview(whole)[5 * MIB :])
    assert incoming.write_ahead(100, memoryview(whole)[100 : 5 * MIB])
    incoming.write(whole[:100])
    incoming.append_written(len(whole) - 100)
    incoming.commit("one")
    assert store.blob_path(incoming.digest).read_bytes() == whole
    assert store.statistics().stored_bytes == bytes_on_disk(disk)


@pytest.mark.usefixtures("small_steps")
def test_blob_ends_where_others_have_taken_its_room(disk: Path, open_store: Callable[..., Store]) -> None:
    store = open_store(disk, 64 * MIB)
    incoming = store.begin_blob(digest(content(1, 5 * MIB)), 5 * MIB)
    incoming.write(content(1, 5 * MIB)[: 2 * MIB])
    fill_disk(disk / "foreign")
    with pytest.raises(NoRoom, match="1048576 more bytes are needed, but the volume has room for 0"):
        incoming.write(bytes(1))
    assert not incoming.reservation.reserved_bytes % MIB
    (disk / "foreign").unlink()
    incoming.write(content(1, 5 * MIB)[2 * MIB :])
    incoming.commit("one")
    assert find_faults(disk) == []


def test_reservations_count_on_a_file_system_that_cannot_allocate(disk: Path, open_store: Callable[..., Store]) -> None:
    store = open_store(disk, 64 * MIB)
    cannot_allocate = OSError(errno.EOPNOTSUPP, "not supported")
    with mock.patch.object(os, "posix_fallocate", side_effect=cannot_allocate):
        incoming = store.begin_blob(digest(content(1, 5 * MIB)), 5 * MIB)
        with pytest.raises(NoRoom, match="are reserved"):
            store.begin_blob(digest(content(2, 5 * MIB)), 5 * MIB)
        incoming.write(content(1, 5 * MIB))
        assert store.statistics().usable_bytes >= 7 * MIB
        incoming.commit("one")
        unknown = store.begin_blob(digest(content(3, 2 * MIB)), None)
        unknown.write(content(3, 2 * MIB))
        unknown.commit("one")
    assert store.blob_path(digest(content(3, 2 * MIB))).read_bytes() == content(3, 2 * MIB)
    assert store.statistics().stored_bytes == bytes_on_disk(disk)


def test_disk_that_fills_up_during_a_write_evicts_or_ends_it(disk: Path, open_store: Callable[..., Store]) -> None:
    store = open_store(disk, 64 * MIB)
    old = put_blob(store, "one", content(1, MIB))
    cannot_allocate = OSError(errno.EOPNOTSUPP, "not supported")
    with mock.patch.object(os, "posix_fallocate", side_effect=cannot_allocate):
        incoming = store.begin_blob(digest(content(2, 3 * MIB)), 3 * MIB)
        large = store.begin_blob(digest(content(3, 3 * MIB)), 3 * MIB)
    (disk / "foreign").write_bytes(bytes(4 * MIB))
    incoming.write(content(2, 3 * MIB))
    incoming.commit("one")
    assert store.find_blob(old) is None
    (disk / "more").write_bytes(bytes(MIB - 16 * KIB))
    store.blob_path(incoming.digest).unlink()
    (disk / "even more").write_bytes(bytes(3 * MIB))
    with pytest.raises(NoRoom, match="no space is left"):
        large.write(content(3, 3 * MIB))
    large.abandon()
    for name in ("foreign", "more", "even more"):
        (disk / name).unlink()
    assert find_faults(disk) == []


def test_blob_of_unknown_size_reserves_room_as_it_grows(disk: Path, open_store: Callable[..., Store]) -> None:
    store = open_store(disk, 64 * MIB)
    old = put_blob(store, "one", content(1, 2 * MIB))
    incoming = store.begin_blob(digest(content(2, 7 * MIB)), None)
    for number in range(7):
        incoming.write(content(2, 7 * MIB)[number * MIB : (number + 1) * MIB])
    assert store.find_blob(old) is None
    with pytest.raises(NoRoom, match="7340032 of 8388608 are reserved"):
        incoming.write(bytes(2 * MIB))
    incoming.abandon()
    again = store.begin_blob(digest(content(2, 7 * MIB)), None)
    again.write(content(2, 7 * MIB))
    again.commit("one")
    assert store.blob_path(digest(content(2, 7 * MIB))).read_bytes() == content(2, 7 * MIB)
    assert store.statistics().stored_bytes == 7 * MIB == bytes_on_disk(disk)


def test_files_of_others_leave_less_room_and_a_larger_disk_more(
    disk: Path, open_store: Callable[..., Store], clock: Clock
) -> None:
    store = open_store(disk, 64 * MIB)
    (disk / "foreign").write_bytes(bytes(6 * MIB))
    with pytest.raises(NoRoom):
        store.begin_blob(digest(b"x"), 3 * MIB)
    names = []
    for number in range(4):
        clock.now += 1
        names.append(put_blob(store, "one", content(number, MIB // 2)))
    assert store.find_blob(names[0]) is None
    assert store.find_blob(names[3])
    remount(disk, "size=16m")
    put_blob(store, "one", content(9, 8 * MIB))
    assert all(store.find_blob(name) for name in names[1:])


def test_disk_filled_by_others_takes_no_content_until_it_is_freed(disk: Path, open_store: Callable[..., Store]) -> None:
    store = open_store(disk, 64 * MIB)
    fill_disk(disk / "foreign")
    with pytest.raises(NoRoom, match="the volume has room for 0"):
        store.begin_blob(digest(b"x"), 1)
    with pytest.raises(NoRoom):
        store.put_manifest("one", manifest_of(b"config", []), "v1")
    (disk / "foreign").unlink()
    store.put_manifest("one", manifest_of(b"config", []), "v1")
    assert find_faults(disk) == []


def test_blob_that_somebody_reads_is_not_evicted_and_causes_nothing_else_to_be_evicted(
    disk: Path, open_store: Callable[..., Store], clock: Clock
) -> None:
    store = open_store(disk, 64 * MIB)
    sent = put_blob(store, "one", content(1, 2 * MIB))
    names = []
    for number in range(2, 25):
        clock.now += 1
        names.append(put_blob(store, "one", content(number, 256 * KIB)))
    with store.blob_path(sent).open("rb") as file:
        put_blob(store, "one", content(100, 512 * KIB))
        assert store.find_blob(sent) is not None
        assert sum(store.find_blob(name) is not None for name in names) >= len(names) - 2
        assert file.read() == content(1, 2 * MIB)


@pytest.mark.usefixtures("small_steps")
def test_blob_that_does_not_fit_beside_what_is_read_evicts_nothing(
    disk: Path, open_store: Callable[..., Store]
) -> None:
    store = open_store(disk, 64 * MIB)
    sent = put_blob(store, "one", content(1, 4 * MIB))
    names = [put_blob(store, "one", content(number, 256 * KIB)) for number in range(2, 14)]
    with store.blob_path(sent).open("rb"):
        with pytest.raises(NoRoom, match="stored that nobody reads"):
            put_blob(store, "one", content(100, 5 * MIB))
        assert all(store.find_blob(name) for name in names)
        put_blob(store, "one", content(100, 3 * MIB))
    put_blob(store, "one", content(101, 5 * MIB))
    assert find_faults(disk) == []


def test_content_above_high_water_is_evicted(disk: Path, open_store: Callable[..., Store], clock: Clock) -> None:
    store = open_store(disk, 64 * MIB, high_water=0.5)
    names = []
    for number in range(14):
        clock.now += 1
        names.append(put_blob(store, "one", content(number, MIB // 2)))
    manifest = store.put_manifest("one", manifest_of(b"config", []), "v1")
    evicted = store.evict_above_high_water()
    assert evicted == names[:7]
    assert store.statistics().stored_bytes <= store.statistics().usable_bytes // 2
    assert store.evict_above_high_water() == []
    assert store.resolve_tag("one", "v1") == manifest


def test_single_layer_above_high_water_stays_until_room_is_needed(
    disk: Path, open_store: Callable[..., Store], clock: Clock
) -> None:
    store = open_store(disk, 64 * MIB)
    small = put_blob(store, "one", content(1, MIB // 4))
    clock.now += 1
    large = put_blob(store, "one", content(2, 7 * MIB + MIB // 2))
    assert store.evict_above_high_water() == [small]
    assert store.find_blob(large)
    put_blob(store, "one", content(1, MIB))
    assert store.find_blob(large) is None


def test_lack_of_inodes_evicts(tmp_path: Path, open_store: Callable[..., Store], clock: Clock) -> None:
    with small_disk(tmp_path / "disk", "size=64m", "nr_inodes=60") as disk:
        store = open_store(disk, 64 * MIB)
        first = store.put_manifest("one", manifest_of(b"config", []), "v1")
        for number in range(30):
            clock.now += 1
            put_blob(store, "one", content(number, KIB))
        assert store.find_blob(digest(content(29, KIB)))
        assert store.statistics().removed["evicted"] > 0
        assert store.find_blob(first) is None
        assert find_faults(disk) == []
        for number in range(100):
            (disk / f"foreign{number}").touch()
            if not os.statvfs(disk).f_favail:
                break
        with pytest.raises(NoRoom, match="no inodes are left"):
            # It needs more folders than eviction could free.
            put_blob(store, "a/" * 100 + "a", content(40, KIB))
        assert find_faults(disk) == []


def test_some_inodes_are_kept_free(tmp_path: Path, open_store: Callable[..., Store], clock: Clock) -> None:
    with small_disk(tmp_path / "disk", "size=64m", "nr_inodes=2000") as disk:
        store = open_store(disk, 64 * MIB)
        for number in range(250):
            clock.now += 1
            put_blob(store, "one", content(number, KIB))
        assert store.evict_above_high_water() == []
        for number in range(os.statvfs(disk).f_favail - 10):
            (disk / f"foreign{number}").touch()
        evicted = store.evict_above_high_water()
        assert 0 < len(evicted) < 60
        assert evicted[0] == digest(content(0, KIB))
        assert os.statvfs(disk).f_favail >= 40
        assert store.evict_above_high_water() == []
