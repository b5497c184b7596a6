"""The store as the gate uses it: blobs, manifests and tags, their use and expiry, and damaged content."""

from __future__ import annotations

import errno
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import pytest
from made_stores import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    KIB,
    LAYERS,
    MIB,
    REVISIONS,
    Clock,
    bytes_on_disk,
    content,
    find_faults,
    flip_bit,
    index_of,
    is_empty,
    link_path,
    manifest_of,
    put_blob,
    put_image,
    remount,
    small_disk,
)
from store import index as index_module
from store import writing
from store.store import NoRoom, Store, WrongContent
from upstreams.oci import MANIFEST, digest

if TYPE_CHECKING:
    from collections.abc import Callable


def test_layer_is_stored_and_linked_in_distributions_layout(store: Store, tmp_path: Path) -> None:
    name = put_blob(store, "library/alpine", content(1))
    assert store.find_blob(name) == 64 * KIB
    assert store.blob_path(name).read_bytes() == content(1)
    hexadecimal = name.removeprefix("sha256:")
    assert store.blob_path(name) == tmp_path / f"docker/registry/v2/blobs/sha256/{hexadecimal[:2]}/{hexadecimal}/data"
    assert link_path(tmp_path, "library/alpine", LAYERS, name).read_text() == name
    assert find_faults(tmp_path) == []


@pytest.mark.parametrize("media_type", [MANIFEST, DOCKER_MANIFEST, None])
def test_manifest_is_found_by_digest_and_by_tag(store: Store, tmp_path: Path, media_type: str | None) -> None:
    manifest = manifest_of(b"config", [content(1)], media_type)
    name = store.put_manifest("a/b/c", manifest, "v1")
    assert name == digest(manifest)
    assert store.resolve_tag("a/b/c", "v1") == name
    assert store.read_manifest("a/b/c", name) == manifest
    assert store.expected_size(digest(content(1))) == 64 * KIB
    assert store.expected_size(digest(b"config")) == 6
    assert link_path(tmp_path, "a/b/c", "_manifests/tags/v1", "current").read_text() == name
    assert link_path(tmp_path, "a/b/c", "_manifests/tags/v1/index/sha256", name).read_text() == name
    assert find_faults(tmp_path) == []


def test_manifest_of_one_repository_can_be_read_from_another(store: Store, tmp_path: Path) -> None:
    name = store.put_manifest("one", manifest_of(b"config", []))
    assert store.read_manifest("other", name) == manifest_of(b"config", [])
    assert not link_path(tmp_path, "other", REVISIONS, name).exists()
    store.put_manifest("other", index_of([manifest_of(b"config", [])]))
    assert store.read_manifest("other", name) == manifest_of(b"config", [])
    assert link_path(tmp_path, "other", REVISIONS, name).read_text() == name


def test_layer_is_not_read_as_a_manifest(store: Store) -> None:
    assert store.read_manifest("one", put_blob(store, "one", content(1))) is None


def test_tag_can_be_moved_and_removed(store: Store, tmp_path: Path) -> None:
    first = store.put_manifest("one", manifest_of(b"first", []), "latest")
    second = store.put_manifest("one", manifest_of(b"second", []), "latest")
    assert store.resolve_tag("one", "latest") == second
    store.set_tag("one", "latest", first)
    assert store.resolve_tag("one", "latest") == first
    assert find_faults(tmp_path) == []
    store.remove_tag("one", "latest")
    assert store.resolve_tag("one", "latest") is None
    assert store.read_manifest("one", first)
    assert not (tmp_path / "docker/registry/v2/repositories/one/_manifests/tags").exists()


