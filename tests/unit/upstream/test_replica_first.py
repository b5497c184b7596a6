"""Two replicas fetch everything from the upstream once."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any, cast

import pytest
from made_sources import Asked, MadeAnswer, MadeSource, whole
from upstream.errors import Denied, Kind, NotFound, Unavailable
from upstream.reference import Reference
from upstream.replica_first import ReplicaFirst
from upstream.urls import Url

if TYPE_CHECKING:
    from upstream.source import Source

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


def ask(source: object, reference: Reference, timeout: float = 1.0) -> MadeAnswer:
    return cast("MadeAnswer", cast("Source", source).open("GET", reference, timeout=timeout))


def replica_first(ordinal: int, upstream: Failing, replica: Failing) -> ReplicaFirst:
    return ReplicaFirst(cast("Source", upstream.source), cast("Source", replica.source), ordinal)


def test_everything_is_fetched_from_the_upstream_by_one_replica_only() -> None:
    asked: list[set[Reference]] = []
    for ordinal in (0, 1):
        upstream, replica = Failing(), Failing()
        source = replica_first(ordinal, upstream, replica)
        for blob in BLOBS:
            ask(source, blob)
        asked.append({each.reference for each in upstream.source.asked})
        assert asked[-1] | {each.reference for each in replica.source.asked} == set(BLOBS)
    assert asked[0] & asked[1] == set()
    assert min(len(asked[0]), len(asked[1])) > len(BLOBS) / 4


@pytest.mark.parametrize("problem", [REFUSED, Denied("no")], ids=repr)
def test_upstream_is_asked_if_the_replica_cannot_help(problem: Exception) -> None:
    upstream, replica = Failing(), Failing(problem)
    source = replica_first(0, upstream, replica)
    for blob in BLOBS:
        ask(source, blob)
    assert {each.reference for each in upstream.source.asked} == set(BLOBS)


@pytest.mark.parametrize(
    ("reference", "most"), [(Reference("manifest", "a/b", "1"), 4.0), (Reference("blob", "a/b", "1"), 10.0)]
)
def test_replica_that_hangs_leaves_time_for_the_upstream(reference: Reference, most: float) -> None:
    given: list[float] = []

    class Timed(MadeSource):
        def open(self, *arguments: Any, timeout: float, **more: Any) -> MadeAnswer:
            given.append(timeout)
            return super().open(*arguments, timeout=timeout, **more)

    replica = Failing()
    replica.source = Timed(lambda _: whole(b""))
    for ordinal in (0, 1):
        ask(replica_first(ordinal, Failing(), replica), reference, 10.0)
    assert given == [most]


def test_upstream_is_not_asked_again_for_something_that_it_does_not_have() -> None:
    """The other replica has asked it already."""
    upstream, replica = Failing(), Failing(NotFound("no"))
    theirs = next(blob for blob in BLOBS if sha256(blob.path.encode()).digest()[0] % 2)
    with pytest.raises(NotFound):
        ask(replica_first(0, upstream, replica), theirs)
    assert upstream.source.asked == []


def test_range_is_requested_from_both_and_a_location_of_the_upstream_only_from_the_upstream() -> None:
    upstream, replica = Failing(), Failing(REFUSED)
    source = cast("Source", replica_first(0, upstream, replica))
    theirs = next(blob for blob in BLOBS if sha256(blob.path.encode()).digest()[0] % 2)
    location = Url.parse("http://cdn.example.com/x")
    source.open("GET", theirs, offset=1, last_byte=2, location=location, timeout=1.0)
    assert replica.source.asked == [Asked("GET", theirs, 1, 2)]
    assert upstream.source.asked == [Asked("GET", theirs, 1, 2, location)]
