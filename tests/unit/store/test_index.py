"""The index: links, tags, references and sizes in memory."""

from __future__ import annotations

import pytest
from store import references
from store.index import MAX_LINKS, MAX_USED_BLOBS, Blob, Index
from store.layout import LAYER, REVISION, Link, manifest_links
from store.references import unpack_references
from upstreams.oci import digest as digest_of

ONE, OTHER, LAYER_DIGEST, CONFIG_DIGEST, NOT_STORED = (
    digest_of(name) for name in (b"one", b"other", b"layer", b"config", b"not stored")
)


@pytest.fixture
def index() -> Index:
    """An index with the blobs `one` and `other`."""
    index = Index()
    for digest in (ONE, OTHER):
        index.add_blob(digest, Blob(size=10, disk_bytes=4096, last_use=0.0, last_use_on_disk=0.0))
    return index


def test_blob_is_a_manifest_while_it_has_a_revision(index: Index) -> None:
    blob = index.blobs[ONE]
    assert blob.is_layer
    for repository in ("a", "a", "b"):
        index.add_link(ONE, Link(REVISION, repository))
    index.set_references(blob, {LAYER_DIGEST: 5})
    assert not blob.is_layer
    index.remove_link(blob, Link(REVISION, "a"))
    assert index.expected_size(LAYER_DIGEST) == 5
    index.remove_link(blob, Link(REVISION, "b"))
    assert blob.is_layer
    assert index.expected_size(LAYER_DIGEST) is None


def test_tag_points_to_one_blob_and_is_remembered_for_those_before(index: Index) -> None:
    revision, history, current = manifest_links("a", "v1")
    for digest in (ONE, OTHER):
        index.add_link(digest, current)
    assert index.tags == {("a", "v1"): OTHER}
    assert (index.has_link(ONE, current), index.has_link(OTHER, current)) == (False, True)
    assert index.has_link(ONE, history)
    assert index.has_link(OTHER, history)
    assert not index.has_link(ONE, revision)
    assert not index.has_link(NOT_STORED, history)


def test_replaced_content_keeps_links_and_references(index: Index) -> None:
    index.add_link(ONE, Link(REVISION, "a"))
    index.set_references(index.blobs[ONE], {LAYER_DIGEST: 5})
    index.add_blob(ONE, Blob(size=10, disk_bytes=8192, last_use=1.0, last_use_on_disk=1.0))
    assert index.has_link(ONE, Link(REVISION, "a"))
    assert index.blobs[ONE].revisions == 1
    assert dict(unpack_references(index.blobs[ONE].references)) == {LAYER_DIGEST: 5}
    assert index.expected_size(LAYER_DIGEST) == 5
    assert index.stored_bytes == 8192 + 4096
    index.remove_blob(ONE)
    assert index.stored_bytes == 4096
    assert (index.references.count, index.expected_size(LAYER_DIGEST)) == (0, None)


def test_expected_size_is_unknown_while_manifests_disagree(index: Index) -> None:
    assert index.expected_size(LAYER_DIGEST) is None
    index.set_references(index.blobs[ONE], {LAYER_DIGEST: 5, CONFIG_DIGEST: 1})
    index.set_references(index.blobs[OTHER], {LAYER_DIGEST: 6})
    assert index.expected_size(LAYER_DIGEST) is None
    assert index.expected_size(CONFIG_DIGEST) == 1
    index.set_references(index.blobs[OTHER], {})
    assert index.expected_size(LAYER_DIGEST) == 5


def test_walk_reaches_what_manifests_refer_to_and_ends_in_a_circle(index: Index) -> None:
    # Digests allow no circle, but a damaged memory could contain one.
    index.set_references(index.blobs[ONE], {OTHER: 1, ONE: 1, NOT_STORED: 1})
    index.set_references(index.blobs[OTHER], {ONE: 1})
    assert [digest for digest, _ in index.walk_references(ONE)] == [ONE, OTHER]
    assert list(index.walk_references(NOT_STORED)) == []


