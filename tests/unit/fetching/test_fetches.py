"""Each blob is fetched once for all clients: races between threads, remembered failures, and resumed bodies."""

from __future__ import annotations

import errno
import itertools
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast
from unittest import mock

import pytest
from fetching import download, fetches
from fetching.fair_slots import FairSlots, Overloaded
from fetching.fetch import MAX_STEP_BYTES, Fetch
from fetching.fetches import Fetches
from machine.processes import wait_for
from made_sources import Asked, MadeAnswer, MadeSource, cut, whole
from made_stores import is_empty, manifest_of
from store import incoming_blob
from store.store import NoRoom, Store, WrongContent
from upstream.errors import Denied, Kind, NotFound, Unavailable
from upstream.reference import BLOB, Reference
from upstreams.oci import digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from store.store import IncomingBlob
    from upstream.source import Source

TIMEOUT_SECONDS = 30.0
CONTENT = b"some content of a layer" * 1000


@pytest.fixture
def store(tmp_path: Path) -> Store:
    loaded = Store(tmp_path, 64 << 20)
    loaded.load()
    return loaded


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "RESUME_PAUSES_SECONDS", (0.01, 0.01, 0.01))


def fetches_from(source: MadeSource, store: Store) -> Fetches:
    return Fetches(store, cast("Source", source), print)


def blob(content: bytes = CONTENT, repository: str = "a/b") -> Reference:
    return Reference(BLOB, repository, digest(content))


def finish(all_fetches: Fetches, reference: Reference) -> Fetch:
    """Return the fetch of a blob when it has ended."""
    fetch, _ = all_fetches.get(reference)
    assert fetch.wait_for_end(TIMEOUT_SECONDS)
    return fetch


def store_manifest_of(content: bytes, store: Store) -> None:
    """Let the store know the size of the blob, from a manifest."""
    store.put_manifest("a/b", manifest_of(b"{}", [content]))


def test_blob_that_was_fetched_a_moment_ago_is_not_fetched_again(store: Store) -> None:
    """A client may look at the volume just before the blob is there, and ask for a fetch just after."""
    source = MadeSource(lambda _: whole(CONTENT))
    all_fetches = fetches_from(source, store)
    assert finish(all_fetches, blob()).failure is None
    assert finish(all_fetches, blob()).failure is None
    assert len(source.asked) == 1


def test_all_clients_of_a_blob_share_one_fetch(store: Store) -> None:
    come = threading.Event()
    source = MadeSource(lambda _: MadeAnswer([come, CONTENT], len(CONTENT)))
    all_fetches = fetches_from(source, store)
    shared = [all_fetches.get(blob()) for _ in range(50)]
    come.set()
    assert shared[0][0].wait_for_end(TIMEOUT_SECONDS)
    assert {fetch for fetch, _ in shared} == {shared[0][0]}
    assert [is_new for _, is_new in shared] == [True] + [False] * 49
    assert len(source.asked) == 1