def test_tag_adds_a_manifest_of_another_repository_to_its_own(store: Store, tmp_path: Path) -> None:
    name = store.put_manifest("one", manifest_of(b"config", []))
    store.set_tag("other", "v1", name)
    assert find_faults(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        store.set_tag("other", "v1", digest(b"not there"))


def test_names_that_could_lead_out_of_their_folder_are_rejected(store: Store) -> None:
    name = store.put_manifest("one", b"{}")
    incoming = store.begin_blob(digest(b"x"), 1)
    for action in (
        lambda: store.put_manifest("../out", b"{}", "v1"),
        lambda: store.put_manifest("one", b"{}", ".."),
        lambda: store.set_tag("../out", "v1", name),
        lambda: store.set_tag("one", "..", name),
        lambda: store.set_tag("one", "v1", "sha256:../out"),
        lambda: store.remove_tag("../out", "v1"),
        lambda: store.remove_tag("one", ".."),
        lambda: store.read_manifest("../out", name),
        lambda: store.mark_used("../out", name),
        lambda: incoming.commit("../out"),
    ):
        with pytest.raises(ValueError, match="not a valid "):
            action()
    incoming.abandon()


def test_digests_that_could_lead_out_of_their_folder_are_rejected(store: Store) -> None:
    for name in ("sha256:../../x", "sha256:" + "A" * 64, "sha512:" + "0" * 128, "", digest(b"") + "\n"):
        with pytest.raises(ValueError, match="not a valid digest"):
            store.blob_path(name)
        with pytest.raises(ValueError, match="not a valid digest"):
            store.begin_blob(name, 1)
        assert store.find_blob(name) is None


def test_expected_size_is_unknown_while_manifests_disagree(store: Store) -> None:
    store.put_manifest("one", manifest_of(b"config", [content(1)]))
    lying = manifest_of(b"config", [content(1)]).replace(b"65536", b"4")
    name = store.put_manifest("one", lying)
    assert store.expected_size(digest(content(1))) is None
    assert store.expected_size(digest(b"config")) == 6
    store._removal.remove_blob(name, "expired")
    assert store.expected_size(digest(content(1))) == 64 * KIB


@pytest.mark.parametrize(
    "manifest",
    [
        *[b"", b"[]", b"{", b'{"layers": 1}', b'{"layers": [{"digest": 1, "size": 2}, 3]}', b"[" * 100_000],
        *[b'{"config": {"digest": "sha512:00", "size": 1}}', b'{"layers": [{"digest": "%s", "size": true}]}'],
    ],
)
def test_content_that_is_not_a_proper_manifest_is_stored_and_refers_to_nothing(store: Store, manifest: bytes) -> None:
    if b"%s" in manifest:
        manifest %= digest(b"x").encode()
    name = store.put_manifest("one", manifest)
    assert store.read_manifest("one", name) == manifest
    assert store._index.references.count == 0


def test_references_of_a_manifest_with_too_many_take_no_memory(store: Store) -> None:
    layers = [number.to_bytes(4) for number in range(1001)]
    few, many = (manifest_of(b"config", layers[-count:]) for count in (10, 1001))
    store.put_manifest("one", many)
    assert store.expected_size(digest(layers[0])) is None
    store.put_manifest("one", few)
    assert store.expected_size(digest(layers[-1])) == 4


# Use and expiry


def test_unused_content_expires_and_leaves_nothing(store: Store, clock: Clock, tmp_path: Path) -> None:
    manifest, names = put_image(store, "library/alpine", "latest", 1, 2)
    image = store.read_manifest("library/alpine", manifest) or b""
    index = store.put_manifest("library/alpine", index_of([image]), "all")
    clock.now += 100
    assert store.expire(101) == []
    assert sorted(store.expire(99)) == sorted([manifest, index, *names])
    assert is_empty(tmp_path)
    assert store.resolve_tag("library/alpine", "latest") is None
    assert store.statistics().removed == {"expired": 5}
    assert store.statistics().stored_bytes == 0


def test_ttl_of_0_keeps_everything(store: Store, clock: Clock) -> None:
    name = put_blob(store, "one", content(1))
    clock.now += 1e9
    assert store.expire(0) == []
    assert store.expire(-1) == []
    assert store.find_blob(name)


def test_changed_ttl_applies_to_stored_content(
    store: Store, open_store: Callable[..., Store], clock: Clock, tmp_path: Path
) -> None:
    names = []
    for number in range(3):
        names.append(put_blob(store, "one", content(number)))
        clock.now += 1000
    assert store.expire(10_000) == []
    assert store.expire(2500) == names[:1]
    assert open_store(tmp_path).expire(1500) == names[1:2]


def test_image_in_use_does_not_expire_although_only_its_manifest_is_requested(
    store: Store, open_store: Callable[..., Store], clock: Clock, tmp_path: Path
) -> None:
    manifest, names = put_image(store, "one", None, 1, 2)
    index = store.put_manifest("one", index_of([store.read_manifest("one", manifest) or b""], DOCKER_LIST), "hot")
    cold = put_blob(store, "one", content(3))
    for _ in range(10):
        clock.now += 90
        store.mark_used("one", index)
        store.expire(100)
    assert store.read_manifest("one", index)
    assert store.read_manifest("one", manifest)
    assert all(store.find_blob(name) for name in names)
    assert store.find_blob(cold) is None
    assert open_store(tmp_path).expire(100) == []


def test_content_is_found_as_what_it_was_stored(store: Store, open_store: Callable[..., Store], tmp_path: Path) -> None:
    image = manifest_of(b"", [content(1)])
    manifest, layer = store.put_manifest("one", image), put_blob(store, "one", content(1))
    for opened in (store, open_store(tmp_path)):
        assert (opened.find_blob(manifest), opened.find_blob(layer)) == (None, 64 * KIB)
        assert (opened.read_manifest("one", manifest), opened.read_manifest("one", layer)) == (image, None)
    # Some registries serve it as both.
    put_blob(store, "two", image)
    for opened in (store, open_store(tmp_path)):
        assert opened.find_blob(manifest) == len(image)
        assert opened.read_manifest("one", manifest) == image


def test_two_programs_on_one_volume_store_only_right_content(
    store: Store, open_store: Callable[..., Store], tmp_path: Path
) -> None:
    """The lock on the volume keeps them apart, but not every file system has locks."""
    other = open_store(tmp_path)
    first, second = (each.begin_blob(digest(content(1)), 64 * KIB) for each in (store, other))
    first.write(content(1)[:1000])
    second.write(content(2)[:2000])
    first.write(content(1)[1000:])
    first.commit("one")
    second.write(content(2)[2000:])
    with pytest.raises(WrongContent):
        second.commit("one")
    assert store.verify_blob(digest(content(1)), anew=True)
    assert find_faults(tmp_path) == []


def test_blob_has_a_bounded_number_of_links(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "MAX_LINKS", 20)
    monkeypatch.setattr(index_module, "MAX_LINKS", 20)
    layer = put_blob(store, "one", content(1))
    manifest = manifest_of(b"", [content(1)])
    for number in range(30):
        with suppress(NoRoom):
            store.put_manifest(f"place{number}", manifest, "v1")
        store.mark_used(f"place{number}", layer)
    with pytest.raises(NoRoom, match="has 20 links"):
        store.put_manifest("another", manifest, "v1")
    assert {len(blob.links) for blob in store._index.blobs.values()} == {11, 20}
    assert store.find_blob(layer)
    assert store.inaccessible == {}
    assert find_faults(tmp_path) == []


def test_use_links_a_blob_in_a_repository_whose_manifest_names_it(store: Store, tmp_path: Path) -> None:
    layer = put_blob(store, "one", content(1))
    image = manifest_of(b"", [content(1)])
    manifest = store.put_manifest("one", image)
    for repository in ("other/place", "made/up"):
        store.mark_used(repository, layer)
        assert store.read_manifest(repository, manifest) == image
    assert sorted(path.name for path in (tmp_path / "docker/registry/v2/repositories").iterdir()) == ["one"]
    store.put_manifest("other/place", index_of([image]))
    assert store.read_manifest("other/place", manifest) == image
    store.mark_used("other/place", layer)
    assert link_path(tmp_path, "other/place", LAYERS, layer).read_text() == layer
    assert link_path(tmp_path, "other/place", REVISIONS, manifest).read_text() == manifest
    store.mark_used("other/place", digest(b"not there"))
    assert find_faults(tmp_path) == []


def test_use_writes_to_the_disk_once_a_minute(store: Store, clock: Clock) -> None:
    name = put_blob(store, "one", content(1))
    with mock.patch.object(os, "utime", wraps=os.utime) as utime:
        for _ in range(130):
            clock.now += 1
            store.mark_used("one", name)
    assert utime.call_count == 2
    assert store.statistics().least_recent_use == clock.now


def test_expired_blob_is_removed_from_all_repositories(store: Store, clock: Clock, tmp_path: Path) -> None:
    name = put_blob(store, "one", content(1))
    assert put_blob(store, "a/b", content(1)) == name
    put_image(store, "a/b", "v1", 1)
    clock.now += 50
    store.mark_used("one", name)
    assert name not in store.expire(40)
    assert find_faults(tmp_path) == []
    clock.now += 50
    assert store.expire(40) == [name]
    assert is_empty(tmp_path)


def test_tag_of_an_expired_manifest_is_removed_with_its_history(store: Store, clock: Clock, tmp_path: Path) -> None:
    first = store.put_manifest("one", manifest_of(b"first", []), "latest")
    second = store.put_manifest("one", manifest_of(b"second", []), "latest")
    clock.now += 100
    store.mark_used("one", first)
    assert store.expire(50) == [second]
    assert store.resolve_tag("one", "latest") is None
    assert store.read_manifest("one", first)
    assert find_faults(tmp_path) == []


# Damage


@pytest.mark.parametrize("left", [0, 100, 64 * KIB - 1])
def test_truncated_blob_is_discarded(store: Store, tmp_path: Path, left: int) -> None:
    name = put_blob(store, "one", content(1))
    store.mark_used("two", name)
    os.truncate(store.blob_path(name), left)
    assert store.find_blob(name) is None
    assert is_empty(tmp_path)
    assert store.statistics().removed == {"damaged": 1}


def test_lost_blob_is_forgotten(store: Store, tmp_path: Path) -> None:
    name = put_blob(store, "one", content(1))
    store.blob_path(name).unlink()
    assert store.find_blob(name) is None
    assert is_empty(tmp_path)


def test_flipped_bit_is_found_by_verifying_once(store: Store, open_store: Callable[..., Store], tmp_path: Path) -> None:
    good, bad = (put_blob(store, "one", content(number)) for number in (1, 2))
    flip_bit(store.blob_path(bad))
    again = open_store(tmp_path)
    assert again.find_blob(bad)
    assert not again.verify_blob(bad)
    assert again.find_blob(bad) is None
    assert not again.verify_blob(bad)
    assert again.verify_blob(good)
    with mock.patch.object(Path, "open", side_effect=OSError(errno.EIO, "not read again")):
        assert again.verify_blob(good)
    assert find_faults(tmp_path) == []
    put_blob(again, "one", content(2))
    assert again.verify_blob(bad)


def test_unreadable_blob_is_discarded_but_not_for_lack_of_descriptors(
    store: Store, open_store: Callable[..., Store], tmp_path: Path
) -> None:
    name = put_blob(store, "one", content(1))
    again = open_store(tmp_path)
    with (
        mock.patch.object(Path, "open", side_effect=OSError(errno.EMFILE, "too many")),
        pytest.raises(OSError, match="m"),
    ):
        again.verify_blob(name)
    with mock.patch.object(Path, "open", side_effect=OSError(errno.EMFILE, "too many")):
        assert again.find_blob(name)
    with mock.patch.object(Path, "open", side_effect=OSError(errno.EIO, "broken")):
        assert not again.verify_blob(name)
    assert is_empty(tmp_path)


def test_blob_with_a_bad_sector_is_discarded_when_it_is_read_from_there(store: Store, tmp_path: Path) -> None:
    """Even if the blob was verified when it was written."""
    name = put_blob(store, "one", content(1))
    read = os.pread

    def sector_is_bad(descriptor: int, size: int, offset: int) -> bytes:
        if offset >= 4096:
            raise OSError(errno.EIO, "broken")
        return read(descriptor, size, offset)

    with mock.patch.object(os, "pread", sector_is_bad):
        assert store.find_blob(name)
        assert store.find_blob(name, 4096) is None
    assert is_empty(tmp_path)


def test_manifest_with_a_flipped_bit_is_never_returned(
    store: Store, open_store: Callable[..., Store], tmp_path: Path
) -> None:
    wanted = manifest_of(b"config", [content(1)])
    for each in (store, open_store(tmp_path)):
        name = each.put_manifest("one", wanted, "v1")
        flip_bit(each.blob_path(name))
        assert each.read_manifest("one", name) is None
        assert each.resolve_tag("one", "v1") is None
        assert is_empty(tmp_path)
    name = store.put_manifest("one", wanted, "v1")
    flip_bit(store.blob_path(name))
    assert open_store(tmp_path).resolve_tag("one", "v1") is None
    assert is_empty(tmp_path)


def test_manifest_that_is_stored_again_repairs_a_damaged_one(store: Store, tmp_path: Path) -> None:
    wanted = manifest_of(b"config", [content(1)])
    name = store.put_manifest("one", wanted, "v1")
    flip_bit(store.blob_path(name))
    store.put_manifest("one", wanted, "v1")
    assert store.read_manifest("one", name) == wanted
    assert find_faults(tmp_path) == []


def test_link_that_cannot_be_written_is_one_error_however_often_the_blob_is_used(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=8m") as disk:
        store = Store(disk, 8 << 20)
        store.load()
        name = put_blob(store, "one", content(1))
        store.put_manifest("two", manifest_of(b"", [content(1)]))
        remount(disk, "ro")
        for _ in range(5):
            store.mark_used("two", name)
        assert len(store.inaccessible) == 1


# Many threads


def test_many_threads_can_write_use_and_evict_at_once(disk: Path, open_store: Callable[..., Store]) -> None:
    store = open_store(disk, 64 * MIB)
    raised: list[BaseException] = []

    def run(number: int) -> None:
        try:
            for step in range(20):
                repository = f"r{(number + step) % 3}"
                layer = put_blob(store, repository, content((number * step) % 40, 300 * KIB))
                name = store.put_manifest(repository, manifest_of(b"", [content((number * step) % 40)]), f"t{step % 4}")
                store.mark_used(repository, name)
                store.find_blob(layer)
                store.mark_used(f"r{step % 3}", layer)
                store.read_manifest("r1", name)
                store.evict_above_high_water()
        except NoRoom:
            return
        except FileNotFoundError:
            # The blob was evicted before it was linked.
            return
        except BaseException as error:  # noqa: BLE001 - reported below
            raised.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert raised == []
    assert store.inaccessible == {}
    assert store._room.reservations == set()
    assert store.statistics().stored_bytes == bytes_on_disk(disk)
    assert find_faults(disk) == []
