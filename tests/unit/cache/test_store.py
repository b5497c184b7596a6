"""The volume of a cache: what is held, what goes and when, on disks that are full, small, broken or shared."""

from __future__ import annotations

import errno
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import made_stores
import pytest
from made_stores import DOCKER_LIST, DOCKER_MANIFEST, faults, index_of, link, manifest_of, put, remount, small_disk
from store.store import NoRoom, Store, WrongContent
from upstreams.oci import MANIFEST, digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 1024 * 1024
KIB = 1024
LAYERS = "_layers/sha256"
REVISIONS = "_manifests/revisions/sha256"


@dataclass
class Clock:
    """Goes on when a test says so."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_store(clock: Clock) -> Callable[..., Store]:
    def opened(root: Path, capacity: int = 1024 * MIB, **options: Any) -> Store:
        store = Store(root, capacity, now=clock, **options)
        store.load()
        return store

    return opened


@pytest.fixture
def store(open_store: Callable[..., Store], tmp_path: Path) -> Store:
    return open_store(tmp_path)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of 8 MiB."""
    with small_disk(tmp_path / "disk", "size=8m") as folder:
        yield folder


def content(number: int, size: int = 64 * KIB) -> bytes:
    return number.to_bytes(4, "big") + bytes(size - 4)


def put_image(store: Store, repository: str, tag: str | None, *numbers: int) -> tuple[str, list[str]]:
    """An image of layers with those numbers; the digest of its manifest, and of config and layers."""
    config, layers = content(1000 + numbers[0], 200), [content(number) for number in numbers]
    names = [put(store, repository, each) for each in (config, *layers)]
    return store.put_manifest(repository, manifest_of(config, layers), tag), names


# What comes and is found.


def test_layer_is_found_whole_and_linked_as_distribution_would_have_it(store: Store, tmp_path: Path) -> None:
    name = put(store, "library/alpine", content(1))
    assert store.find(name) == 64 * KIB
    assert store.path(name).read_bytes() == content(1)
    hexadecimal = name.removeprefix("sha256:")
    assert store.path(name) == tmp_path / f"docker/registry/v2/blobs/sha256/{hexadecimal[:2]}/{hexadecimal}/data"
    assert link(tmp_path, "library/alpine", LAYERS, name).read_text() == name
    assert faults(tmp_path) == []


@pytest.mark.parametrize("media_type", [MANIFEST, DOCKER_MANIFEST, None])
def test_manifest_is_kept_by_digest_and_by_tag(store: Store, tmp_path: Path, media_type: str | None) -> None:
    manifest = manifest_of(b"config", [content(1)], media_type)
    name = store.put_manifest("a/b/c", manifest, "v1")
    assert name == digest(manifest)
    assert store.tag("a/b/c", "v1") == name
    assert store.manifest("a/b/c", name) == manifest
    assert store.expected_size(digest(content(1))) == 64 * KIB
    assert store.expected_size(digest(b"config")) == 6
    assert link(tmp_path, "a/b/c", "_manifests/tags/v1", "current").read_text() == name
    assert link(tmp_path, "a/b/c", "_manifests/tags/v1/index/sha256", name).read_text() == name
    assert faults(tmp_path) == []


def test_manifest_that_came_for_one_repository_is_there_for_another(store: Store, tmp_path: Path) -> None:
    name = store.put_manifest("one", manifest_of(b"config", []))
    assert store.manifest("other", name) == manifest_of(b"config", [])
    assert link(tmp_path, "other", REVISIONS, name).read_text() == name


def test_layer_is_no_manifest(store: Store) -> None:
    assert store.manifest("one", put(store, "one", content(1))) is None


def test_tag_moves_and_goes(store: Store, tmp_path: Path) -> None:
    first = store.put_manifest("one", manifest_of(b"first", []), "latest")
    second = store.put_manifest("one", manifest_of(b"second", []), "latest")
    assert store.tag("one", "latest") == second
    store.set_tag("one", "latest", first)
    assert store.tag("one", "latest") == first
    assert faults(tmp_path) == []
    store.remove_tag("one", "latest")
    assert store.tag("one", "latest") is None
    assert store.manifest("one", first)
    assert not (tmp_path / "docker/registry/v2/repositories/one/_manifests/tags").exists()


