"""What is known of a source that is away, and which replica asks whom."""

from __future__ import annotations

import time
from hashlib import sha256
from typing import TYPE_CHECKING, Any, cast

import pytest
from made_sources import Asked, MadeAnswer, MadeSource, whole
from upstream import sources
from upstream.client import Denied, Kind, NotFound, Unavailable
from upstream.reference import Reference
from upstream.sources import PeerFirst, Watched

if TYPE_CHECKING:
    from upstream.sources import Source

BLOBS = [Reference("blob", "a/b", str(number)) for number in range(100)]
REFUSED = Unavailable(Kind.REFUSED, "connection refused")


class Failing:
    """Answers, or raises the problem that is set."""

    def __init__(self, problem: Exception | None = None) -> None:
        """Answer well unless there is one."""
        self.problem = problem
        self.source = MadeSource(self._answer)

    def _answer(self, _: Asked) -> MadeAnswer:
        if self.problem is not None:
            raise self.problem
        return whole(b"")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def ask(source: object, reference: Reference = BLOBS[0], timeout: float = 1.0) -> MadeAnswer:
    return cast("MadeAnswer", cast("Source", source).open("GET", reference, timeout=timeout))


def watched(failing: Failing, log: list[str]) -> Watched:
    return Watched(cast("Source", failing.source), "the upstream", log.append)


@pytest.mark.parametrize(
    ("problem", "seconds"),
    [
        (REFUSED, sources.AWAY),
        (Unavailable(Kind.TOO_MANY, "429"), sources.AWAY),
        (Unavailable(Kind.TOO_MANY, "429", 0.0), sources.AWAY),
        (Unavailable(Kind.TOO_MANY, "429", 30.0), 30.0),
        (Unavailable(Kind.TOO_MANY, "429", 3600.0), sources.LONGEST_AWAY),
        (Unavailable(Kind.SERVER_ERROR, "503", 20.0), 20.0),
    ],
    ids=str,
)
def test_source_that_is_away_is_left_alone_for_a_while(
    clock: list[float], problem: Unavailable, seconds: float
) -> None:
    failing, log = Failing(problem), list[str]()
    source = watched(failing, log)
    for _ in range(3):
        with pytest.raises(Unavailable, match=str(problem)):
            ask(source)
    assert len(failing.source.asked) == 1
    clock[0] += seconds - 0.1
    with pytest.raises(Unavailable):
        ask(source)
    assert len(failing.source.asked) == 1
    failing.problem = None
    clock[0] += 0.2
    ask(source)
    assert log == [f"the upstream is away, what is cached is served: {problem}", "the upstream answers again"]


@pytest.mark.parametrize(
    "problem", [Unavailable(Kind.SERVER_ERROR, "500"), Unavailable(Kind.MALFORMED, "?"), NotFound(), Denied()], ids=str
)
def test_one_wrong_answer_says_nothing_of_the_next(clock: list[float], problem: Exception) -> None:
    failing = Failing(problem)
    source = watched(failing, [])
    for _ in range(2):
        with pytest.raises(type(problem)):
            ask(source)
    assert len(failing.source.asked) == 2


@pytest.mark.parametrize("problem", [NotFound("no"), Denied("no"), Unavailable(Kind.SERVER_ERROR, "500")], ids=repr)
def test_source_that_says_no_answers(clock: list[float], problem: Exception) -> None:
    failing, log = Failing(REFUSED), list[str]()
    source = watched(failing, log)
    with pytest.raises(Unavailable):
        ask(source)
    clock[0] += sources.AWAY
    failing.problem = problem
    with pytest.raises(type(problem)):
        ask(source)
    assert log[-1] == "the upstream answers again"


def replica(ordinal: int, own: Failing, peer: Failing) -> PeerFirst:
    return PeerFirst(cast("Source", own.source), cast("Source", peer.source), ordinal)


def test_each_thing_is_asked_of_the_upstream_by_one_replica() -> None:
    asked: list[set[Reference]] = []
    for ordinal in (0, 1):
        own, peer = Failing(), Failing()
        source = replica(ordinal, own, peer)
        for blob in BLOBS:
            ask(source, blob)
        asked.append({each.reference for each in own.source.asked})
        assert asked[-1] | {each.reference for each in peer.source.asked} == set(BLOBS)
    assert asked[0] & asked[1] == set()
    assert min(len(asked[0]), len(asked[1])) > len(BLOBS) / 4


@pytest.mark.parametrize("problem", [REFUSED, Denied("no")], ids=repr)
def test_replica_that_is_of_no_use_is_left_out(problem: Exception) -> None:
    own, peer = Failing(), Failing(problem)
    source = replica(0, own, peer)
    for blob in BLOBS:
        ask(source, blob)
    assert {each.reference for each in own.source.asked} == set(BLOBS)


@pytest.mark.parametrize(
    ("reference", "most"), [(Reference("manifest", "a/b", "1"), 4.0), (Reference("blob", "a/b", "1"), 10.0)]
)
def test_replica_that_hangs_leaves_time_to_ask_the_upstream(reference: Reference, most: float) -> None:
    given: list[float] = []

    class Timed(MadeSource):
        def open(self, *arguments: Any, timeout: float, **more: Any) -> MadeAnswer:
            given.append(timeout)
            return super().open(*arguments, timeout=timeout, **more)

    peer = Failing()
    peer.source = Timed(lambda _: whole(b""))
    for ordinal in (0, 1):
        ask(replica(ordinal, Failing(), peer), reference, 10.0)
    assert given == [most]


def test_what_the_upstream_has_not_is_asked_for_once() -> None:
    """The other replica has asked it."""
    own, peer = Failing(), Failing(NotFound("no"))
    theirs = next(blob for blob in BLOBS if sha256(blob.path.encode()).digest()[0] % 2)
    with pytest.raises(NotFound):
        ask(replica(0, own, peer), theirs)
    assert own.source.asked == []
