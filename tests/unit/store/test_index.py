"""The index: links, tags, references and sizes in memory."""

from __future__ import annotations

import pytest
from store.index import Blob, Index
from store.layout import LAYER, REVISION, Link, manifest_links


@pytest.fixture
def index() -> Index:
    """An index with the blobs `one` and `other`."""
    index = Index()
    for digest in ("one", "other"):
        index.add_blob(digest, Blob(size=10, disk_bytes=4096, last_use=0.0, last_use_on_disk=0.0))
    return index


def test_blob_is_a_manifest_while_it_has_a_revision(index: Index) -> None:
    blob = index.blobs["one"]
    assert blob.link_in("a") == Link(LAYER, "a")
    for repository in ("a", "a", "b"):
        index.add_link("one", Link(REVISION, repository))
    index.set_references(blob, {"layer": 5})
    assert blob.link_in("a") == Link(REVISION, "a")
    index.remove_link(blob, Link(REVISION, "a"))
    assert index.expected_size("layer") == 5
    index.remove_link(blob, Link(REVISION, "b"))
    assert blob.link_in("a") == Link(LAYER, "a")
    assert index.expected_size("layer") is None


def test_tag_points_to_one_blob_and_is_remembered_for_those_before(index: Index) -> None:
    revision, history, current = manifest_links("a", "v1")
    for digest in ("one", "other"):
        index.add_link(digest, current)
    assert index.tags == {("a", "v1"): "other"}
    assert (index.has_link("one", current), index.has_link("other", current)) == (False, True)
    assert index.has_link("one", history)
    assert index.has_link("other", history)
    assert not index.has_link("one", revision)
    assert not index.has_link("not stored", history)


def test_replaced_content_keeps_links_and_references(index: Index) -> None:
    index.add_link("one", Link(REVISION, "a"))
    index.set_references(index.blobs["one"], {"layer": 5})
    index.add_blob("one", Blob(size=10, disk_bytes=8192, last_use=1.0, last_use_on_disk=1.0))
    assert index.has_link("one", Link(REVISION, "a"))
    assert index.blobs["one"].revisions == 1
    assert index.blobs["one"].references == {"layer": 5}
    assert index.stored_bytes == 8192 + 4096
    index.remove_blob("one")
    assert index.stored_bytes == 4096
    assert index.stated_sizes == {}


def test_expected_size_is_unknown_while_manifests_disagree(index: Index) -> None:
    assert index.expected_size("layer") is None
    index.set_references(index.blobs["one"], {"layer": 5, "config": 1})
    index.set_references(index.blobs["other"], {"layer": 6})
    assert index.expected_size("layer") is None
    assert index.expected_size("config") == 1
    index.set_references(index.blobs["other"], {})
    assert index.expected_size("layer") == 5


def test_walk_reaches_what_manifests_refer_to_and_ends_in_a_circle(index: Index) -> None:
    # Digests allow no circle, but a damaged memory could contain one.
    index.set_references(index.blobs["one"], {"other": 1, "one": 1, "not stored": 1})
    index.set_references(index.blobs["other"], {"one": 1})
    assert sorted(digest for digest, _ in index.walk_references("one")) == ["one", "other"]
    assert list(index.walk_references("not stored")) == []


def test_cleared_index_knows_nothing(index: Index) -> None:
    index.add_link("one", manifest_links("a", "v1")[-1])
    index.set_references(index.blobs["one"], {"layer": 5})
    index.clear()
    assert (index.blobs, index.tags, index.stated_sizes, index.stored_bytes) == ({}, {}, {}, 0)
