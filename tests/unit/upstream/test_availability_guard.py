"""A source that was unavailable is not asked for a while."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

import pytest
from made_sources import Asked, MadeAnswer, MadeSource, whole
from upstream import availability_guard
from upstream.availability_guard import AvailabilityGuard
from upstream.errors import Denied, Kind, NotFound, Unavailable
from upstream.reference import Reference
from upstream.urls import Url

if TYPE_CHECKING:
    from upstream.source import Source

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


def ask(source: object, offset: int = 0) -> MadeAnswer:
    answer = cast("Source", source).open("GET", Reference("blob", "a/b", "x"), offset=offset, timeout=1.0)
    return cast("MadeAnswer", answer)


def guarded(failing: Failing, log: list[str]) -> AvailabilityGuard:
    return AvailabilityGuard(cast("Source", failing.source), "the upstream", log.append)


@pytest.mark.parametrize(
    ("problem", "seconds"),
    [
        (REFUSED, availability_guard.PAUSE_SECONDS),
        (Unavailable(Kind.TOO_MANY, "429"), availability_guard.PAUSE_SECONDS),
        (Unavailable(Kind.TOO_MANY, "429", 0.0), availability_guard.PAUSE_SECONDS),
        (Unavailable(Kind.TOO_MANY, "429", 30.0), 30.0),
        (Unavailable(Kind.TOO_MANY, "429", 3600.0), availability_guard.MAX_PAUSE_SECONDS),
        (Unavailable(Kind.SERVER_ERROR, "503", 20.0), 20.0),
    ],
    ids=str,
)
def test_unavailable_source_is_not_asked_for_a_while(clock: list[float], problem: Unavailable, seconds: float) -> None:
    failing, log = Failing(problem), list[str]()
    source = guarded(failing, log)
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
    assert log == [f"the upstream is unavailable, serving what is cached: {problem}", "the upstream is available again"]


@pytest.mark.parametrize("problem", [REFUSED, Unavailable(Kind.RESET, "closed")], ids=str)
def test_source_that_failed_at_once_is_asked_for_the_rest_of_a_body(clock: list[float], problem: Unavailable) -> None:
    failing, log = Failing(problem), list[str]()
    source = guarded(failing, log)
    for _ in range(2):
        with pytest.raises(Unavailable):
            ask(source, offset=1)
    assert len(failing.source.asked) == 2
    with pytest.raises(Unavailable):
        ask(source)
    assert len(failing.source.asked) == 2
    failing.problem = None
    ask(source, offset=1)
    ask(source)
    assert log[1:] == ["the upstream is available again"]


@pytest.mark.parametrize(
    "problem", [Unavailable(Kind.TIMEOUT, "silent"), Unavailable(Kind.SERVER_ERROR, "503", 20.0)], ids=str
)
def test_source_that_is_silent_or_asks_to_wait_is_not_asked_for_the_rest(
    clock: list[float], problem: Unavailable
) -> None:
    failing = Failing(problem)
    source = guarded(failing, [])
    for _ in range(2):
        with pytest.raises(Unavailable):
            ask(source, offset=1)
    assert len(failing.source.asked) == 1


@pytest.mark.parametrize(
    "problem", [Unavailable(Kind.SERVER_ERROR, "500"), Unavailable(Kind.MALFORMED, "?"), NotFound(), Denied()], ids=str
)
def test_one_wrong_answer_says_nothing_about_the_next(clock: list[float], problem: Exception) -> None:
    failing = Failing(problem)
    source = guarded(failing, [])
    for _ in range(2):
        with pytest.raises(type(problem)):
            ask(source)
    assert len(failing.source.asked) == 2


@pytest.mark.parametrize("problem", [NotFound("no"), Denied("no"), Unavailable(Kind.SERVER_ERROR, "500")], ids=repr)
def test_source_that_refuses_is_available(clock: list[float], problem: Exception) -> None:
    failing, log = Failing(REFUSED), list[str]()
    source = guarded(failing, log)
    with pytest.raises(Unavailable):
        ask(source)
    clock[0] += availability_guard.PAUSE_SECONDS
    failing.problem = problem
    with pytest.raises(type(problem)):
        ask(source)
    assert log[-1] == "the upstream is available again"


def test_range_and_location_are_passed_on() -> None:
    failing, blob, location = Failing(), Reference("blob", "a/b", "x"), Url.parse("http://cdn.example.com/x")
    guarded(failing, []).open("GET", blob, offset=1, last_byte=2, location=location, timeout=1.0)
    assert failing.source.asked == [Asked("GET", blob, 1, 2, location)]
