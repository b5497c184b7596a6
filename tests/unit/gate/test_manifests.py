"""Tags and manifests: when the upstream is asked, what a slow or wrong upstream costs, what the volume cannot hold."""

from __future__ import annotations

import copy
import gzip
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from email.message import Message
from typing import TYPE_CHECKING, Any, Literal, cast
from unittest import mock

import pytest
from common import apart
from common.recent import RecentDict
from fetching.fair_slots import FairSlots, Overloaded
from gate import manifests
from gate.manifests import Manifest, Manifests, ask_for
from gate.metrics import GONE, REVALIDATED, STALE
from machine.processes import wait_for
from made_sources import Asked, MadeAnswer, MadeSource, whole
from made_stores import manifest_of, remount, small_disk
from store.store import NoRoom, Store
from upstream.errors import Denied, Kind, NotFound, Unavailable
from upstream.reference import BLOB, MANIFEST, Reference
from upstreams import oci
from upstreams.oci import digest

if TYPE_CHECKING:
    from pathlib import Path

    from upstream.source import Source

TIMEOUT_SECONDS = 30.0
OLD, NEW = (manifest_of(b"{}", [layer]) for layer in (b"old", b"new"))
LARGE = NEW + b" " * (1 << 20)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    loaded = Store(tmp_path, 64 << 20)
    loaded.load()
    return loaded


def reference(identifier: str) -> Reference:
    return Reference(MANIFEST, "a/b", identifier)


def manifest(content: bytes) -> Manifest:
    return Manifest(digest(content), content, oci.MANIFEST)


def head_of(content: bytes) -> MadeAnswer:
    headers = Message()
    headers["Docker-Content-Digest"] = digest(content)
    return MadeAnswer([], len(content), headers=headers)


def source_of(content: bytes) -> MadeSource:
    """An upstream where every tag means the same manifest."""
    return MadeSource(lambda asked: head_of(content) if asked.method == "HEAD" else whole(content))


def manifests_from(source: MadeSource, store: Store, interval: float = 0.0, **more: Any) -> Manifests:
    options = {"count_tag_lookup": lambda _: None, "log": print, **more}
    return Manifests(store, cast("Source", source), tag_check_interval_seconds=interval, **options)


def test_clients_that_pull_a_tag_at_once_cost_one_request(store: Store) -> None:
    come = threading.Event()
    source = MadeSource(lambda _: MadeAnswer([come, OLD], len(OLD)))
    all_manifests = manifests_from(source, store)
    with ThreadPoolExecutor(50) as pool:
        results = [pool.submit(all_manifests.get, reference("1")) for _ in range(50)]
        come.set()
        assert [result.result() for result in results] == [manifest(OLD)] * 50
    assert [asked.method for asked in source.asked] == ["GET"]


def test_upstream_is_asked_about_a_tag_once_in_the_interval(store: Store) -> None:
    source = source_of(OLD)
    all_manifests = manifests_from(source, store, interval=3600)
    for _ in range(200):
        all_manifests.get(reference("1"))
    assert len(source.asked) == 1


class LateStore(Store):
    """A store whose first lookup of a tag returns late, when its result is outdated."""

    def __init__(self, *arguments: Any) -> None:
        """Start without a lookup."""
        super().__init__(*arguments)
        self.lookups = 0
        self.is_looking = threading.Event()
        self.may_return = threading.Event()

    def resolve_tag(self, repository: str, tag: str) -> str | None:
        found = super().resolve_tag(repository, tag)
        self.lookups += 1
        if self.lookups == 1:
            self.is_looking.set()
            assert self.may_return.wait(TIMEOUT_SECONDS)
        return found


def test_client_that_looked_just_before_the_tag_was_stored_does_not_ask_again(tmp_path: Path) -> None:
    store = LateStore(tmp_path, 64 << 20)
    store.load()
    source = source_of(OLD)
    all_manifests = manifests_from(source, store, interval=3600)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(all_manifests.get, reference("1"))
        assert store.is_looking.wait(TIMEOUT_SECONDS)
        all_manifests.get(reference("1"))
        store.may_return.set()
        assert late.result() == manifest(OLD)
    assert len(source.asked) == 1


