"""One fetch for all: what goes wrong between threads, what is remembered, and what is asked for again."""

from __future__ import annotations

import errno
import threading
import time
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

import pytest
from gate import fetches
from gate.fetches import Fetch, Fetches
from machine.processes import wait_for
from made_sources import Asked, MadeAnswer, MadeSource, cut, whole
from made_stores import manifest_of
from store.store import NoRoom, Store, WrongContent
from upstream.client import NotFound, Unavailable
from upstreams.oci import digest

if TYPE_CHECKING:
    from pathlib import Path

    from upstream.sources import Source

PATIENCE = 30.0
CONTENT = b"some content of a layer" * 1000


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path, 64 << 20)
    made.load()
    return made


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetches, "PAUSES", (0.01, 0.01, 0.01))


def fetches_of(store: Store, source: MadeSource, **more: Any) -> Fetches:
    return Fetches(store, cast("Source", source), print, **more)


def fetched(made: Fetches, repository: str, content: bytes = CONTENT) -> Fetch:
    """The ended fetch of a blob."""
    fetch, _ = made.get(repository, digest(content))
    assert fetch.wait_for_end(PATIENCE)
    return fetch


def name_of(store: Store, content: bytes) -> None:
    """Let the store know the blob's size, from a manifest."""
    store.put_manifest("a/b", manifest_of(b"{}", [content]))


def test_blob_that_came_a_moment_ago_is_not_fetched_again(store: Store) -> None:
    """Who looked just before it came, and asks for a fetch just after."""
    source = MadeSource(lambda _: whole(CONTENT))
    made = fetches_of(store, source)
    assert fetched(made, "a/b").failure is None
    assert fetched(made, "a/b").failure is None
    assert len(source.asked) == 1


def test_all_who_ask_while_it_comes_get_the_same_fetch(store: Store) -> None:
    come = threading.Event()
    source = MadeSource(lambda _: MadeAnswer([come, CONTENT], len(CONTENT)))
    made = fetches_of(store, source)
    found = [made.get("a/b", digest(CONTENT)) for _ in range(50)]
    come.set()
    assert found[0][0].wait_for_end(PATIENCE)
    assert {fetch for fetch, _ in found} == {found[0][0]}
    assert [new for _, new in found] == [True] + [False] * 49
    assert len(source.asked) == 1


