"""Tags and manifests: what is asked once, what a slow or wrong upstream costs, and what the volume cannot take."""

from __future__ import annotations

import copy
import gzip
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

import pytest
from gate import manifests
from gate.manifests import Manifest, Manifests
from machine.processes import wait_for
from made_sources import Asked, MadeAnswer, MadeSource, whole
from made_stores import manifest_of, remount, small_disk
from store.store import Store
from upstream.client import Denied, Kind, NotFound, Unavailable
from upstreams.oci import MANIFEST, digest

if TYPE_CHECKING:
    from pathlib import Path

    from upstream.sources import Source

PATIENCE = 30.0
OLD, NEW = (manifest_of(b"{}", [layer]) for layer in (b"old", b"new"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path, 64 << 20)
    made.load()
    return made


def head_of(content: bytes, *body: bytes | threading.Event) -> MadeAnswer:
    headers = Message()
    headers["Docker-Content-Digest"] = digest(content)
    return MadeAnswer([*body], len(content), headers=headers)


def answering(content: bytes) -> MadeSource:
    return MadeSource(lambda asked: head_of(content) if asked.method == "HEAD" else whole(content))


def manifests_of(store: Store, source: MadeSource, window: float = 0.0, **more: Any) -> Manifests:
    return Manifests(store, cast("Source", source), window=window, **{"observe": lambda _: None, "log": print, **more})


def test_all_who_ask_for_a_tag_at_once_cost_one_question(store: Store) -> None:
    come = threading.Event()
    source = MadeSource(lambda _: MadeAnswer([come, OLD], len(OLD)))
    made = manifests_of(store, source)
    with ThreadPoolExecutor(50) as pool:
        found = [pool.submit(made.by_tag, "a/b", "1") for _ in range(50)]
        come.set()
        assert {each.result() for each in found} == {Manifest(digest(OLD))}
    assert [asked.method for asked in source.asked] == ["GET"]


def test_tag_is_asked_for_once_within_the_window(store: Store) -> None:
    source = answering(OLD)
    made = manifests_of(store, source, window=3600)
    for _ in range(200):
        made.by_tag("a/b", "1")
    assert len(source.asked) == 1


class LateStore(Store):
    """One whose first look at a tag takes until `late` is set: what it says is old then."""

    def __init__(self, *arguments: Any) -> None:
        """Nobody has looked yet."""
        super().__init__(*arguments)
        self.looks = 0
        self.looking = threading.Event()
        self.late = threading.Event()

    def resolve_tag(self, repository: str, tag: str) -> str | None:
        found = super().resolve_tag(repository, tag)
        self.looks += 1
        if self.looks == 1:
            self.looking.set()
            assert self.late.wait(PATIENCE)
        return found


def test_who_looked_just_before_the_answer_came_asks_for_nothing_more(tmp_path: Path) -> None:
    store = LateStore(tmp_path, 64 << 20)
    store.load()
    source = answering(OLD)
    made = manifests_of(store, source, window=3600)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(made.by_tag, "a/b", "1")
        assert store.looking.wait(PATIENCE)
        made.by_tag("a/b", "1")
        store.late.set()
        assert late.result() == Manifest(digest(OLD))
    assert len(source.asked) == 1


def test_manifest_that_came_a_moment_ago_is_not_fetched_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    source = answering(OLD)
    made = manifests_of(store, source)
    assert made.by_digest("a/b", digest(OLD)) == Manifest(digest(OLD))
    look, looks = store.read_manifest, iter([None])
    monkeypatch.setattr(store, "read_manifest", lambda *names: next(looks, look(*names)))
    assert made.by_digest("a/b", digest(OLD)) == Manifest(digest(OLD))
    assert len(source.asked) == 1


def test_nobody_waits_for_an_upstream_that_was_slow_just_now(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "STALE_AFTER", 0.05)
    store.put_manifest("a/b", OLD, "1")
    come = threading.Event()

    def answer(_: Asked) -> MadeAnswer:
        assert come.wait(PATIENCE)
        return head_of(OLD)

    made = manifests_of(store, MadeSource(answer))
    assert made.by_tag("a/b", "1") == Manifest(digest(OLD))
    monkeypatch.setattr(manifests, "STALE_AFTER", PATIENCE)
    begun = time.monotonic()
    assert made.by_tag("a/b", "1") == Manifest(digest(OLD))
    assert time.monotonic() - begun < PATIENCE / 2
    come.set()


def test_upstream_that_is_fast_again_is_waited_for_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often tags are asked for meanwhile."""
    monkeypatch.setattr(manifests, "STALE_AFTER", 0.05)
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    for tag in ("slow", "1", "2"):
        store.put_manifest("a/b", OLD, tag)
    come = threading.Event()

    def answer(asked: Asked) -> MadeAnswer:
        if asked.reference.identifier == "slow":
            assert come.wait(PATIENCE)
        return head_of(NEW) if asked.method == "HEAD" else whole(NEW)

    made = manifests_of(store, MadeSource(answer))
    assert made.by_tag("a/b", "slow") == Manifest(digest(OLD))
    monkeypatch.setattr(manifests, "STALE_AFTER", PATIENCE)
    clock[0] += manifests.SLOW - 1
    assert made.by_tag("a/b", "slow") == Manifest(digest(OLD))
    clock[0] += 2
    assert made.by_tag("a/b", "1") == Manifest(digest(NEW))
    come.set()


def test_answer_in_time_ends_the_seconds_in_which_nobody_waits(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "STALE_AFTER", 0.05)
    for tag in ("slow", "1", "2"):
        store.put_manifest("a/b", OLD, tag)
    come, came = threading.Event(), threading.Event()

    def answer(asked: Asked) -> MadeAnswer:
        if asked.reference.identifier == "slow":
            assert come.wait(PATIENCE)
        return head_of(NEW) if asked.method == "HEAD" else whole(NEW)

    def observe(how: str) -> None:
        if how == "asked":
            came.set()

    made = manifests_of(store, MadeSource(answer), observe=observe)
    assert made.by_tag("a/b", "slow") == Manifest(digest(OLD))
    monkeypatch.setattr(manifests, "STALE_AFTER", PATIENCE)
    made.by_tag("a/b", "1")
    assert came.wait(PATIENCE)
    for thread in threading.enumerate():
        if thread.name == "a/b 1":
            thread.join(PATIENCE)
    assert made.by_tag("a/b", "2") == Manifest(digest(NEW))
    come.set()


def test_late_answer_counts_for_the_next_pull(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "STALE_AFTER", 0.05)
    store.put_manifest("a/b", OLD, "1")
    come, came = threading.Event(), threading.Event()

    def answer(asked: Asked) -> MadeAnswer:
        assert come.wait(PATIENCE)
        return head_of(NEW) if asked.method == "HEAD" else whole(NEW)

    def observe(how: str) -> None:
        if how == "asked":
            came.set()

    made = manifests_of(store, MadeSource(answer), window=3600, observe=observe)
    assert made.by_tag("a/b", "1") == Manifest(digest(OLD))
    come.set()
    assert came.wait(PATIENCE)
    assert made.by_tag("a/b", "1") == Manifest(digest(NEW))


@pytest.mark.parametrize(
    "problem", [Unavailable(Kind.TOO_MANY, "429", 30.0), Unavailable(Kind.DNS, "away"), Denied("no")], ids=str
)
def test_known_tag_is_served_when_the_upstream_is_of_no_use(store: Store, problem: Exception) -> None:
    def answer(_: Asked) -> MadeAnswer:
        raise problem

    store.put_manifest("a/b", OLD, "1")
    seen: list[str] = []
    made = manifests_of(store, MadeSource(answer), observe=seen.append)
    assert made.by_tag("a/b", "1") == Manifest(digest(OLD))
    assert seen == ["stale"]
    with pytest.raises(type(problem)):
        made.by_tag("a/b", "2")


def test_tag_that_is_gone_is_forgotten_and_its_manifest_stays(store: Store) -> None:
    def answer(_: Asked) -> MadeAnswer:
        raise NotFound

    store.put_manifest("a/b", OLD, "1")
    made = manifests_of(store, MadeSource(answer))
    with pytest.raises(NotFound):
        made.by_tag("a/b", "1")
    assert store.resolve_tag("a/b", "1") is None
    assert made.by_digest("a/b", digest(OLD)) == Manifest(digest(OLD))


def test_manifest_with_another_digest_is_refused(store: Store) -> None:
    made = manifests_of(store, answering(NEW))
    with pytest.raises(Unavailable, match="has the digest"):
        made.by_digest("a/b", digest(OLD))
    assert store.read_manifest("a/b", digest(NEW)) is None


def test_manifest_larger_than_distribution_takes_is_refused(store: Store) -> None:
    source = MadeSource(lambda _: MadeAnswer([bytes(1 << 20)] * 5))
    with pytest.raises(Unavailable, match="more than"):
        manifests_of(store, source).by_tag("a/b", "1")


def test_manifest_that_the_volume_cannot_take_is_passed_on(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=1m") as disk:
        store = Store(disk, 1 << 20)
        store.load()
        remount(disk, "ro")
        headers = Message()
        headers["Content-Type"] = MANIFEST
        source = MadeSource(lambda _: MadeAnswer([OLD], len(OLD), headers=headers))
        made = manifests_of(store, source)
        assert made.by_tag("a/b", "1") == Manifest(digest(OLD), (OLD, MANIFEST))


def said_to_be(content: bytes, name: str) -> MadeAnswer:
    found = whole(content)
    found.headers["Docker-Content-Digest"] = name
    return found


NO_MANIFESTS = {
    "page": whole(b"<html>away for a while</html>"),
    "part": whole(NEW[: len(NEW) // 2]),
    "compressed": whole(gzip.compress(NEW)),
    "nothing": whole(b"{}"),
    "list": whole(b"[1]"),
    "other": said_to_be(NEW, digest(OLD)),
}


@pytest.mark.parametrize("name", NO_MANIFESTS)
def test_what_is_not_the_manifest_takes_no_tag_and_is_passed_on_to_nobody(store: Store, name: str) -> None:
    store.put_manifest("a/b", OLD, "1")

    def answer(asked: Asked) -> MadeAnswer:
        return MadeAnswer([]) if asked.method == "HEAD" else copy.deepcopy(NO_MANIFESTS[name])

    made = manifests_of(store, MadeSource(answer))
    assert made.by_tag("a/b", "1") == Manifest(digest(OLD))
    with pytest.raises(Unavailable, match="is no manifest") as raised:
        made.by_tag("a/b", "new")
    assert raised.value.kind is Kind.MALFORMED
    assert store.resolve_tag("a/b", "new") is None


@pytest.mark.parametrize("named", ["sha512:" + "a" * 128, digest(b"nobody has this")], ids=["sha512", "unknown"])
def test_tag_that_moved_is_fetched_by_its_name_where_its_digest_is_of_no_use(store: Store, named: str) -> None:
    store.put_manifest("a/b", OLD, "1")

    def answer(asked: Asked) -> MadeAnswer:
        if asked.reference.identifier == named:
            message = "no such manifest"
            raise NotFound(message)
        return said_to_be(b"", named) if asked.method == "HEAD" else whole(NEW)

    assert manifests_of(store, MadeSource(answer)).by_tag("a/b", "1") == Manifest(digest(NEW))
    assert store.resolve_tag("a/b", "1") == digest(NEW)


def test_upstream_is_asked_again_once_there_is_a_thread_for_it(store: Store) -> None:
    made = manifests_of(store, answering(OLD))
    with (
        mock.patch.object(threading.Thread, "start", side_effect=RuntimeError("can't start new thread")),
        pytest.raises(Unavailable, match="can't start new thread"),
    ):
        made.by_tag("a/b", "1")
    assert made.by_tag("a/b", "1") == Manifest(digest(OLD))


def test_manifest_that_would_take_much_memory_each_time_is_passed_on_and_not_kept(store: Store) -> None:
    large = manifest_of(b"x" * 10, [b"y"]) + b" " * (1 << 20)
    found = manifests_of(store, MadeSource(lambda _: whole(large))).by_tag("a/b", "1")
    assert found.unsaved is not None
    assert found.unsaved[0] == large
    assert store.statistics().blobs == 0


def test_tag_that_moved_to_what_is_not_kept_means_that_within_the_window_too(store: Store) -> None:
    store.put_manifest("a/b", OLD, "1")
    large = NEW + b" " * (1 << 20)
    made = manifests_of(
        store, MadeSource(lambda asked: head_of(large) if asked.method == "HEAD" else whole(large)), window=3600
    )
    assert [made.by_tag("a/b", "1").digest for _ in range(2)] == [digest(large)] * 2


def test_manifest_that_drips_ends(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "TIMEOUT", 0.2)
    over = threading.Event()

    class Dripping(MadeAnswer):
        def read(self, _size: int) -> bytes:
            time.sleep(0.05)
            return b"" if over.is_set() else b"x"

    made = manifests_of(store, MadeSource(lambda _: Dripping([])))
    with pytest.raises(Unavailable):
        made.by_tag("a/b", "1")
    try:
        wait_for("the question to end", lambda: not made._questions, PATIENCE, 0.01)
    finally:
        over.set()