def test_tag_to_a_manifest_of_another_repository_makes_it_one_of_this(store: Store, tmp_path: Path) -> None:
    name = store.put_manifest("one", manifest_of(b"config", []))
    store.set_tag("other", "v1", name)
    assert faults(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        store.set_tag("other", "v1", digest(b"not there"))


@pytest.mark.parametrize(
    ("repository", "tag"),
    [
        *[(name, "v1") for name in ("../out", "a/../b", "/a", "a//b", "a/", "a/_layers", "", "A", "a\n", "a" * 256)],
        *[("a", tag) for tag in ("..", ".", "", "a/b", "x" * 129, "-a", "v1\n")],
    ],
)
def test_names_that_lead_out_of_their_folder_are_refused(store: Store, repository: str, tag: str) -> None:
    with pytest.raises(ValueError, match="no "):
        store.put_manifest(repository, b"{}", tag)


def test_digests_that_lead_out_of_their_folder_are_refused(store: Store) -> None:
    for name in ("sha256:../../x", "sha256:" + "A" * 64, "sha512:" + "0" * 128, "", digest(b"") + "\n"):
        with pytest.raises(ValueError, match="no digest"):
            store.path(name)
        with pytest.raises(ValueError, match="no digest"):
            store.begin(name, 1)
        assert store.find(name) is None


@pytest.mark.parametrize("written", [content(2), content(1)[:-1], content(1) + b"x", b""])
def test_wrong_content_is_never_kept(store: Store, tmp_path: Path, written: bytes) -> None:
    part = store.begin(digest(content(1)), len(content(1)))
    with pytest.raises(WrongContent):  # noqa: PT012 - too much is seen when written, the rest in the end
        part.write(written)
        part.commit("one")
    assert store.find(digest(content(1))) is None
    assert store.statistics().bytes_stored == 0
    assert made_stores.is_empty(tmp_path)


def test_part_is_read_while_it_is_written_and_after(store: Store) -> None:
    part = store.begin(digest(content(1)), None)
    part.write(content(1)[:1000])
    with part.open() as early:
        assert early.read(part.written) == content(1)[:1000]
        part.write(content(1)[1000:])
        part.commit("one")
        assert early.read() == content(1)[1000:]
    with part.open() as late:
        assert late.read() == content(1)
    assert store.find(digest(content(1))) == len(content(1))


def test_blob_of_nothing_is_a_blob(store: Store, open_store: Callable[..., Store], tmp_path: Path) -> None:
    put(store, "one", b"")
    assert store.find(digest(b"")) == 0
    assert open_store(tmp_path).find(digest(b"")) == 0


def test_same_blob_that_comes_twice_is_held_once(store: Store, tmp_path: Path) -> None:
    parts = [store.begin(digest(content(1)), len(content(1))) for _ in range(2)]
    for number, part in enumerate(parts):
        part.write(content(1))
        part.commit(f"r{number}")
    assert store.statistics().bytes_stored == made_stores.bytes_on_disk(tmp_path)
    assert {path.name for path in (tmp_path / "docker/registry/v2/repositories").iterdir()} == {"r0", "r1"}
    assert faults(tmp_path) == []


def test_expected_size_is_none_where_manifests_disagree(store: Store) -> None:
    store.put_manifest("one", manifest_of(b"config", [content(1)]))
    lying = manifest_of(b"config", [content(1)]).replace(b"65536", b"4")
    name = store.put_manifest("one", lying)
    assert store.expected_size(digest(content(1))) is None
    assert store.expected_size(digest(b"config")) == 6
    store._discard(name, "expired")
    assert store.expected_size(digest(content(1))) == 64 * KIB


@pytest.mark.parametrize(
    "manifest",
    [
        *[b"", b"[]", b"{", b'{"layers": 1}', b'{"layers": [{"digest": 1, "size": 2}, 3]}', b"[" * 100_000],
        *[b'{"config": {"digest": "sha512:00", "size": 1}}', b'{"layers": [{"digest": "%s", "size": true}]}'],
    ],
)
def test_odd_manifest_names_nothing(store: Store, manifest: bytes) -> None:
    if b"%s" in manifest:
        manifest %= digest(b"x").encode()
    name = store.put_manifest("one", manifest)
    assert store.manifest("one", name) == manifest
    assert store._sizes == {}


# Use and expiry.


def test_what_is_not_used_goes_and_leaves_nothing(store: Store, clock: Clock, tmp_path: Path) -> None:
    manifest, names = put_image(store, "library/alpine", "latest", 1, 2)
    index = store.put_manifest("library/alpine", index_of([store.manifest("library/alpine", manifest) or b""]), "all")
    clock.now += 100
    assert store.expire(101) == []
    assert sorted(store.expire(99)) == sorted([manifest, index, *names])
    assert made_stores.is_empty(tmp_path)
    assert store.tag("library/alpine", "latest") is None
    assert store.statistics().removed == {"expired": 5}
    assert store.statistics().bytes_stored == 0


def test_ttl_of_0_keeps_all(store: Store, clock: Clock) -> None:
    name = put(store, "one", content(1))
    clock.now += 1e9
    assert store.expire(0) == []
    assert store.expire(-1) == []
    assert store.find(name)


def test_ttl_that_changed_applies_to_what_is_there(
    store: Store, open_store: Callable[..., Store], clock: Clock, tmp_path: Path
) -> None:
    names = []
    for number in range(3):
        names.append(put(store, "one", content(number)))
        clock.now += 1000
    assert store.expire(10_000) == []
    assert store.expire(2500) == names[:1]
    assert open_store(tmp_path).expire(1500) == names[1:2]


def test_last_use_survives_a_restart(
    store: Store, open_store: Callable[..., Store], clock: Clock, tmp_path: Path
) -> None:
    used, unused = (put(store, "one", content(number)) for number in (1, 2))
    clock.now += 1000
    store.use("one", used)
    again = open_store(tmp_path)
    assert again.expire(500) == [unused]
    assert again.find(used)


def test_hot_image_never_expires_although_only_its_manifest_is_asked_for(
    store: Store, open_store: Callable[..., Store], clock: Clock, tmp_path: Path
) -> None:
    manifest, names = put_image(store, "one", None, 1, 2)
    index = store.put_manifest("one", index_of([store.manifest("one", manifest) or b""], DOCKER_LIST), "hot")
    cold = put(store, "one", content(3))
    for _ in range(10):
        clock.now += 90
        store.use("one", index)
        store.expire(100)
    assert all(store.find(name) for name in (index, manifest, *names))
    assert store.find(cold) is None
    assert open_store(tmp_path).expire(100) == []


def test_manifests_that_name_each_other_in_a_circle_can_be_used(store: Store) -> None:
    # Digests allow no circle; a damaged memory would be one, and has to end.
    names = [store.put_manifest("one", manifest_of(bytes([number]), [])) for number in range(2)]
    for name, other in zip(names, reversed(names), strict=True):
        store._name(store._blobs[name], {other: 1, name: 1})
    store.use("one", names[0])


def test_use_links_a_blob_in_the_repository(store: Store, tmp_path: Path) -> None:
    layer = put(store, "one", content(1))
    manifest = store.put_manifest("one", manifest_of(b"", [content(1)]))
    store.use("other/place", layer)
    store.use("other/place", manifest)
    assert link(tmp_path, "other/place", LAYERS, layer).read_text() == layer
    assert link(tmp_path, "other/place", REVISIONS, manifest).read_text() == manifest
    store.use("other/place", digest(b"not there"))
    assert faults(tmp_path) == []


def test_use_writes_to_the_disk_once_a_minute(store: Store, clock: Clock) -> None:
    name = put(store, "one", content(1))
    with mock.patch.object(os, "utime", wraps=os.utime) as utime:
        for _ in range(130):
            clock.now += 1
            store.use("one", name)
    assert utime.call_count == 2
    assert store.statistics().oldest_use == clock.now


def test_last_use_in_the_future_counts_as_now(
    store: Store, open_store: Callable[..., Store], clock: Clock, tmp_path: Path
) -> None:
    name = put(store, "one", content(1))
    clock.now -= 50_000
    assert store.expire(100) == []
    again = open_store(tmp_path)
    assert store.path(name).stat().st_mtime == clock.now
    clock.now += 101
    assert again.expire(100) == [name]
    assert store.expire(100) == [name]


def test_blob_of_two_repositories_goes_from_both(store: Store, clock: Clock, tmp_path: Path) -> None:
    name = put(store, "one", content(1))
    assert put(store, "a/b", content(1)) == name
    put_image(store, "a/b", "v1", 1)
    clock.now += 50
    store.use("one", name)
    assert name not in store.expire(40)
    assert faults(tmp_path) == []
    clock.now += 50
    assert store.expire(40) == [name]
    assert made_stores.is_empty(tmp_path)


def test_tag_of_an_expired_manifest_goes_with_what_it_pointed_to_before(
    store: Store, clock: Clock, tmp_path: Path
) -> None:
    first = store.put_manifest("one", manifest_of(b"first", []), "latest")
    second = store.put_manifest("one", manifest_of(b"second", []), "latest")
    clock.now += 100
    store.use("one", first)
    assert store.expire(50) == [second]
    assert store.tag("one", "latest") is None
    assert store.manifest("one", first)
    assert faults(tmp_path) == []


# Room.


def test_least_recently_used_layers_make_room(disk: Path, open_store: Callable[..., Store], clock: Clock) -> None:
    store = open_store(disk, 64 * MIB)
    names = []
    for number in range(7):
        clock.now += 1
        names.append(put(store, "one", content(number, MIB)))
    clock.now += 1
    store.use("one", names[0])
    manifest = store.put_manifest("one", manifest_of(b"config", [content(0, MIB)]), "v1")
    names.append(put(store, "one", content(7, MIB)))
    assert [number for number, name in enumerate(names) if store.find(name) is None] == [1]
    assert store.tag("one", "v1") == manifest
    assert store.statistics().removed == {"evicted": 1}
    assert faults(disk) == []


def test_manifests_are_evicted_when_there_is_nothing_else(
    disk: Path, open_store: Callable[..., Store], clock: Clock
) -> None:
    store = open_store(disk, MIB)
    old = store.put_manifest("one", b'{"a": "' + b"x" * (300 * KIB) + b'"}', "old")
    clock.now += 1
    layer = put(store, "one", content(1, 500 * KIB))
    clock.now += 1
    other = put(store, "one", content(2, 500 * KIB))
    assert store.find(layer) is None
    assert store.tag("one", "old") == old
    put(store, "one", content(3, 900 * KIB))
    assert store.find(other) is None
    assert store.tag("one", "old") is None
    assert faults(disk) == []


def test_blob_that_is_larger_than_the_volume_evicts_nothing(disk: Path, open_store: Callable[..., Store]) -> None:
    store = open_store(disk, 64 * MIB)
    name = put(store, "one", content(1, MIB))
    with pytest.raises(NoRoom, match="the volume has room for"):
        store.begin(digest(b"large"), 9 * MIB)
    limited = open_store(disk, 2 * MIB)
    with pytest.raises(NoRoom, match="the volume has room for 2097152"):
        limited.begin(digest(b"large"), 3 * MIB)
    assert store.find(name)
    assert faults(disk) == []


def test_parts_share_the_room(disk: Path, open_store: Callable[..., Store]) -> None:
    store = open_store(disk, 64 * MIB)
    first, second = (store.begin(digest(content(number, 3 * MIB)), 3 * MIB) for number in (1, 2))
    with pytest.raises(NoRoom, match="what is under way 6291456"):
        store.begin(digest(content(3, 3 * MIB)), 3 * MIB)
    # Nobody else can take what is reserved.
    with pytest.raises(OSError, match="No space"):
        (disk / "foreign").write_bytes(bytes(3 * MIB))
    (disk / "foreign").unlink()
    second.abandon()
    third = store.begin(digest(content(3, 3 * MIB)), 3 * MIB)
    for number, part in ((1, first), (3, third)):
        part.write(content(number, 3 * MIB))
        part.commit("one")
    assert store.statistics().bytes_stored == 6 * MIB == made_stores.bytes_on_disk(disk)
    assert store.statistics().may_hold <= 8 * MIB
    assert faults(disk) == []


def test_reservations_count_where_the_file_system_cannot_make_them(
    disk: Path, open_store: Callable[..., Store]
) -> None:
    store = open_store(disk, 64 * MIB)
    refusal = OSError(errno.EOPNOTSUPP, "not supported")
    with mock.patch.object(os, "posix_fallocate", side_effect=refusal):
        part = store.begin(digest(content(1, 5 * MIB)), 5 * MIB)
        with pytest.raises(NoRoom, match="what is under way"):
            store.begin(digest(content(2, 5 * MIB)), 5 * MIB)
        part.write(content(1, 5 * MIB))
        assert store.statistics().may_hold >= 7 * MIB
        part.commit("one")
        unknown = store.begin(digest(content(3, 2 * MIB)), None)
        unknown.write(content(3, 2 * MIB))
        unknown.commit("one")
    assert store.path(digest(content(3, 2 * MIB))).read_bytes() == content(3, 2 * MIB)
    assert store.statistics().bytes_stored == made_stores.bytes_on_disk(disk)


def test_disk_that_fills_up_under_a_part_is_no_room_or_evicts(disk: Path, open_store: Callable[..., Store]) -> None:
    store = open_store(disk, 64 * MIB)
    old = put(store, "one", content(1, MIB))
    refusal = OSError(errno.EOPNOTSUPP, "not supported")
    with mock.patch.object(os, "posix_fallocate", side_effect=refusal):
        part = store.begin(digest(content(2, 3 * MIB)), 3 * MIB)
        large = store.begin(digest(content(3, 3 * MIB)), 3 * MIB)
    (disk / "foreign").write_bytes(bytes(4 * MIB))
    part.write(content(2, 3 * MIB))
    part.commit("one")
    assert store.find(old) is None
    (disk / "more").write_bytes(bytes(MIB - 16 * KIB))
    store.path(part.digest).unlink()
    (disk / "even more").write_bytes(bytes(3 * MIB))
    with pytest.raises(NoRoom, match="no space is left"):
        large.write(content(3, 3 * MIB))
    large.abandon()
    for name in ("foreign", "more", "even more"):
        (disk / name).unlink()
    assert faults(disk) == []


def test_part_of_unknown_size_takes_room_as_it_grows(disk: Path, open_store: Callable[..., Store]) -> None:
    store = open_store(disk, 64 * MIB)
    old = put(store, "one", content(1, 2 * MIB))
    part = store.begin(digest(content(2, 7 * MIB)), None)
    for number in range(7):
        part.write(content(2, 7 * MIB)[number * MIB : (number + 1) * MIB])
    assert store.find(old) is None
    with pytest.raises(NoRoom, match="what is under way 7340032 of the 8388608"):
        part.write(bytes(2 * MIB))
    part.abandon()
    again = store.begin(digest(content(2, 7 * MIB)), None)
    again.write(content(2, 7 * MIB))
    again.commit("one")
    assert store.path(digest(content(2, 7 * MIB))).read_bytes() == content(2, 7 * MIB)
    assert store.statistics().bytes_stored == 7 * MIB == made_stores.bytes_on_disk(disk)


def test_foreign_file_leaves_less_to_hold_and_growing_more(
    disk: Path, open_store: Callable[..., Store], clock: Clock
) -> None:
    store = open_store(disk, 64 * MIB)
    (disk / "foreign").write_bytes(bytes(6 * MIB))
    with pytest.raises(NoRoom):
        store.begin(digest(b"x"), 3 * MIB)
    names = []
    for number in range(4):
        clock.now += 1
        names.append(put(store, "one", content(number, MIB // 2)))
    assert store.find(names[0]) is None
    assert store.find(names[3])
    made_stores.remount(disk, "size=16m")
    put(store, "one", content(9, 8 * MIB))
    assert all(store.find(name) for name in names[1:])


def test_disk_that_somebody_else_filled_up_takes_nothing_away(disk: Path, open_store: Callable[..., Store]) -> None:
    store = open_store(disk, 64 * MIB)
    fill(disk / "foreign")
    with pytest.raises(NoRoom, match="the volume has room for 0"):
        store.begin(digest(b"x"), 1)
    with pytest.raises(NoRoom):
        store.put_manifest("one", manifest_of(b"config", []), "v1")
    (disk / "foreign").unlink()
    store.put_manifest("one", manifest_of(b"config", []), "v1")
    assert faults(disk) == []


def test_evicted_file_that_is_being_sent_does_not_let_all_else_be_evicted(
    disk: Path, open_store: Callable[..., Store], clock: Clock
) -> None:
    store = open_store(disk, 64 * MIB)
    sent = put(store, "one", content(1, 2 * MIB))
    names = []
    for number in range(2, 25):
        clock.now += 1
        names.append(put(store, "one", content(number, 256 * KIB)))
    with store.path(sent).open("rb") as file:
        put(store, "one", content(100, 512 * KIB))
        assert store.find(sent) is None
        assert sum(store.find(name) is not None for name in names) >= len(names) - 9
        assert file.read() == content(1, 2 * MIB)


def test_room_is_kept_below_high_water(disk: Path, open_store: Callable[..., Store], clock: Clock) -> None:
    store = open_store(disk, 64 * MIB, high_water=0.5)
    names = []
    for number in range(14):
        clock.now += 1
        names.append(put(store, "one", content(number, MIB // 2)))
    manifest = store.put_manifest("one", manifest_of(b"config", []), "v1")
    evicted = store.keep_room()
    assert evicted == names[:7]
    assert store.statistics().bytes_stored <= store.statistics().may_hold // 2
    assert store.keep_room() == []
    assert store.tag("one", "v1") == manifest


def test_one_layer_above_high_water_stays_until_room_is_needed(
    disk: Path, open_store: Callable[..., Store], clock: Clock
) -> None:
    store = open_store(disk, 64 * MIB)
    small = put(store, "one", content(1, MIB // 4))
    clock.now += 1
    large = put(store, "one", content(2, 7 * MIB + MIB // 2))
    assert store.keep_room() == [small]
    assert store.find(large)
    put(store, "one", content(1, MIB))
    assert store.find(large) is None


def test_used_up_inodes_evict(tmp_path: Path, open_store: Callable[..., Store], clock: Clock) -> None:
    with small_disk(tmp_path / "disk", "size=64m", "nr_inodes=60") as disk:
        store = open_store(disk, 64 * MIB)
        first = store.put_manifest("one", manifest_of(b"config", []), "v1")
        for number in range(30):
            clock.now += 1
            put(store, "one", content(number, KIB))
        assert store.find(digest(content(29, KIB)))
        assert store.statistics().removed["evicted"] > 0
        assert store.find(first) is None
        assert faults(disk) == []
        for number in range(100):
            (disk / f"foreign{number}").touch()
            if not os.statvfs(disk).f_favail:
                break
        with pytest.raises(NoRoom, match="no inodes are left"):
            # It takes more folders than all that could be evicted.
            put(store, "a/" * 100 + "a", content(40, KIB))
        assert faults(disk) == []


def test_inodes_are_kept_free(tmp_path: Path, open_store: Callable[..., Store], clock: Clock) -> None:
    with small_disk(tmp_path / "disk", "size=64m", "nr_inodes=2000") as disk:
        store = open_store(disk, 64 * MIB)
        for number in range(250):
            clock.now += 1
            put(store, "one", content(number, KIB))
        assert store.keep_room() == []
        for number in range(os.statvfs(disk).f_favail - 10):
            (disk / f"foreign{number}").touch()
        evicted = store.keep_room()
        assert 0 < len(evicted) < 60
        assert evicted[0] == digest(content(0, KIB))
        assert os.statvfs(disk).f_favail >= 40
        assert store.keep_room() == []


def test_read_only_disk_is_read_all_the_same(disk: Path, open_store: Callable[..., Store], clock: Clock) -> None:
    store = open_store(disk, 64 * MIB)
    manifest, names = put_image(store, "one", "v1", 1)
    damaged = put(store, "one", content(7))
    store.path(damaged).write_bytes(b"")
    dangling = put(store, "two", content(8))
    store.path(dangling).unlink()
    (disk / "parts" / "left").write_bytes(b"left")
    made_stores.remount(disk, "ro")
    store = open_store(disk, 64 * MIB)
    assert store.tag("one", "v1") == manifest
    assert store.manifest("one", manifest)
    assert store.manifest("new", manifest)
    clock.now += 1000
    for name in (manifest, *names):
        store.use("one", name)
        store.use("other", name)
        assert store.find(name)
    assert store.find(damaged) is None
    assert store.find(dangling) is None
    assert {error.errno for error in store.stuck.values()} <= {errno.EROFS, errno.ENOSPC}
    assert str(disk / "parts" / "left") in store.stuck
    with pytest.raises(NoRoom, match="read-only"):
        store.begin(digest(b"x"), 1)
    with pytest.raises(NoRoom, match="read-only"):
        store.set_tag("one", "v2", manifest)
    with pytest.raises(OSError, match="Read-only"):
        store.remove_tag("one", "v1")
    assert store.tag("one", "v1") == manifest
    clock.now += 1000
    assert store.expire(10) == []
    assert store.verify(names[0])
    made_stores.remount(disk, "rw")
    assert store.find(damaged) is None
    assert damaged not in store.stuck
    # Cleared when it is used; what is in no place of its own goes at the next start.
    open_store(disk, 64 * MIB)
    assert faults(disk) == []


def fill(path: Path) -> None:
    """Take all the room that is left."""
    status = os.statvfs(path.parent)
    path.write_bytes(bytes(status.f_bavail * status.f_frsize))


# Damage.


@pytest.mark.parametrize("left", [0, 100, 64 * KIB - 1])
def test_truncated_blob_is_forgotten(store: Store, tmp_path: Path, left: int) -> None:
    name = put(store, "one", content(1))
    store.use("two", name)
    os.truncate(store.path(name), left)
    assert store.find(name) is None
    assert made_stores.is_empty(tmp_path)
    assert store.statistics().removed == {"damaged": 1}


def test_lost_blob_is_forgotten(store: Store, tmp_path: Path) -> None:
    name = put(store, "one", content(1))
    store.path(name).unlink()
    assert store.find(name) is None
    assert made_stores.is_empty(tmp_path)


def test_truncated_blobs_are_taken_out_at_the_start(
    store: Store, open_store: Callable[..., Store], tmp_path: Path
) -> None:
    manifest, names = put_image(store, "one", "v1", 1, 2)
    unnamed = put(store, "one", content(3))
    os.truncate(store.path(names[0]), 10)
    os.truncate(store.path(names[1]), 0)
    os.truncate(store.path(unnamed), 0)
    again = open_store(tmp_path)
    assert [again.find(name) for name in (*names, unnamed)] == [None, None, 64 * KIB, None]
    assert again.tag("one", "v1") == manifest
    assert again.statistics().removed == {"damaged": 3}
    assert faults(tmp_path) == []


def test_flipped_bit_is_found_by_reading_once(store: Store, open_store: Callable[..., Store], tmp_path: Path) -> None:
    good, bad = (put(store, "one", content(number)) for number in (1, 2))
    flip(store.path(bad))
    again = open_store(tmp_path)
    assert again.find(bad)
    assert not again.verify(bad)
    assert again.find(bad) is None
    assert not again.verify(bad)
    assert again.verify(good)
    with mock.patch.object(Path, "open", side_effect=OSError(errno.EIO, "not read again")):
        assert again.verify(good)
    assert faults(tmp_path) == []
    put(again, "one", content(2))
    assert again.verify(bad)


def test_unreadable_blob_is_removed_but_not_for_lack_of_descriptors(
    store: Store, open_store: Callable[..., Store], tmp_path: Path
) -> None:
    name = put(store, "one", content(1))
    again = open_store(tmp_path)
    with (
        mock.patch.object(Path, "open", side_effect=OSError(errno.EMFILE, "too many")),
        pytest.raises(OSError, match="m"),
    ):
        again.verify(name)
    with mock.patch.object(Path, "open", side_effect=OSError(errno.EMFILE, "too many")):
        assert again.find(name)
    with mock.patch.object(Path, "open", side_effect=OSError(errno.EIO, "broken")):
        assert not again.verify(name)
    assert made_stores.is_empty(tmp_path)


def test_manifest_that_names_more_than_images_have_takes_no_memory_for_that(store: Store) -> None:
    layers = [number.to_bytes(4) for number in range(1001)]
    few, many = (manifest_of(b"config", layers[-count:]) for count in (10, 1001))
    store.put_manifest("one", many)
    assert store.expected_size(digest(layers[0])) is None
    store.put_manifest("one", few)
    assert store.expected_size(digest(layers[-1])) == 4


def test_blob_that_is_used_in_many_repositories_is_one_trouble_each_on_a_disk_that_is_read_only(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=8m") as disk:
        store = Store(disk, 8 << 20)
        store.load()
        name = put(store, "one", content(1))
        remount(disk, "ro")
        for _ in range(5):
            store.use("two", name)
        assert len(store.stuck) == 1


def test_blob_that_the_disk_cannot_give_from_there_on_is_removed(store: Store, tmp_path: Path) -> None:
    """Also one that was compared with its digest when it came."""
    name = put(store, "one", content(1))
    read = os.pread

    def sector_is_bad(descriptor: int, size: int, offset: int) -> bytes:
        if offset >= 4096:
            raise OSError(errno.EIO, "broken")
        return read(descriptor, size, offset)

    with mock.patch.object(os, "pread", sector_is_bad):
        assert store.find(name)
        assert store.find(name, 4096) is None
    assert made_stores.is_empty(tmp_path)


def test_manifest_with_a_flipped_bit_is_never_given_out(
    store: Store, open_store: Callable[..., Store], tmp_path: Path
) -> None:
    wanted = manifest_of(b"config", [content(1)])
    for store_now in (store, open_store(tmp_path)):
        name = store_now.put_manifest("one", wanted, "v1")
        flip(store_now.path(name))
        assert store_now.manifest("one", name) is None
        assert store_now.tag("one", "v1") is None
        assert made_stores.is_empty(tmp_path)
    name = store.put_manifest("one", wanted, "v1")
    flip(store.path(name))
    assert open_store(tmp_path).tag("one", "v1") is None
    assert made_stores.is_empty(tmp_path)


def test_manifest_that_comes_again_repairs_a_damaged_one(store: Store, tmp_path: Path) -> None:
    wanted = manifest_of(b"config", [content(1)])
    name = store.put_manifest("one", wanted, "v1")
    flip(store.path(name))
    store.put_manifest("one", wanted, "v1")
    assert store.manifest("one", name) == wanted
    assert faults(tmp_path) == []


def flip(path: Path) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[20] ^= 1
    path.write_bytes(damaged)


# What a killed program leaves, and somebody else.


def test_leftovers_are_taken_out_at_the_start(store: Store, open_store: Callable[..., Store], tmp_path: Path) -> None:
    manifest, names = put_image(store, "library/alpine", "v1", 1)
    for number, (kind, name) in enumerate([(LAYERS, digest(b"x")), (REVISIONS, digest(b"y"))]):
        path = link(tmp_path, f"gone{number}", kind, name)
        path.parent.mkdir(parents=True)
        path.write_text(name)
    tag = link(tmp_path, "library/alpine", "_manifests/tags/v2", "current")
    tag.parent.mkdir(parents=True)
    tag.write_text(digest(b"gone"))
    (tmp_path / "parts" / "7").write_bytes(bytes(100))
    wrong = link(tmp_path, "library/wrong", LAYERS, names[0])
    wrong.parent.mkdir(parents=True)
    wrong.write_bytes(bytes(71))
    other = link(tmp_path, "library/wrong", LAYERS, digest(b"other"))
    other.parent.mkdir(parents=True)
    other.write_text(names[0])
    repository = tmp_path / "docker/registry/v2/repositories/library/alpine"
    (repository / "_uploads/1234/hashstates").mkdir(parents=True)
    (repository / "_uploads/1234/data").write_bytes(b"left")
    (repository / "_manifests/tags/v1/current/link.1234.tmp").write_text("left")
    (store.path(names[0]).parent / "data.1234.tmp").write_text("left")
    (store.path(digest(b"empty")).parent).mkdir(parents=True)
    (repository / "deeper/one/_layers/sha256").mkdir(parents=True)
    again = open_store(tmp_path)
    assert faults(tmp_path) == []
    assert again.stuck == {}
    assert again.tag("library/alpine", "v1") == manifest
    assert all(again.find(name) for name in names)
    assert again.statistics() == store.statistics()


def test_blob_without_a_link_stays_and_is_used_again(
    store: Store, open_store: Callable[..., Store], tmp_path: Path
) -> None:
    name = put(store, "one", content(1))
    link(tmp_path, "one", LAYERS, name).unlink()
    again = open_store(tmp_path)
    assert again.find(name)
    again.use("two", name)
    assert link(tmp_path, "two", LAYERS, name).read_text() == name


def test_repositories_below_each_other_are_kept_apart(
    store: Store, open_store: Callable[..., Store], clock: Clock, tmp_path: Path
) -> None:
    outer, _ = put_image(store, "a", "v1", 1)
    inner, _ = put_image(store, "a/b/c", "v1", 2)
    again = open_store(tmp_path)
    assert (again.tag("a", "v1"), again.tag("a/b/c", "v1"), again.tag("a/b", "v1")) == (outer, inner, None)
    clock.now += 100
    again.use("a/b/c", inner)
    again.expire(50)
    assert (again.tag("a", "v1"), again.tag("a/b/c", "v1")) == (None, inner)
    assert faults(tmp_path) == []


def test_what_cannot_be_listed_is_not_taken_for_gone(store: Store, tmp_path: Path) -> None:
    name = put(store, "one", content(1))
    group = store.path(name).parent.parent
    real = os.listdir

    def broken(path: Any) -> list[str]:
        if Path(path) == group:
            raise OSError(errno.EIO, "broken")
        return real(path)

    with mock.patch.object(os, "listdir", broken):
        store.load()
    assert store.stuck[str(group)].errno == errno.EIO
    assert store.find(name) is None
    assert link(tmp_path, "one", LAYERS, name).exists()
    store.load()
    assert store.find(name)


def test_size_that_a_manifest_lies_about_does_not_remove_another_manifest(
    store: Store, open_store: Callable[..., Store], tmp_path: Path
) -> None:
    manifest, _ = put_image(store, "one", "v1", 1)
    content_of_it = store.manifest("one", manifest) or b""
    lying = index_of([content_of_it]).replace(str(len(content_of_it)).encode(), b"4")
    store.put_manifest("one", lying)
    assert open_store(tmp_path).tag("one", "v1") == manifest


# Many at once.


def test_many_threads_that_put_use_and_evict_at_once(disk: Path, open_store: Callable[..., Store]) -> None:
    store = open_store(disk, 64 * MIB)
    raised: list[BaseException] = []

    def run(number: int) -> None:
        try:
            for step in range(20):
                repository = f"r{(number + step) % 3}"
                layer = put(store, repository, content((number * step) % 40, 300 * KIB))
                name = store.put_manifest(repository, manifest_of(b"", [content((number * step) % 40)]), f"t{step % 4}")
                store.use(repository, name)
                store.find(layer)
                store.use(f"r{step % 3}", layer)
                store.manifest("r1", name)
                store.keep_room()
        except NoRoom:
            return
        except FileNotFoundError:
            # Evicted between its coming and its link.
            return
        except BaseException as error:  # noqa: BLE001 - shown below
            raised.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert raised == []
    assert store.stuck == {}
    assert store._parts == set()
    assert store.statistics().bytes_stored == made_stores.bytes_on_disk(disk)
    assert faults(disk) == []
