"""Layers are fetched before a node requests them, if it will probably request them, and then only their beginnings."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, cast

import pytest
from fetching.fetches import Fetches
from gate.ahead import ADAPTIVE, ALWAYS, NEVER, Ahead
from gate.manifests import Manifest
from gate.media_types import OCI_INDEX, OCI_MANIFEST
from machine.processes import wait_for
from made_sources import Asked, MadeAnswer, MadeSource, whole
from made_stores import content, manifest_of, put_blob
from store.store import Store
from upstream.reference import BLOB, Reference
from upstreams.oci import digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from upstream.source import Source

TIMEOUT_SECONDS = 30.0
LAYERS = [content(number) for number in range(8)]
DIGESTS = [digest(layer) for layer in LAYERS]


class Node:
    """Fetches for a node that pulls one image."""

    def __init__(self, folder: Path, mode: str) -> None:
        """Let the cache know the manifest, and let every fetch wait for `may_end`."""
        self.store = Store(folder, 64 << 20)
        self.store.load()
        self.may_end = threading.Event()
        self.prepared: list[int] = []
        self.source = MadeSource(self._answer)
        self.fetches = Fetches(self.store, cast("Source", self.source), print)
        self.wait = 0.05
        self.ahead = Ahead(mode, self.store, self.fetches, self.prepared.append, lambda: self.wait)
        self.manifest = manifest_of(b"{}", LAYERS)
        self.digest = self.store.put_manifest("a/b", self.manifest)

    def _answer(self, asked: Asked) -> MadeAnswer:
        return MadeAnswer([self.may_end, LAYERS[DIGESTS.index(asked.reference.identifier)]], len(LAYERS[0]))

    def get_manifest(self, media_type: str = OCI_MANIFEST) -> None:
        self.ahead.note_manifest("a/b", Manifest(self.digest, self.manifest, media_type))

    def request(self, number: int) -> None:
        self.ahead.note_blob(DIGESTS[number])
        self.fetches.get(Reference(BLOB, "a/b", DIGESTS[number]))

    def fetched(self, count: int) -> list[int]:
        """Return the numbers of the layers that the upstream was asked for, which are `count`."""
        wait_for("the upstream to be asked", lambda: len(self.source.asked) >= count, TIMEOUT_SECONDS)
        return sorted(DIGESTS.index(asked.reference.identifier) for asked in self.source.asked)


@pytest.fixture
def node(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Node]:
    started = Node(tmp_path, getattr(request, "param", ADAPTIVE))
    yield started
    started.may_end.set()
    wait_for("the fetches to end", lambda: started.fetches.count() == 0, TIMEOUT_SECONDS)


def test_node_that_requests_successive_layers_gets_the_next_ones_ahead(node: Node) -> None:
    node.get_manifest()
    node.request(0)
    assert node.fetched(1) == [0]
    node.request(1)
    assert node.fetched(5) == [0, 1, 2, 3, 4]
    node.request(2)
    assert node.fetched(6) == [0, 1, 2, 3, 4, 5]
    node.may_end.set()
    wait_for("all to be stored", lambda: node.fetches.count() == 0, TIMEOUT_SECONDS)
    assert all(node.store.find_blob(each) is not None for each in DIGESTS[:6])
    assert len(node.source.asked) == 6


def test_node_that_has_most_layers_costs_no_bytes(node: Node) -> None:
    """It requests the layers that it does not have, which do not follow each other."""
    node.get_manifest()
    for number in (1, 4, 7):
        node.request(number)
    assert node.fetched(3) == [1, 4, 7]
    assert node.fetches.count() == 3


def test_nothing_is_fetched_ahead_from_an_upstream_that_is_near(node: Node) -> None:
    """What comes ahead takes the line from the layers that the node waits for."""
    node.wait = 0.002
    node.get_manifest()
    for number in range(3):
        node.request(number)
    assert node.fetched(3) == [0, 1, 2]
    assert node.fetches.count() == 3


def test_stored_layers_do_not_count(node: Node) -> None:
    """Here, 2 and 5 are successive among those that are not stored."""
    for number in (0, 1, 3, 4):
        put_blob(node.store, "a/b", LAYERS[number])
    node.get_manifest()
    node.request(2)
    node.request(5)
    assert node.fetched(4) == [2, 5, 6, 7]


@pytest.mark.parametrize("node", [ALWAYS], indirect=True)
def test_first_layers_are_fetched_with_the_manifest_if_that_is_wanted(node: Node) -> None:
    node.get_manifest()
    assert node.fetched(3) == [0, 1, 2]


@pytest.mark.parametrize("node", [NEVER], indirect=True)
def test_nothing_is_fetched_ahead_if_that_is_not_wanted(node: Node) -> None:
    node.get_manifest()
    for number in range(3):
        node.request(number)
    assert node.fetched(3) == [0, 1, 2]
    assert node.fetches.count() == 3
    assert node.prepared == []


def test_connections_are_opened_while_the_node_reads_the_manifest(node: Node) -> None:
    node.get_manifest()
    wait_for("the connections", lambda: node.prepared == [3, 3, 3], TIMEOUT_SECONDS)
    assert node.source.asked == []


def test_index_of_several_platforms_starts_nothing(node: Node) -> None:
    node.get_manifest(OCI_INDEX)
    node.request(0)
    node.request(1)
    assert node.fetched(2) == [0, 1]
    assert node.fetches.count() == 2


def test_layer_that_nobody_requests_is_given_up_after_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fetching.fetch.AHEAD_BYTES", 1000)
    monkeypatch.setattr("fetching.fetch.AHEAD_SECONDS", 0.1)
    store = Store(tmp_path, 64 << 20)
    store.load()
    source = MadeSource(
        lambda _: MadeAnswer([LAYERS[0][:1000], LAYERS[0][1000:2000], LAYERS[0][2000:]], len(LAYERS[0]))
    )
    fetches = Fetches(store, cast("Source", source), print)
    reference = Reference(BLOB, "a/b", DIGESTS[0])
    fetches.start_ahead(reference)
    wait_for("the fetch to end", lambda: fetches.count() == 0, TIMEOUT_SECONDS)
    assert store.find_blob(DIGESTS[0]) is None
    # A client that comes later is not refused.
    source.answer = lambda _: whole(LAYERS[0])
    fetch, _ = fetches.get(reference)
    assert fetch.wait_for_end(TIMEOUT_SECONDS)
    assert fetch.failure is None


def test_client_that_comes_in_time_gets_what_was_fetched_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fetching.fetch.AHEAD_BYTES", 1000)
    store = Store(tmp_path, 64 << 20)
    store.load()
    source = MadeSource(lambda _: MadeAnswer([LAYERS[0][:1000], LAYERS[0][1000:]], len(LAYERS[0])))
    fetches = Fetches(store, cast("Source", source), print)
    reference = Reference(BLOB, "a/b", DIGESTS[0])
    fetches.start_ahead(reference)
    wait_for("its beginning", lambda: fetches.find(reference).progress.written == 1000, TIMEOUT_SECONDS)  # type: ignore[union-attr]
    fetch, is_new = fetches.get(reference)
    assert not is_new
    assert fetch.wait_for_end(TIMEOUT_SECONDS)
    assert fetch.failure is None
    assert len(source.asked) == 1