def test_failure_is_remembered_and_then_forgotten(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[MadeAnswer] = [MadeAnswer([b"wrong"], 5), whole(CONTENT)]
    source = MadeSource(lambda _: answers.pop(0))
    made = fetches_of(store, source)
    assert isinstance(fetched(made, "a/b").failure, WrongContent)
    assert isinstance(fetched(made, "a/b").failure, WrongContent)
    assert len(source.asked) == 1
    later = time.monotonic() + fetches.REMEMBERED
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert fetched(made, "a/b").failure is None


def test_what_one_repository_has_not_another_one_may_have(store: Store) -> None:
    def answer(asked: Asked) -> MadeAnswer:
        if asked.reference.repository == "private/x":
            raise NotFound
        return whole(CONTENT)

    made = fetches_of(store, MadeSource(answer))
    assert isinstance(fetched(made, "private/x").failure, NotFound)
    assert fetched(made, "public/x").failure is None


def test_rest_is_asked_for_after_each_break(store: Store) -> None:
    def answer(asked: Asked) -> MadeAnswer:
        rest = CONTENT[asked.offset :]
        return MadeAnswer([rest[:7000], cut()] if len(rest) > 7000 else [rest], len(rest), asked.offset)

    source = MadeSource(answer)
    assert fetched(fetches_of(store, source), "a/b").failure is None
    assert [asked.offset for asked in source.asked] == [0, 7000, 14000, 21000]
    assert store.blob_path(digest(CONTENT)).read_bytes() == CONTENT


def test_upstream_that_knows_no_ranges_is_read_from_the_start_again(store: Store) -> None:
    answers = [MadeAnswer([CONTENT[:9000], cut()], len(CONTENT)), MadeAnswer([CONTENT[:5000], CONTENT[5000:]])]
    source = MadeSource(lambda _: answers.pop(0))
    assert fetched(fetches_of(store, source), "a/b").failure is None
    assert [asked.offset for asked in source.asked] == [0, 9000]
    assert store.blob_path(digest(CONTENT)).read_bytes() == CONTENT


def test_upstream_that_breaks_off_at_the_same_byte_always_is_given_up(store: Store, tmp_path: Path) -> None:
    source = MadeSource(lambda _: MadeAnswer([CONTENT[:9000], cut()], len(CONTENT)))
    assert isinstance(fetched(fetches_of(store, source), "a/b").failure, Unavailable)
    assert len(source.asked) == 1 + fetches.IN_VAIN
    assert list((tmp_path / "parts").iterdir()) == []


def test_break_after_the_last_byte_is_none(store: Store) -> None:
    """A body in chunks whose last mark never comes."""
    name_of(store, CONTENT)
    source = MadeSource(lambda _: MadeAnswer([CONTENT, cut()]))
    assert fetched(fetches_of(store, source), "a/b").failure is None
    assert len(source.asked) == 1


def test_body_that_ends_with_its_connection_too_early_is_asked_for_again(store: Store) -> None:
    name_of(store, CONTENT)
    source = MadeSource(lambda asked: MadeAnswer([CONTENT[asked.offset :][:20_000]], None, asked.offset))
    assert fetched(fetches_of(store, source), "a/b").failure is None
    assert [asked.offset for asked in source.asked] == [0, 20_000]


@pytest.mark.parametrize("sent", [CONTENT + b"x", CONTENT[:-1], CONTENT[:-1] + b"x"], ids=["long", "short", "other"])
def test_body_that_is_not_what_was_asked_for_is_no_blob(store: Store, sent: bytes) -> None:
    made = fetches_of(store, MadeSource(lambda _: whole(sent)))
    assert isinstance(fetched(made, "a/b").failure, WrongContent)
    assert store.find_blob(digest(CONTENT)) is None


def test_blob_that_the_volume_cannot_hold_is_not_asked_for(tmp_path: Path) -> None:
    store = Store(tmp_path, 64 << 10)
    store.load()
    large = bytes(65 << 10)
    name_of(store, large)
    source = MadeSource(lambda _: whole(large))
    assert isinstance(fetched(fetches_of(store, source), "a/b", large).failure, NoRoom)
    assert source.asked == []


def test_defect_ends_the_fetch_for_all_who_wait(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a thread that is gone, and the log has the trace."""
    traces: list[object] = []
    monkeypatch.setattr(threading, "excepthook", traces.append)

    def answer(_: Asked) -> MadeAnswer:
        message = "a defect"
        raise ZeroDivisionError(message)

    made = fetches_of(store, MadeSource(answer))
    fetch = fetched(made, "a/b")
    for thread in threading.enumerate():
        if thread.name.startswith("fetch "):
            thread.join(PATIENCE)
    assert isinstance(fetch.failure, Unavailable)
    assert made.count() == 0
    assert len(traces) == 1


def test_fetch_that_broke_off_is_stuck_after_a_while_until_more_comes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New clients are refused at once then, and not after all that the rest may take."""
    monkeypatch.setattr(fetches, "STUCK", 0.05)
    asked_again, more = threading.Event(), threading.Event()

    def answer(asked: Asked) -> MadeAnswer:
        if not asked.offset:
            return MadeAnswer([CONTENT[:9000], cut()], len(CONTENT))
        asked_again.set()
        assert more.wait(PATIENCE)
        return MadeAnswer([CONTENT[9000:]], offset=9000)

    fetch, _ = fetches_of(store, MadeSource(answer)).get("a/b", digest(CONTENT))
    assert asked_again.wait(PATIENCE)
    wait_for("it to be stuck", lambda: fetch.is_stuck, PATIENCE, 0.01)
    more.set()
    assert fetch.wait_for_end(PATIENCE)
    assert fetch.failure is None
    assert not fetch.is_stuck


def test_blob_is_fetched_once_there_is_a_thread_for_it(store: Store) -> None:
    made = fetches_of(store, MadeSource(lambda _: whole(CONTENT)))
    with (
        mock.patch.object(threading.Thread, "start", side_effect=RuntimeError("can't start new thread")),
        pytest.raises(Unavailable, match="can't start new thread"),
    ):
        made.get("a/b", digest(CONTENT))
    assert fetched(made, "a/b").failure is None


def test_blob_that_came_and_could_not_be_linked_is_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who follows it is to get its end, whatever happens to what is written after it."""
    monkeypatch.setattr(store._writer, "add_links", mock.Mock(side_effect=OSError(errno.EMFILE, "too many open files")))
    assert fetched(fetches_of(store, MadeSource(lambda _: whole(CONTENT))), "a/b").failure is None
    assert store.find_blob(digest(CONTENT))
