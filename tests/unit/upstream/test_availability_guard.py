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


def ask(source: object, offset: int = 0, repository: str = "a/b") -> MadeAnswer:
    answer = cast("Source", source).open("GET", Reference("blob", repository, "x"), offset=offset, timeout=1.0)
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
    whom = "" if problem is REFUSED else " for a/b"
    assert log == [
        f"the upstream is unavailable{whom}, serving what is cached: {problem}",
        f"the upstream is available again{whom}",
    ]


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
    assert log[1:] == [f"the upstream is available again{'' if problem is REFUSED else ' for a/b'}"]


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


SLOW = Unavailable(Kind.TIMEOUT, "silent")


@pytest.mark.parametrize(
    "problem",
    [SLOW, Unavailable(Kind.RESET, "closed"), Unavailable(Kind.TOO_MANY, "429", 30.0), Unavailable(Kind.TLS, "no")],
    ids=str,
)
def test_repository_without_an_answer_does_not_make_the_source_unavailable_for_others(
    clock: list[float], problem: Unavailable
) -> None:
    problem.is_connecting = False
    failing = Failing()
    source = guarded(failing, [])
    for _ in range(10):
        failing.problem = problem
        with pytest.raises(Unavailable):
            ask(source)
        failing.problem = None
        ask(source, repository="c/d")
        clock[0] += availability_guard.PAUSE_SECONDS
    assert not source.is_away


def test_source_without_an_answer_to_several_repositories_is_unavailable_for_all(clock: list[float]) -> None:
    failing, log = Failing(SLOW), list[str]()
    source = guarded(failing, log)
    for number in range(availability_guard.SEVERAL_REPOSITORIES):
        assert not source.is_away
        with pytest.raises(Unavailable):
            ask(source, repository=f"slow/{number}")
    assert source.is_away
    failing.problem = None
    with pytest.raises(Unavailable):
        ask(source)
    assert len(failing.source.asked) == availability_guard.SEVERAL_REPOSITORIES
    clock[0] += availability_guard.PAUSE_SECONDS
    ask(source)
    ask(source, repository="slow/0")
    assert log[-2:] == [
        "the upstream is unavailable, serving what is cached: silent",
        "the upstream is available again",
    ]


def test_answer_in_between_shows_that_the_source_is_there(clock: list[float]) -> None:
    failing = Failing()
    source = guarded(failing, [])
    for number in range(3 * availability_guard.SEVERAL_REPOSITORIES):
        failing.problem = SLOW
        with pytest.raises(Unavailable):
            ask(source, repository=f"slow/{number}")
        failing.problem = NotFound()
        with pytest.raises(NotFound):
            ask(source)
    assert not source.is_away


def elsewhere(problem: Unavailable) -> Unavailable:
    problem.is_elsewhere = True
    return problem


@pytest.mark.parametrize(
    ("problem", "is_asked_again"),
    [
        (elsewhere(Unavailable(Kind.REFUSED, "the CDN refused")), True),
        (elsewhere(Unavailable(Kind.DNS, "the CDN has no address")), False),
        (elsewhere(Unavailable(Kind.TIMEOUT, "the token server is silent")), False),
        (elsewhere(Unavailable(Kind.SERVER_ERROR, "the CDN answered 503", 20.0)), False),
    ],
    ids=str,
)
def test_another_server_says_nothing_about_the_source(
    clock: list[float], problem: Unavailable, *, is_asked_again: bool
) -> None:
    failing = Failing(problem)
    source = guarded(failing, [])
    for number in range(2 * availability_guard.SEVERAL_REPOSITORIES):
        for _ in range(2):
            with pytest.raises(Unavailable):
                ask(source, repository=f"elsewhere/{number}")
    assert len(failing.source.asked) == 2 * availability_guard.SEVERAL_REPOSITORIES * (1 + is_asked_again)
    assert not source.is_away
    failing.problem = None
    ask(source)


@pytest.mark.parametrize("kind", [Kind.TLS, Kind.PROXY, Kind.UNREACHABLE])
def test_rest_of_a_body_is_requested_whatever_failed_at_once(clock: list[float], kind: Kind) -> None:
    failing = Failing(Unavailable(kind, "no"))
    source = guarded(failing, [])
    for _ in range(3):
        with pytest.raises(Unavailable):
            ask(source, offset=1)
    assert len(failing.source.asked) == 3


def test_probe_without_an_answer_makes_a_replica_unavailable(clock: list[float]) -> None:
    failing = Failing(SLOW)
    source = AvailabilityGuard(cast("Source", failing.source), "a replica", lambda _: None, "probe")
    with pytest.raises(Unavailable):
        cast("Source", source).open("HEAD", Reference("blob", "a/b", "x"), accept=("probe",), timeout=1.0)
    assert source.is_away


def test_number_of_remembered_repositories_is_limited(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability_guard, "MAX_REPOSITORIES", 10)
    failing = Failing(elsewhere(Unavailable(Kind.TIMEOUT, "silent")))
    source = guarded(failing, [])
    for number in range(30):
        with pytest.raises(Unavailable):
            ask(source, repository=f"slow/{number}")
    assert len(source._pauses) == 10