def test_failure_is_remembered_for_a_while(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[MadeAnswer] = [MadeAnswer([b"wrong"], 5), whole(CONTENT)]
    source = MadeSource(lambda _: answers.pop(0))
    all_fetches = fetches_from(source, store)
    assert isinstance(finish(all_fetches, blob()).failure, WrongContent)
    assert isinstance(finish(all_fetches, blob()).failure, WrongContent)
    assert len(source.asked) == 1
    later = time.monotonic() + fetches.FAILURE_MEMORY_SECONDS
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert finish(all_fetches, blob()).failure is None


@pytest.mark.parametrize("sent", [0, 9000])
def test_refusal_is_remembered_for_all_clients_only_in_the_middle_of_a_blob(store: Store, sent: int) -> None:
    """Another client may show other credentials. But one whose body broke off gives up if that happens again."""
    answers: list[MadeAnswer] = [MadeAnswer([CONTENT[:sent], cut()], len(CONTENT))] if sent else []

    def answer(_: Asked) -> MadeAnswer:
        if answers:
            return answers.pop(0)
        raise Denied(status=401)

    source = MadeSource(answer)
    all_fetches = fetches_from(source, store)
    assert isinstance(finish(all_fetches, blob()).failure, Denied)
    source.answer = lambda _: whole(CONTENT)
    assert isinstance(finish(all_fetches, blob()).failure, Denied)
    fetch, is_new = all_fetches.get(blob(), joins_refused=False)
    assert fetch.wait_for_end(TIMEOUT_SECONDS)
    assert is_new is (sent == 0)
    assert isinstance(fetch.failure, Denied) is not is_new


def test_blob_that_one_repository_does_not_have_is_fetched_from_another(store: Store) -> None:
    def answer(asked: Asked) -> MadeAnswer:
        if asked.reference.repository == "private/x":
            raise NotFound
        return whole(CONTENT)

    all_fetches = fetches_from(MadeSource(answer), store)
    assert isinstance(finish(all_fetches, blob(repository="private/x")).failure, NotFound)
    assert finish(all_fetches, blob(repository="public/x")).failure is None


def test_fetch_resumes_after_each_break(store: Store) -> None:
    def answer(asked: Asked) -> MadeAnswer:
        rest = CONTENT[asked.offset :]
        return MadeAnswer([rest[:7000], cut()] if len(rest) > 7000 else [rest], len(rest), asked.offset)

    source = MadeSource(answer)
    assert finish(fetches_from(source, store), blob()).failure is None
    assert [asked.offset for asked in source.asked] == [0, 7000, 14000, 21000]
    assert store.blob_path(digest(CONTENT)).read_bytes() == CONTENT


def test_fetch_skips_the_known_bytes_if_the_upstream_has_no_ranges(store: Store) -> None:
    answers = [MadeAnswer([CONTENT[:9000], cut()], len(CONTENT)), MadeAnswer([CONTENT[:5000], CONTENT[5000:]])]
    source = MadeSource(lambda _: answers.pop(0))
    assert finish(fetches_from(source, store), blob()).failure is None
    assert [asked.offset for asked in source.asked] == [0, 9000]
    assert store.blob_path(digest(CONTENT)).read_bytes() == CONTENT


def test_fetch_gives_up_if_the_upstream_always_breaks_off_at_the_same_byte(store: Store, tmp_path: Path) -> None:
    source = MadeSource(lambda _: MadeAnswer([CONTENT[:9000], cut()], len(CONTENT)))
    assert isinstance(finish(fetches_from(source, store), blob()).failure, Unavailable)
    assert len(source.asked) == 1 + download.MAX_FRUITLESS_RESPONSES
    assert list((tmp_path / "parts").iterdir()) == []


def break_off_for_good(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a fetch fail after 9000 bytes, which the next one finds on the volume."""
    monkeypatch.setattr(incoming_blob, "RESUMABLE_BYTES", len(CONTENT))
    source = MadeSource(lambda _: MadeAnswer([CONTENT[:9000], cut()], len(CONTENT)))
    assert isinstance(finish(fetches_from(source, store), blob()).failure, Unavailable)
    assert store.interrupted_size(digest(CONTENT)) == 9000


def send_rest(asked: Asked) -> MadeAnswer:
    return MadeAnswer([CONTENT[asked.offset :]], len(CONTENT) - asked.offset, asked.offset)


def refuse_range(asked: Asked) -> MadeAnswer:
    if asked.offset:
        raise Unavailable(Kind.CLIENT_ERROR, "416")
    return whole(CONTENT)


@pytest.mark.parametrize(
    ("answer", "offsets"),
    [(send_rest, [9000]), (lambda _: whole(CONTENT), [9000]), (refuse_range, [9000, 0])],
    ids=["ranges", "no ranges", "refused ranges"],
)
def test_next_fetch_of_a_large_blob_resumes(
    store: Store, monkeypatch: pytest.MonkeyPatch, answer: Callable[[Asked], MadeAnswer], offsets: list[int]
) -> None:
    break_off_for_good(store, monkeypatch)
    source = MadeSource(answer)
    assert finish(fetches_from(source, store), blob()).failure is None
    assert [asked.offset for asked in source.asked] == offsets
    assert store.blob_path(digest(CONTENT)).read_bytes() == CONTENT


def test_clients_follow_what_is_on_the_volume_before_the_upstream_sends_the_rest(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_off_for_good(store, monkeypatch)
    come = threading.Event()
    source = MadeSource(lambda asked: MadeAnswer([come, CONTENT[9000:]], len(CONTENT) - 9000, asked.offset))
    fetch, _ = fetches_from(source, store).get(blob())
    progress = fetch.wait_for_more(8999, TIMEOUT_SECONDS)
    assert (progress.written, progress.size) == (9000, len(CONTENT))
    with fetch.open() as file:
        assert file.read(9000) == CONTENT[:9000]
    come.set()
    assert fetch.wait_for_end(TIMEOUT_SECONDS)
    assert fetch.failure is None


def test_interrupted_blob_stays_while_the_upstream_is_away(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    break_off_for_good(store, monkeypatch)

    def answer(_: Asked) -> MadeAnswer:
        raise Unavailable(Kind.REFUSED, "away")

    assert isinstance(finish(fetches_from(MadeSource(answer), store), blob()).failure, Unavailable)
    assert store.interrupted_size(digest(CONTENT)) == 9000


def test_wrong_rest_of_an_interrupted_blob_removes_it(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    break_off_for_good(store, monkeypatch)
    source = MadeSource(lambda asked: MadeAnswer([bytes(len(CONTENT) - 9000)], len(CONTENT) - 9000, asked.offset))
    assert isinstance(finish(fetches_from(source, store), blob()).failure, WrongContent)
    assert is_empty(tmp_path)


def test_break_after_the_last_byte_does_no_harm(store: Store) -> None:
    """A chunked body may lack its last mark."""
    store_manifest_of(CONTENT, store)
    source = MadeSource(lambda _: MadeAnswer([CONTENT, cut()]))
    assert finish(fetches_from(source, store), blob()).failure is None
    assert len(source.asked) == 1


def test_body_that_ends_with_its_connection_too_early_is_resumed(store: Store) -> None:
    store_manifest_of(CONTENT, store)
    source = MadeSource(lambda asked: MadeAnswer([CONTENT[asked.offset :][:20_000]], None, asked.offset))
    assert finish(fetches_from(source, store), blob()).failure is None
    assert [asked.offset for asked in source.asked] == [0, 20_000]


@pytest.mark.parametrize("sent", [CONTENT + b"x", CONTENT[:-1], CONTENT[:-1] + b"x"], ids=["long", "short", "other"])
def test_body_with_another_digest_is_not_stored(store: Store, sent: bytes) -> None:
    all_fetches = fetches_from(MadeSource(lambda _: whole(sent)), store)
    assert isinstance(finish(all_fetches, blob()).failure, WrongContent)
    assert store.find_blob(digest(CONTENT)) is None


def test_upstream_is_not_asked_for_a_blob_that_the_volume_cannot_hold(tmp_path: Path) -> None:
    store = Store(tmp_path, 64 << 10)
    store.load()
    large = bytes(65 << 10)
    store_manifest_of(large, store)
    source = MadeSource(lambda _: whole(large))
    assert isinstance(finish(fetches_from(source, store), blob(large)).failure, NoRoom)
    assert source.asked == []


def test_defect_ends_the_fetch_for_all_waiting_clients(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a thread that has ended, and the log has the traceback."""
    tracebacks: list[object] = []
    monkeypatch.setattr(threading, "excepthook", tracebacks.append)

    def answer(_: Asked) -> MadeAnswer:
        message = "a defect"
        raise ZeroDivisionError(message)

    all_fetches = fetches_from(MadeSource(answer), store)
    fetch = finish(all_fetches, blob())
    wait_for("the thread to end", lambda: tracebacks, TIMEOUT_SECONDS, 0.01)
    assert isinstance(fetch.failure, Unavailable)
    assert all_fetches.count() == 0
    assert len(tracebacks) == 1


def test_broken_fetch_is_stalled_after_a_while_until_it_resumes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """New clients are then refused at once, instead of after the time in which the fetch tries to resume."""
    monkeypatch.setattr("fetching.fetch.STALLED_AFTER_SECONDS", 0.05)
    asked_again, more = threading.Event(), threading.Event()

    def answer(asked: Asked) -> MadeAnswer:
        if not asked.offset:
            return MadeAnswer([CONTENT[:9000], cut()], len(CONTENT))
        asked_again.set()
        assert more.wait(TIMEOUT_SECONDS)
        return MadeAnswer([CONTENT[9000:]], offset=9000)

    fetch, _ = fetches_from(MadeSource(answer), store).get(blob())
    assert asked_again.wait(TIMEOUT_SECONDS)
    wait_for("the fetch to stall", lambda: fetch.is_stalled, TIMEOUT_SECONDS, 0.01)
    more.set()
    assert fetch.wait_for_end(TIMEOUT_SECONDS)
    assert fetch.failure is None
    assert not fetch.is_stalled


def test_blob_is_fetched_as_soon_as_a_thread_is_available(store: Store) -> None:
    all_fetches = fetches_from(MadeSource(lambda _: whole(CONTENT)), store)
    with (
        mock.patch.object(threading.Thread, "start", side_effect=RuntimeError("can't start new thread")),
        pytest.raises(Unavailable, match="can't start new thread"),
    ):
        all_fetches.get(blob())
    assert finish(all_fetches, blob()).failure is None


def test_complete_blob_is_served_although_it_could_not_be_linked(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that follows it gets its end, whatever happens to what is written after it."""
    monkeypatch.setattr(store._writer, "add_links", mock.Mock(side_effect=OSError(errno.EMFILE, "too many open files")))
    assert finish(fetches_from(MadeSource(lambda _: whole(CONTENT)), store), blob()).failure is None
    assert store.find_blob(digest(CONTENT))


def test_fetch_of_another_repository_is_joined_only_when_its_upstream_has_answered(store: Store) -> None:
    may_answer, more = threading.Event(), threading.Event()

    def answer(asked: Asked) -> MadeAnswer:
        if asked.reference.repository == "made/up":
            assert may_answer.wait(TIMEOUT_SECONDS)
            raise NotFound
        return MadeAnswer([CONTENT[:9000], more, CONTENT[9000:]], len(CONTENT))

    source = MadeSource(answer)
    all_fetches = fetches_from(source, store)
    refused, _ = all_fetches.get(blob(repository="made/up"))
    honest, is_new = all_fetches.get(blob())
    assert is_new
    assert honest.wait_for_first_byte(TIMEOUT_SECONDS), "it does not wait for the other repository"
    joined, is_new = all_fetches.get(blob(repository="team/app"))
    assert (joined, is_new) == (honest, False)
    may_answer.set()
    assert refused.wait_for_end(TIMEOUT_SECONDS)
    assert isinstance(refused.failure, NotFound)
    more.set()
    assert honest.wait_for_end(TIMEOUT_SECONDS)
    assert honest.failure is None
    assert len(source.asked) == 2


def test_two_repositories_that_have_the_blob_share_the_fetch_that_is_answered_first(store: Store) -> None:
    may_answer, more = threading.Event(), threading.Event()

    def answer(asked: Asked) -> MadeAnswer:
        if asked.reference.repository == "a/b":
            assert may_answer.wait(TIMEOUT_SECONDS)
        return MadeAnswer([CONTENT[:9000], more, CONTENT[9000:]], len(CONTENT))

    all_fetches = fetches_from(MadeSource(answer), store)
    late, _ = all_fetches.get(blob())
    first, _ = all_fetches.get(blob(repository="team/app"))
    assert first.wait_for_first_byte(TIMEOUT_SECONDS)
    may_answer.set()
    assert late.wait_for_end(TIMEOUT_SECONDS)
    assert late.leader is first
    assert all_fetches.get(blob()) == (first, False)
    more.set()
    assert first.wait_for_end(TIMEOUT_SECONDS)
    assert store.blob_path(digest(CONTENT)).read_bytes() == CONTENT


def test_one_client_leaves_fetches_and_turns_for_the_others(store: Store) -> None:
    """Fetches without a turn have no thread."""
    over = threading.Event()

    def answer(asked: Asked) -> MadeAnswer:
        if asked.reference.repository == "slow/x":
            assert over.wait(TIMEOUT_SECONDS)
            raise NotFound
        return whole(CONTENT)

    source = MadeSource(answer)
    all_fetches = fetches_from(source, store)
    all_fetches._slots, all_fetches._turns = FairSlots(20), FairSlots(4)
    threads = threading.active_count()
    started = [all_fetches.get(blob(bytes([number]), "slow/x"), "10.0.0.1")[0] for number in range(10)]
    with pytest.raises(Overloaded):
        all_fetches.get(blob(b"one more", "slow/x"), "10.0.0.1")
    wait_for("two requests", lambda: len(source.asked) == 2, TIMEOUT_SECONDS, 0.01)
    assert threading.active_count() == threads + 2
    honest, _ = all_fetches.get(blob(), "10.0.0.2")
    assert honest.wait_for_end(TIMEOUT_SECONDS)
    assert honest.failure is None
    over.set()
    for fetch in started:
        assert fetch.wait_for_end(TIMEOUT_SECONDS)
    wait_for("all to end", lambda: all_fetches.count() == 0, TIMEOUT_SECONDS, 0.01)
    assert all_fetches._slots.taken == all_fetches._turns.taken == 0


@pytest.mark.parametrize(
    ("sent", "is_kept", "ends"),
    [(9000, False, False), (9000, True, True), (len(CONTENT) - 5000, False, True)],
    ids=["hung-up", "refused-for-slowness", "nearly-complete"],
)
def test_fetch_goes_on_for_a_while_after_its_clients_hung_up(
    store: Store, monkeypatch: pytest.MonkeyPatch, sent: int, *, is_kept: bool, ends: bool
) -> None:
    monkeypatch.setattr("fetching.fetch.DESERTED_SECONDS", 0.2)
    more = threading.Event()
    source = MadeSource(lambda _: MadeAnswer([CONTENT[:sent], more, CONTENT[sent:]], len(CONTENT)))
    all_fetches = fetches_from(source, store)
    fetch, _ = all_fetches.get(blob())
    assert fetch.wait_for_first_byte(TIMEOUT_SECONDS)
    fetch.leave(is_kept=is_kept)
    time.sleep(0.3)
    more.set()
    assert fetch.wait_for_end(TIMEOUT_SECONDS)
    assert (fetch.failure is None) is ends
    assert (store.find_blob(digest(CONTENT)) is not None) is ends
    if not ends:
        source.answer = lambda _: whole(CONTENT)
        assert finish(all_fetches, blob()).failure is None, "the next client is not refused"


def test_fetch_goes_on_for_a_client_that_comes_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fetching.fetch.DESERTED_SECONDS", 0.2)
    more = threading.Event()
    source = MadeSource(lambda _: MadeAnswer([CONTENT[:9000], more, CONTENT[9000:]], len(CONTENT)))
    all_fetches = fetches_from(source, store)
    fetch, _ = all_fetches.get(blob())
    fetch.leave()
    assert all_fetches.get(blob()) == (fetch, False)
    time.sleep(0.3)
    more.set()
    assert fetch.wait_for_end(TIMEOUT_SECONDS)
    assert fetch.failure is None


def test_remembered_failures_are_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetches, "MAX_REMEMBERED_FAILURES", 3)

    def answer(_: Asked) -> MadeAnswer:
        raise NotFound

    all_fetches = fetches_from(MadeSource(answer), store)
    for number in range(10):
        finish(all_fetches, blob(bytes([number])))
    assert len(all_fetches._failed) == 3


def test_clients_learn_of_a_blob_in_steps_that_are_small_at_its_beginning_and_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size, chunk = 32 << 20, 1 << 15

    def steps(clients: int) -> list[int]:
        """Return how much has come each time that the clients are woken."""
        incoming = SimpleNamespace(written=0)
        fetch, woken = Fetch(blob()), list[int]()
        for _ in range(clients):
            fetch.join()
        fetch.note_start(cast("IncomingBlob", incoming), size)
        with monkeypatch.context() as patched:
            patched.setattr("fetching.fetch.time.monotonic", lambda: 1.0)
            patched.setattr(threading.Condition, "notify_all", lambda _: woken.append(incoming.written))
            for written in range(chunk, size + 1, chunk):
                incoming.written = written
                fetch.note_growth()
        return woken

    few = steps(1)
    assert few[:3] == [chunk, 3 * chunk, 5 * chunk]
    assert size - few[-1] <= 2 * chunk
    assert max(after - before for before, after in itertools.pairwise(few)) == MAX_STEP_BYTES
    assert len(few) < 100
    many = steps(50)
    assert min(after - before for before, after in itertools.pairwise(many)) == MAX_STEP_BYTES