def test_cleared_index_knows_nothing(index: Index) -> None:
    index.add_link(ONE, manifest_links("a", "v1")[-1])
    index.set_references(index.blobs[ONE], {LAYER_DIGEST: 5})
    index.clear()
    assert (index.blobs, index.tags, index.references.count, index.stored_bytes) == ({}, {}, 0, 0)
    assert index.expected_size(LAYER_DIGEST) is None


def add_manifest(index: Index, number: int, references: dict[str, int], last_use: float = 0.0) -> str:
    digest = digest_of(b"manifest %d" % number)
    index.add_blob(digest, Blob(size=10, disk_bytes=4096, last_use=last_use, last_use_on_disk=0.0))
    index.add_link(digest, Link(REVISION, "a"))
    index.set_references(index.blobs[digest], references)
    return digest


def some_blobs(count: int, name: bytes = b"") -> dict[str, int]:
    return {digest_of(name + b"%d" % number): number for number in range(count)}


def test_references_are_bounded_by_those_of_manifests_with_the_most(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "MAX_NAMED_BLOBS", 5000)
    honest = [add_manifest(index, number, some_blobs(12, b"honest%d" % number)) for number in range(20)]
    for number in range(20, 40):
        add_manifest(index, number, some_blobs(1000, b"hostile%d" % number), last_use=number)
        assert index.references.count <= 5000
    assert all(len(dict(unpack_references(index.blobs[each].references))) == 12 for each in honest)
    assert index.references.count > 4000
    for digest in [*index.blobs]:
        for link in index.blobs[digest].links:
            index.remove_link(index.blobs[digest], link)
        index.remove_blob(digest)
    assert (index.references.count, index.references._manifests, index.links_by_repository) == (0, {}, {})
    assert index._shared_links == {}


def test_among_equal_manifests_the_least_recently_used_is_forgotten(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "MAX_NAMED_BLOBS", 100)
    new = add_manifest(index, 1, some_blobs(50), last_use=2.0)
    old = add_manifest(index, 2, some_blobs(49), last_use=1.0)
    assert index.expected_size(digest_of(b"7")) == 7
    add_manifest(index, 3, some_blobs(2, b"x"), last_use=3.0)
    assert (index.blobs[old].references, len(index.blobs[new].references)) == (b"", 50 * 40)
    assert index.expected_size(digest_of(b"7")) == 7


def test_walk_is_bounded_and_reaches_what_is_named_directly_first(index: Index) -> None:
    layers = some_blobs(900, b"layer")
    for digest in layers:
        index.add_blob(digest, Blob(size=10, disk_bytes=4096, last_use=0.0, last_use_on_disk=0.0))
    images = {add_manifest(index, number, some_blobs(1000, b"%d" % number)): 1 for number in range(500)}
    images[add_manifest(index, 500, layers)] = 1
    everything = add_manifest(index, 501, images)
    walked = [digest for digest, _ in index.walk_references(everything)]
    assert set(walked[1:502]) == set(images)
    assert len(walked) <= MAX_USED_BLOBS + 1


def test_link_needs_a_manifest_of_the_repository_that_names_the_blob(index: Index) -> None:
    add_manifest(index, 1, {ONE: 1})
    assert index.may_link(ONE, Link(LAYER, "a"))
    assert not index.may_link(ONE, Link(LAYER, "made-up"))
    assert not index.may_link(OTHER, Link(LAYER, "a"))
    index.add_link(ONE, Link(LAYER, "a"))
    assert not index.may_link(ONE, Link(LAYER, "a"))
    index.add_blob(OTHER, Blob(size=10, disk_bytes=4096, last_use=0.0, last_use_on_disk=0.0))
    add_manifest(index, 2, {OTHER: 1})
    for number in range(MAX_LINKS):
        index.add_link(OTHER, Link(LAYER, f"repository{number}"))
    assert not index.may_link(OTHER, Link(LAYER, "a"))