def test_manifest_that_was_fetched_a_moment_ago_is_not_fetched_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(OLD)
    all_manifests = manifests_from(source, store)
    assert all_manifests.get(reference(digest(OLD))) == manifest(OLD)
    look, first_look = store.read_manifest, iter([None])
    monkeypatch.setattr(store, "read_manifest", lambda *names: next(first_look, look(*names)))
    assert all_manifests.get(reference(digest(OLD))) == manifest(OLD)
    assert len(source.asked) == 1


def test_nobody_waits_for_an_upstream_that_was_slow_a_moment_ago(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "STALE_AFTER_SECONDS", 0.05)
    store.put_manifest("a/b", OLD, "1")
    come = threading.Event()

    def answer(_: Asked) -> MadeAnswer:
        assert come.wait(TIMEOUT_SECONDS)
        return head_of(OLD)

    all_manifests = manifests_from(MadeSource(answer), store)
    assert all_manifests.get(reference("1")) == manifest(OLD)
    monkeypatch.setattr(manifests, "STALE_AFTER_SECONDS", TIMEOUT_SECONDS)
    started = time.monotonic()
    assert all_manifests.get(reference("1")) == manifest(OLD)
    assert time.monotonic() - started < TIMEOUT_SECONDS / 2
    come.set()


def test_clients_wait_again_when_the_slow_time_is_over(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests during that time do not prolong it."""
    monkeypatch.setattr(manifests, "STALE_AFTER_SECONDS", 0.05)
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    for tag in ("slow", "1", "2"):
        store.put_manifest("a/b", OLD, tag)
    come = threading.Event()

    def answer(asked: Asked) -> MadeAnswer:
        if asked.reference.identifier == "slow":
            assert come.wait(TIMEOUT_SECONDS)
        return head_of(NEW) if asked.method == "HEAD" else whole(NEW)

    all_manifests = manifests_from(MadeSource(answer), store)
    assert all_manifests.get(reference("slow")) == manifest(OLD)
    monkeypatch.setattr(manifests, "STALE_AFTER_SECONDS", TIMEOUT_SECONDS)
    clock[0] += manifests.SLOW_SECONDS - 1
    assert all_manifests.get(reference("slow")) == manifest(OLD)
    clock[0] += 2
    assert all_manifests.get(reference("1")) == manifest(NEW)
    come.set()


def test_response_in_time_ends_the_slow_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "STALE_AFTER_SECONDS", 0.05)
    for tag in ("slow", "1", "2"):
        store.put_manifest("a/b", OLD, tag)
    come, revalidated = threading.Event(), threading.Event()

    def answer(asked: Asked) -> MadeAnswer:
        if asked.reference.identifier == "slow":
            assert come.wait(TIMEOUT_SECONDS)
        return head_of(NEW) if asked.method == "HEAD" else whole(NEW)

    def count_tag_lookup(result: str) -> None:
        if result == REVALIDATED:
            revalidated.set()

    all_manifests = manifests_from(MadeSource(answer), store, count_tag_lookup=count_tag_lookup)
    assert all_manifests.get(reference("slow")) == manifest(OLD)
    monkeypatch.setattr(manifests, "STALE_AFTER_SECONDS", TIMEOUT_SECONDS)
    all_manifests.get(reference("1"))
    assert revalidated.wait(TIMEOUT_SECONDS)
    wait_for("the lookup to end", lambda: reference("1") not in all_manifests._lookups, TIMEOUT_SECONDS, 0.01)
    assert all_manifests.get(reference("2")) == manifest(NEW)
    come.set()


def test_memory_of_slow_repositories_is_changed_by_one_thread_at_a_time(store: Store) -> None:
    all_manifests = manifests_from(source_of(NEW), store)
    unlocked: list[str] = []

    class Watched(RecentDict[str, float]):
        def pop(self, key: str, *default: Any) -> Any:
            if not all_manifests._lock.locked():
                unlocked.append(key)
            return super().pop(key, *default)

    all_manifests._slow_until = Watched(2)
    assert all_manifests.get(reference("1")) == manifest(NEW)
    assert not unlocked


def test_late_response_counts_for_the_next_pull(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "STALE_AFTER_SECONDS", 0.05)
    store.put_manifest("a/b", OLD, "1")
    come, revalidated = threading.Event(), threading.Event()

    def answer(asked: Asked) -> MadeAnswer:
        assert come.wait(TIMEOUT_SECONDS)
        return head_of(NEW) if asked.method == "HEAD" else whole(NEW)

    def count_tag_lookup(result: str) -> None:
        if result == REVALIDATED:
            revalidated.set()

    all_manifests = manifests_from(MadeSource(answer), store, interval=3600, count_tag_lookup=count_tag_lookup)
    assert all_manifests.get(reference("1")) == manifest(OLD)
    come.set()
    assert revalidated.wait(TIMEOUT_SECONDS)
    assert all_manifests.get(reference("1")) == manifest(NEW)


@pytest.mark.parametrize(
    "problem", [Unavailable(Kind.TOO_MANY, "429", 30.0), Unavailable(Kind.DNS, "away"), Denied("no")], ids=str
)
def test_known_tag_is_served_while_the_upstream_gives_no_usable_response(store: Store, problem: Exception) -> None:
    def answer(_: Asked) -> MadeAnswer:
        raise problem

    store.put_manifest("a/b", OLD, "1")
    results: list[str] = []
    all_manifests = manifests_from(MadeSource(answer), store, count_tag_lookup=results.append)
    assert all_manifests.get(reference("1")) == manifest(OLD)
    assert results == [STALE]
    with pytest.raises(type(problem)):
        all_manifests.get(reference("2"))


def test_tag_that_was_deleted_upstream_is_forgotten_and_its_manifest_stays(store: Store) -> None:
    def answer(_: Asked) -> MadeAnswer:
        raise NotFound

    store.put_manifest("a/b", OLD, "1")
    all_manifests = manifests_from(MadeSource(answer), store)
    with pytest.raises(NotFound):
        all_manifests.get(reference("1"))
    assert store.resolve_tag("a/b", "1") is None
    assert all_manifests.get(reference(digest(OLD))) == manifest(OLD)


def test_manifest_with_another_digest_is_refused(store: Store) -> None:
    all_manifests = manifests_from(source_of(NEW), store)
    with pytest.raises(Unavailable, match="content with the digest"):
        all_manifests.get(reference(digest(OLD)))
    assert store.read_manifest("a/b", digest(NEW)) is None


def test_manifest_larger_than_distribution_accepts_is_refused(store: Store) -> None:
    source = MadeSource(lambda _: MadeAnswer([bytes(1 << 20)] * 5))
    with pytest.raises(Unavailable, match="more than"):
        manifests_from(source, store).get(reference("1"))


def test_manifest_that_the_volume_cannot_hold_is_passed_on(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=1m") as disk:
        store = Store(disk, 1 << 20)
        store.load()
        remount(disk, "ro")
        assert manifests_from(source_of(OLD), store).get(reference("1")) == manifest(OLD)


def with_announced_digest(content: bytes, announced: str) -> MadeAnswer:
    answer = whole(content)
    answer.headers["Docker-Content-Digest"] = announced
    return answer


NOT_THE_MANIFEST = {
    "page": whole(b"<html>away for a while</html>"),
    "part": whole(NEW[: len(NEW) // 2]),
    "compressed": whole(gzip.compress(NEW)),
    "nothing": whole(b"{}"),
    "list": whole(b"[1]"),
    "other": with_announced_digest(NEW, digest(OLD)),
}


@pytest.mark.parametrize("name", NOT_THE_MANIFEST)
def test_content_that_is_not_the_manifest_is_neither_tagged_nor_passed_on(store: Store, name: str) -> None:
    store.put_manifest("a/b", OLD, "1")

    def answer(asked: Asked) -> MadeAnswer:
        return MadeAnswer([]) if asked.method == "HEAD" else copy.deepcopy(NOT_THE_MANIFEST[name])

    all_manifests = manifests_from(MadeSource(answer), store)
    assert all_manifests.get(reference("1")) == manifest(OLD)
    message = "content with the digest" if name == "other" else "not a manifest"
    with pytest.raises(Unavailable, match=message) as raised:
        all_manifests.get(reference("new"))
    assert raised.value.kind is Kind.MALFORMED
    assert store.resolve_tag("a/b", "new") is None


def test_content_that_is_not_a_manifest_is_refused_by_digest_too(store: Store) -> None:
    page = b"<html>the digest is right</html>"
    with pytest.raises(Unavailable, match="not a manifest"):
        manifests_from(source_of(page), store).get(reference(digest(page)))
    assert store.statistics().blobs == 0


@pytest.mark.parametrize("announced", ["sha512:" + "a" * 128, digest(b"unknown")], ids=["sha512", "unknown"])
def test_moved_tag_is_fetched_by_its_name_if_the_announced_digest_is_unusable(store: Store, announced: str) -> None:
    store.put_manifest("a/b", OLD, "1")

    def answer(asked: Asked) -> MadeAnswer:
        if asked.reference.identifier == announced:
            message = "no such manifest"
            raise NotFound(message)
        return with_announced_digest(b"", announced) if asked.method == "HEAD" else whole(NEW)

    assert manifests_from(MadeSource(answer), store).get(reference("1")) == manifest(NEW)
    assert store.resolve_tag("a/b", "1") == digest(NEW)


def test_upstream_is_asked_as_soon_as_a_thread_is_available(store: Store) -> None:
    all_manifests = manifests_from(source_of(OLD), store)
    with (
        mock.patch.object(threading.Thread, "start", side_effect=RuntimeError("can't start new thread")),
        pytest.raises(Unavailable, match="can't start new thread"),
    ):
        all_manifests.get(reference("1"))
    assert all_manifests.get(reference("1")) == manifest(OLD)


def test_large_manifest_is_stored_and_not_kept_in_memory(store: Store) -> None:
    fetched = manifests_from(source_of(LARGE), store).get(reference("1"))
    assert fetched == replace(manifest(LARGE), content=None), "the front sends it"
    assert store.read_manifest("a/b", digest(LARGE)) == LARGE


def test_few_large_manifests_are_in_memory_at_once_and_stored_ones_do_not_wait(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The upstream sends the first parts of all of them, and the rest of each only when it is its turn."""
    # A process of the lowest priority for each of them could take longer than a look-up may, on a busy machine.
    monkeypatch.setattr(apart, "MAX_DIRECT_BYTES", 2 * manifests.MAX_SMALL_BYTES)
    store.put_manifest("a/b", LARGE)
    may_end = threading.Event()
    held: list[threading.Event] = []
    kinds = [NEW + b" " * (size + manifests.MAX_SMALL_BYTES) for size in range(8)]

    class HeldAnswer(MadeAnswer):
        def read(self, size: int) -> bytes:
            if len(self.body) == 1:
                held.append(may_end)
                assert may_end.wait(TIMEOUT_SECONDS)
            return super().read(size)

    def answer(asked: Asked) -> MadeAnswer:
        content = kinds[int(asked.reference.identifier)]
        return HeldAnswer([content[: manifests.MAX_SMALL_BYTES + 1], content[manifests.MAX_SMALL_BYTES + 1 :] + b" "])

    all_manifests = manifests_from(MadeSource(answer), store)
    with ThreadPoolExecutor(len(kinds) + 1) as pool:
        pulls = [pool.submit(all_manifests.get, reference(str(number))) for number in range(len(kinds))]
        wait_for("the first ones", lambda: len(held) == manifests.MAX_CONCURRENT_LARGE, TIMEOUT_SECONDS, 0.01)
        time.sleep(0.2)
        assert len(held) == manifests.MAX_CONCURRENT_LARGE
        stored = pool.submit(all_manifests.get, reference(digest(LARGE)))
        assert stored.result(TIMEOUT_SECONDS).digest == digest(LARGE)
        may_end.set()
        assert all(pull.result(TIMEOUT_SECONDS).content is None for pull in pulls)


def test_one_client_leaves_lookups_for_the_others_and_known_tags_are_served(store: Store) -> None:
    store.put_manifest("a/b", OLD, "known")
    over = threading.Event()

    def answer(_: Asked) -> MadeAnswer:
        assert over.wait(TIMEOUT_SECONDS)
        raise NotFound

    all_manifests = manifests_from(MadeSource(answer), store)
    all_manifests._slots = FairSlots(4)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(all_manifests.get, reference(str(number)), "10.0.0.1") for number in range(2)]
        wait_for("two lookups", lambda: len(all_manifests._lookups) == 2, TIMEOUT_SECONDS, 0.01)
        with pytest.raises(Overloaded):
            all_manifests.get(reference("3"), "10.0.0.1")
        assert all_manifests.get(reference("known"), "10.0.0.1") == manifest(OLD)
        waiting.append(pool.submit(all_manifests.get, reference("4"), "10.0.0.2"))
        wait_for("the other client's", lambda: len(all_manifests._lookups) == 3, TIMEOUT_SECONDS, 0.01)
        over.set()
        for each in waiting:
            assert isinstance(each.exception(TIMEOUT_SECONDS), NotFound)
    assert all_manifests._slots.taken == 0


