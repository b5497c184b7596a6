"""Loading: stored content is found again, and leftovers of a killed program and damaged content are removed."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from made_stores import (
    KIB,
    LAYERS,
    MIB,
    REVISIONS,
    Clock,
    content,
    find_faults,
    index_of,
    link_path,
    manifest_of,
    put_blob,
    put_image,
    remount,
)
from store.store import NoRoom, Store
from upstreams.oci import digest

if TYPE_CHECKING:
    from collections.abc import Callable


def test_leftovers_are_removed(store: Store, open_store: Callable[..., Store], tmp_path: Path) -> None:
    manifest, names = put_image(store, "library/alpine", "v1", 1)
    for number, (kind, name) in enumerate([(LAYERS, digest(b"x")), (REVISIONS, digest(b"y"))]):
        path = link_path(tmp_path, f"gone{number}", kind, name)
        path.parent.mkdir(parents=True)
        path.write_text(name)
    tag = link_path(tmp_path, "library/alpine", "_manifests/tags/v2", "current")
    tag.parent.mkdir(parents=True)
    tag.write_text(digest(b"gone"))
    (tmp_path / "parts" / "7").write_bytes(bytes(100))
    wrong = link_path(tmp_path, "library/wrong", LAYERS, names[0])
    wrong.parent.mkdir(parents=True)
    wrong.write_bytes(bytes(71))
    other = link_path(tmp_path, "library/wrong", LAYERS, digest(b"other"))
    other.parent.mkdir(parents=True)
    other.write_text(names[0])
    repository = tmp_path / "docker/registry/v2/repositories/library/alpine"
    (repository / "_uploads/1234/hashstates").mkdir(parents=True)
    (repository / "_uploads/1234/data").write_bytes(b"left")
    (repository / "_manifests/tags/v1/current/link.1234.tmp").write_text("left")
    (store.blob_path(names[0]).parent / "data.1234.tmp").write_text("left")
    (store.blob_path(digest(b"empty")).parent).mkdir(parents=True)
    (repository / "deeper/one/_layers/sha256").mkdir(parents=True)
    again = open_store(tmp_path)
    assert find_faults(tmp_path) == []
    assert again.inaccessible == {}
    assert again.resolve_tag("library/alpine", "v1") == manifest
    assert all(again.find_blob(name) for name in names)
    assert again.statistics() == store.statistics()


def test_blob_without_a_link_stays_and_is_used_again(
    store: Store, open_store: Callable[..., Store], tmp_path: Path
) -> None:
    name = put_blob(store, "one", content(1))
    link_path(tmp_path, "one", LAYERS, name).unlink()
    again = open_store(tmp_path)
    assert again.find_blob(name)
    again.put_manifest("two", manifest_of(b"", [content(1)]))
    again.mark_used("two", name)
    assert link_path(tmp_path, "two", LAYERS, name).read_text() == name


def test_repositories_inside_each_other_are_kept_apart(
    store: Store, open_store: Callable[..., Store], clock: Clock, tmp_path: Path
) -> None:
    outer, _ = put_image(store, "a", "v1", 1)
    inner, _ = put_image(store, "a/b/c", "v1", 2)
    again = open_store(tmp_path)
    assert [again.resolve_tag(each, "v1") for each in ("a", "a/b/c", "a/b")] == [outer, inner, None]
    clock.now += 100
    again.mark_used("a/b/c", inner)
    again.expire(50)
    assert (again.resolve_tag("a", "v1"), again.resolve_tag("a/b/c", "v1")) == (None, inner)
    assert find_faults(tmp_path) == []


def test_folder_that_cannot_be_listed_does_not_count_as_empty(store: Store, tmp_path: Path) -> None:
    name = put_blob(store, "one", content(1))
    group = store.blob_path(name).parent.parent

    def breaking(real: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def call(path: Any) -> Any:
            if Path(path) == group:
                raise OSError(errno.EIO, "broken")
            return real(path)

        return call

    # pathlib uses the one or the other.
    listdir, scandir = breaking(os.listdir), breaking(os.scandir)
    with mock.patch.object(os, "listdir", listdir), mock.patch.object(os, "scandir", scandir):
        store.load()
    assert store.inaccessible[str(group)].errno == errno.EIO
    assert store.find_blob(name) is None
    assert link_path(tmp_path, "one", LAYERS, name).exists()
    store.load()
    assert store.find_blob(name)


def test_truncated_blobs_are_removed(store: Store, open_store: Callable[..., Store], tmp_path: Path) -> None:
    manifest, names = put_image(store, "one", "v1", 1, 2)
    unnamed = put_blob(store, "one", content(3))
    os.truncate(store.blob_path(names[0]), 10)
    os.truncate(store.blob_path(names[1]), 0)
    os.truncate(store.blob_path(unnamed), 0)
    again = open_store(tmp_path)
    assert [again.find_blob(name) for name in (*names, unnamed)] == [None, None, 64 * KIB, None]
    assert again.resolve_tag("one", "v1") == manifest
    assert again.statistics().removed == {"damaged": 3}
    assert find_faults(tmp_path) == []


def test_wrong_size_in_a_manifest_does_not_remove_another_manifest(
    store: Store, open_store: Callable[..., Store], tmp_path: Path
) -> None:
    manifest, _ = put_image(store, "one", "v1", 1)
    manifest_content = store.read_manifest("one", manifest) or b""
    lying = index_of([manifest_content]).replace(str(len(manifest_content)).encode(), b"4")
    store.put_manifest("one", lying)
    assert open_store(tmp_path).resolve_tag("one", "v1") == manifest


def test_last_use_survives_a_restart(
    store: Store, open_store: Callable[..., Store], clock: Clock, tmp_path: Path
) -> None:
    used, unused = (put_blob(store, "one", content(number)) for number in (1, 2))
    clock.now += 1000
    store.mark_used("one", used)
    again = open_store(tmp_path)
    assert again.expire(500) == [unused]
    assert again.find_blob(used)


def test_last_use_in_the_future_counts_as_now(
    store: Store, open_store: Callable[..., Store], clock: Clock, tmp_path: Path
) -> None:
    name = put_blob(store, "one", content(1))
    clock.now -= 50_000
    assert store.expire(100) == []
    again = open_store(tmp_path)
    assert store.blob_path(name).stat().st_mtime == clock.now
    clock.now += 101
    assert again.expire(100) == [name]
    assert store.expire(100) == [name]


def test_read_only_disk_is_read(disk: Path, open_store: Callable[..., Store], clock: Clock) -> None:
    store = open_store(disk, 64 * MIB)
    manifest, names = put_image(store, "one", "v1", 1)
    damaged = put_blob(store, "one", content(7))
    store.blob_path(damaged).write_bytes(b"")
    dangling = put_blob(store, "two", content(8))
    store.blob_path(dangling).unlink()
    (disk / "parts" / "left").write_bytes(b"left")
    remount(disk, "ro")
    store = open_store(disk, 64 * MIB)
    assert store.resolve_tag("one", "v1") == manifest
    assert store.read_manifest("one", manifest)
    assert store.read_manifest("new", manifest)
    clock.now += 1000
    for name in (manifest, *names):
        store.mark_used("one", name)
        store.mark_used("other", name)
        assert store.find_blob(name) or name == manifest
    assert store.find_blob(damaged) is None
    assert store.find_blob(dangling) is None
    assert {error.errno for error in store.inaccessible.values()} <= {errno.EROFS, errno.ENOSPC}
    assert str(disk / "parts" / "left") in store.inaccessible
    with pytest.raises(NoRoom, match="read-only"):
        store.begin_blob(digest(b"x"), 1)
    with pytest.raises(NoRoom, match="read-only"):
        store.set_tag("one", "v2", manifest)
    with pytest.raises(OSError, match="Read-only"):
        store.remove_tag("one", "v1")
    assert store.resolve_tag("one", "v1") == manifest
    clock.now += 1000
    assert store.expire(10) == []
    assert store.verify_blob(names[0])
    remount(disk, "rw")
    assert store.find_blob(damaged) is None
    assert damaged not in store.inaccessible
    # Leftovers that only show when folders are listed are removed by the next start.
    open_store(disk, 64 * MIB)
    assert find_faults(disk) == []
