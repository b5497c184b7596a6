"""Blobs that are being written: they are read at the same time, and only the right content is kept."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING
from unittest import mock

import pytest
from made_stores import bytes_on_disk, content, find_faults, is_empty, put_blob
from store.store import Store, WrongContent
from upstreams.oci import digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("written", [content(2), content(1)[:-1], content(1) + b"x", b""])
def test_wrong_content_is_never_kept(store: Store, tmp_path: Path, written: bytes) -> None:
    incoming = store.begin_blob(digest(content(1)), len(content(1)))
    with pytest.raises(WrongContent):  # noqa: PT012 - too much content is rejected early, other content at the end
        incoming.write(written)
        incoming.commit("one")
    assert store.find_blob(digest(content(1))) is None
    assert store.statistics().stored_bytes == 0
    assert is_empty(tmp_path)


def test_blob_can_be_read_while_it_is_written_and_afterwards(store: Store) -> None:
    incoming = store.begin_blob(digest(content(1)), None)
    incoming.write(content(1)[:1000])
    with incoming.open_for_reading() as early:
        assert early.read(incoming.written) == content(1)[:1000]
        incoming.write(content(1)[1000:])
        incoming.commit("one")
        assert early.read() == content(1)[1000:]
    with incoming.open_for_reading() as late:
        assert late.read() == content(1)
    assert store.find_blob(digest(content(1))) == len(content(1))


def test_bytes_that_were_written_ahead_are_appended_in_order(store: Store, tmp_path: Path) -> None:
    whole = content(1)
    incoming = store.begin_blob(digest(whole), len(whole))
    assert incoming.write_ahead(2000, memoryview(whole)[2000:3000])
    assert incoming.write_ahead(1000, memoryview(whole)[1000:2000])
    incoming.write(whole[:1000])
    incoming.append_written(2000)
    assert incoming.written == 3000
    incoming.write(whole[3000:])
    incoming.commit("one")
    assert store.blob_path(digest(whole)).read_bytes() == whole
    assert find_faults(tmp_path) == []


def test_bytes_that_were_appended_cannot_be_written_ahead_any_more(store: Store) -> None:
    """Otherwise a connection that is late could change content after it was compared with the digest."""
    whole = content(1)
    incoming = store.begin_blob(digest(whole), len(whole))
    incoming.write(whole[:1500])
    assert not incoming.write_ahead(1000, memoryview(b"x" * 1000))
    incoming.write(whole[1500:])
    assert not incoming.write_ahead(len(whole) - 1, memoryview(b"x"))
    incoming.commit("one")
    assert not incoming.write_ahead(len(whole), memoryview(b"x"))
    assert store.blob_path(digest(whole)).read_bytes() == whole


def test_wrong_bytes_that_were_written_ahead_are_not_kept(store: Store, tmp_path: Path) -> None:
    whole = content(1)
    incoming = store.begin_blob(digest(whole), len(whole))
    assert incoming.write_ahead(10, memoryview(b"x" * (len(whole) - 10)))
    incoming.write(whole[:10])
    incoming.append_written(len(whole) - 10)
    with pytest.raises(WrongContent):
        incoming.commit("one")
    assert is_empty(tmp_path)


def test_disk_that_cannot_flush_a_blob_is_reported_until_one_is_stored(store: Store) -> None:
    incoming = store.begin_blob(digest(content(1)), len(content(1)))
    incoming.write(content(1))
    with mock.patch("os.fsync", side_effect=OSError(errno.EIO, "broken")), pytest.raises(OSError, match="broken"):
        incoming.commit("one")
    assert store.statistics().inaccessible_files == 1
    put_blob(store, "one", content(2))
    assert store.statistics().inaccessible_files == 0


def test_empty_blob_is_kept(store: Store, open_store: Callable[..., Store], tmp_path: Path) -> None:
    put_blob(store, "one", b"")
    assert store.find_blob(digest(b"")) == 0
    assert open_store(tmp_path).find_blob(digest(b"")) == 0


def test_blob_that_is_written_twice_is_stored_once(store: Store, tmp_path: Path) -> None:
    both = [store.begin_blob(digest(content(1)), len(content(1))) for _ in range(2)]
    for number, incoming in enumerate(both):
        incoming.write(content(1))
        incoming.commit(f"r{number}")
    assert store.statistics().stored_bytes == bytes_on_disk(tmp_path)
    assert {path.name for path in (tmp_path / "docker/registry/v2/repositories").iterdir()} == {"r0", "r1"}
    assert find_faults(tmp_path) == []


def test_error_when_a_complete_blob_is_closed_loses_nothing(store: Store, tmp_path: Path) -> None:
    other = put_blob(store, "one", content(1))
    incoming = store.begin_blob(digest(content(2)), len(content(2)))
    incoming.write(content(2))
    failing = {incoming.reservation.descriptor}
    close = os.close

    def close_and_fail(descriptor: int) -> None:
        close(descriptor)
        if descriptor in failing:
            failing.clear()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with mock.patch.object(os, "close", close_and_fail):
        incoming.commit("one")
    assert failing == set()
    assert store.find_blob(digest(content(2))) == len(content(2))
    assert store.find_blob(other)
    assert store.inaccessible == {}
    assert find_faults(tmp_path) == []