def test_moved_tag_means_the_new_manifest_although_that_could_not_be_stored(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_manifest("a/b", OLD, "1")
    monkeypatch.setattr(store, "put_manifest", mock.Mock(side_effect=NoRoom("the volume is full")))
    all_manifests = manifests_from(source_of(NEW), store, interval=3600)
    assert [all_manifests.get(reference("1")) for _ in range(2)] == [manifest(NEW)] * 2


def test_tag_that_moved_back_means_that_although_the_volume_could_not_note_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_manifest("a/b", NEW)
    store.put_manifest("a/b", OLD, "1")
    monkeypatch.setattr(store, "set_tag", mock.Mock(side_effect=NoRoom("the volume is full")))
    counted: list[str] = []
    all_manifests = manifests_from(source_of(NEW), store, interval=3600, count_tag_lookup=counted.append)
    assert [all_manifests.get(reference("1")) for _ in range(2)] == [manifest(NEW)] * 2
    assert counted == [REVALIDATED] * 2


@pytest.mark.parametrize("kind", [BLOB, MANIFEST])
def test_head_and_get_together_take_no_longer_than_one_request_may(
    monkeypatch: pytest.MonkeyPatch, kind: Literal["blob", "manifest"]
) -> None:
    now = 100.0
    asked: list[tuple[str, float]] = []
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def take_long(method: str, *_: object, timeout: float, **__: object) -> MadeAnswer:
        nonlocal now
        asked.append((method, timeout))
        now += 7
        if method == "HEAD":
            raise Unavailable(Kind.SERVER_ERROR, "no HEAD")
        return whole(NEW)

    source = mock.Mock(open=take_long)
    ask_for(source, Reference(kind, "a/b", digest(NEW)), None, 10.0)
    assert asked == [("HEAD", 10.0), ("GET", 3.0)]


def test_fetch_of_a_manifest_that_trickles_in_ends(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(manifests, "FETCH_SECONDS", 0.2)
    over = threading.Event()

    class TricklingAnswer(MadeAnswer):
        def read(self, _size: int) -> bytes:
            time.sleep(0.05)
            return b"" if over.is_set() else b"x"

    all_manifests = manifests_from(MadeSource(lambda _: TricklingAnswer([])), store)
    with pytest.raises(Unavailable):
        all_manifests.get(reference("1"))
    try:
        wait_for("the lookup to end", lambda: not all_manifests._lookups, TIMEOUT_SECONDS, 0.01)
    finally:
        over.set()


# What the upstream answers to HEAD and to GET, and the tag that a pull of the old one gets: the manifest, and whether
# the tag is known afterwards. None stands for an error.
PROBLEMS = {
    "404": NotFound("no"),
    "404 without credentials": NotFound("no", is_certain=False),
    "401 or 403": Denied("no"),
    "405": Unavailable(Kind.CLIENT_ERROR, "405"),
    "500": Unavailable(Kind.SERVER_ERROR, "500"),
    "not HTTP": Unavailable(Kind.MALFORMED, "?"),
    "a redirect to nowhere": Unavailable(Kind.REDIRECTS, "?"),
    "hangs up": Unavailable(Kind.RESET, "?"),
    "429": Unavailable(Kind.TOO_MANY, "429", 30.0),
    "503 for a while": Unavailable(Kind.SERVER_ERROR, "503", 30.0),
    "silence": Unavailable(Kind.TIMEOUT, "?"),
    "refused": Unavailable(Kind.REFUSED, "?"),
    "no address": Unavailable(Kind.DNS, "?"),
}
PROVES_ABSENCE = "404"
CANNOT_BE_ASKED = ("429", "503 for a while", "silence", "refused", "no address")


@pytest.mark.parametrize("by_get", [*PROBLEMS, "old", "new"])
@pytest.mark.parametrize("by_head", [*PROBLEMS, "old", "new", "no digest"])
def test_head_that_is_not_200_proves_nothing_and_get_decides(store: Store, by_head: str, by_get: str) -> None:
    def answer(asked: Asked) -> MadeAnswer:
        name = by_head if asked.method == "HEAD" else by_get
        if name in PROBLEMS:
            raise PROBLEMS[name]
        if name == "no digest":
            return MadeAnswer([])
        content = OLD if name == "old" else NEW
        return head_of(content) if asked.method == "HEAD" else whole(content)

    store.put_manifest("a/b", OLD, "1")
    source, results = MadeSource(answer), list[str]()
    all_manifests = manifests_from(source, store, count_tag_lookup=results.append)
    expected: bytes | None = OLD
    result, methods = STALE, ["HEAD", "GET"]
    if by_head == "old":
        result, methods = REVALIDATED, ["HEAD"]
    elif by_head in CANNOT_BE_ASKED:
        methods = ["HEAD"]
    elif by_get == PROVES_ABSENCE:
        expected, result = None, GONE
    elif by_get not in PROBLEMS:
        expected, result = (OLD if by_get == "old" else NEW), REVALIDATED
    if by_head == "new" and by_get in ("404", "404 without credentials", "not HTTP", "old"):
        # The digest that HEAD announces is requested first, and then the tag.
        methods = ["HEAD", "GET", "GET"]
    if expected is None:
        with pytest.raises(NotFound):
            all_manifests.get(reference("1"))
        assert store.resolve_tag("a/b", "1") is None
    else:
        assert all_manifests.get(reference("1")) == manifest(expected)
        assert store.resolve_tag("a/b", "1") == digest(expected)
    assert results == [result]
    assert [asked.method for asked in source.asked] == methods


def test_late_manifest_is_there_for_the_next_client(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "TIMEOUT_SECONDS", 0.1)
    come = threading.Event()
    source = MadeSource(lambda _: MadeAnswer([come, OLD], len(OLD)))
    all_manifests = manifests_from(source, store, interval=3600)
    for identifier in ("1", digest(OLD)):
        with pytest.raises(Unavailable, match="did not answer within"):
            all_manifests.get(reference(identifier))
    come.set()
    wait_for("the lookups to end", lambda: not all_manifests._lookups, TIMEOUT_SECONDS, 0.01)
    for identifier in ("1", digest(OLD)):
        assert all_manifests.get(reference(identifier)) == manifest(OLD)
    assert len(source.asked) == 2


def test_slow_repository_makes_nobody_stop_waiting_for_another_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "STALE_AFTER_SECONDS", 0.05)
    come = threading.Event()
    other = Reference(MANIFEST, "c/d", "1")
    for repository in ("a/b", "c/d"):
        store.put_manifest(repository, OLD, "1")

    def answer(asked: Asked) -> MadeAnswer:
        if asked.reference.repository == "a/b":
            assert come.wait(TIMEOUT_SECONDS)
        return head_of(NEW) if asked.method == "HEAD" else whole(NEW)

    all_manifests = manifests_from(MadeSource(answer), store)
    assert all_manifests.get(reference("1")) == manifest(OLD)
    monkeypatch.setattr(manifests, "STALE_AFTER_SECONDS", TIMEOUT_SECONDS)
    assert all_manifests.get(other) == manifest(NEW)
    come.set()
