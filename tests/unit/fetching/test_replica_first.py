"""The replicas of a cache fetch everything from the upstream once, whatever their number, and whichever are away."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import ExitStack
from email.message import Message
from typing import TYPE_CHECKING, Any, cast

import pytest
from fetching.replica_first import (
    ALL,
    HOLDINGS_HEADER,
    HOLDINGS_TYPE,
    MAX_BEHIND_BYTES,
    ZONE_HEADER,
    ReplicaFirst,
    rank_replicas,
)
from made_sources import Asked, MadeAnswer, MadeSource, whole
from upstream.errors import Denied, Kind, NotFound, Unavailable
from upstream.reference import Reference

if TYPE_CHECKING:
    from upstream.source import Source

BLOBS = [Reference("blob", "a/b", f"sha256:{number}") for number in range(100)]
TAGS = [Reference("manifest", f"a/{number}", "1") for number in range(100)]
REFUSED = Unavailable(Kind.REFUSED, "connection refused")
SILENT = Unavailable(Kind.TIMEOUT, "no answer in time")
NAMES = [f"x-{number}" for number in range(4)]


class Fleet:
    """All replicas of a cache, without a network; each fetches by its ReplicaFirst what it does not hold."""

    def __init__(self, names: list[str], zones: dict[str, str] | None = None) -> None:
        """Start without content, and with all replicas there."""
        self.zones = zones or {}
        self.away: dict[str, Exception] = {}
        self.held: dict[str, dict[Reference, str]] = {name: {} for name in names}
        self.asked: list[tuple[str, str, Asked]] = []
        self.timeouts: list[float] = []
        self.problem: Exception | None = None
        self._lock = threading.Lock()
        self.members = {
            name: ReplicaFirst(
                self._source(name, "upstream"),
                {other: self._source(name, other) for other in names if other != name},
                name,
                self.zones.get(name, ""),
            )
            for name in names
        }

    def pull(self, name: str, reference: Reference, offset: int = 0, method: str = "GET") -> None:
        """Answer a node's request at one replica."""
        if method == "HEAD" or reference not in self.held[name]:
            self.members[name].open(method, reference, offset=offset, timeout=10.0)
        self.held[name][reference] = ALL

    def fetched(self) -> Counter[Reference]:
        """Return how often each reference was requested from the upstream."""
        return Counter(asked.reference for _, target, asked in self.asked if target == "upstream")

    def _source(self, name: str, target: str) -> Source:
        fleet = self

        class Timed(MadeSource):
            def open(self, *arguments: Any, accept: Any = (), timeout: float, **more: Any) -> MadeAnswer:
                asked = Asked(*arguments, more.get("offset", 0))
                if accept == (HOLDINGS_TYPE,):
                    return fleet.tell_holdings(target, asked.reference)
                with fleet._lock:
                    fleet.asked.append((name, target, asked))
                    fleet.timeouts.append(timeout)
                return fleet.answer(name, target, asked)

        return cast("Source", Timed(lambda _: whole(b"")))

    def tell_holdings(self, target: str, reference: Reference) -> MadeAnswer:
        if target in self.away:
            raise self.away[target]
        headers = Message()
        headers[HOLDINGS_HEADER] = self.held[target].get(reference, "0")
        headers[ZONE_HEADER] = self.zones.get(target, "")
        return MadeAnswer([], 0, headers=headers)

    def answer(self, name: str, target: str, asked: Asked) -> MadeAnswer:
        if target == "upstream":
            return whole(b"")
        if target in self.away:
            raise self.away[target]
        if self.problem is not None:
            raise self.problem
        with self.members[target].answering(asked.reference, self.zones.get(name, "")):
            if self.held[target].get(asked.reference) != ALL:
                self.members[target].open(asked.method, asked.reference, timeout=10.0)
                self.held[target][asked.reference] = ALL
        return whole(b"")


def owner(reference: Reference, names: list[str], rank: int = 0) -> str:
    key = reference.path if reference.kind == "blob" else reference.repository
    return rank_replicas(names, key)[rank]


def hops(fleet: Fleet, reference: Reference) -> list[tuple[str, str]]:
    return [(name, target) for name, target, asked in fleet.asked if asked.reference == reference]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
def test_each_blob_and_tag_is_fetched_by_its_owner_once(count: int) -> None:
    names = [f"x-{number}" for number in range(count)]
    fleet = Fleet(names)
    for number, reference in enumerate([*BLOBS, *TAGS]):
        for turn in range(count):
            fleet.pull(names[(number + turn) % count], reference)
    assert fleet.fetched() == dict.fromkeys([*BLOBS, *TAGS], 1)
    by_replica = Counter(name for name, target, _ in fleet.asked if target == "upstream")
    assert min(by_replica[name] for name in names) > len(BLOBS) / count / 2
    fetched_by = {asked.reference: name for name, target, asked in fleet.asked if target == "upstream"}
    assert all(fetched_by[tag] == owner(tag, names) for tag in TAGS)


def test_replica_more_or_less_moves_its_own_share_only() -> None:
    before, after = ([owner(blob, [f"x-{number}" for number in range(count)]) for blob in BLOBS] for count in (4, 5))
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {"x-4"}
    assert len(BLOBS) / 10 < len(moved) < len(BLOBS) * 0.4


def test_content_that_any_replica_holds_is_not_fetched_again() -> None:
    """It is not, for example, after the volume of its owner was lost, or after one replica was added."""
    fleet = Fleet(NAMES)
    for blob in BLOBS:
        fleet.held[owner(blob, NAMES, 3)][blob] = ALL
    for blob in BLOBS:
        for name in NAMES:
            fleet.pull(name, blob)
    assert fleet.fetched() == {}


@pytest.mark.parametrize("problem", [REFUSED, SILENT], ids=repr)
def test_lost_replica_costs_no_fetch_of_what_others_hold_and_one_fetch_of_the_rest(problem: Exception) -> None:
    fleet = Fleet(NAMES)
    fleet.away["x-2"] = problem
    names = [name for name in NAMES if name != "x-2"]
    for blob in BLOBS[:50]:
        fleet.held[owner(blob, names, 2)][blob] = ALL
    for number, reference in enumerate([*BLOBS, *TAGS]):
        for turn in range(3):
            fleet.pull(names[(number + turn) % 3], reference)
    assert fleet.fetched() == dict.fromkeys([*BLOBS[50:], *TAGS], 1)


def test_request_of_a_replica_is_not_passed_on_to_a_third_one() -> None:
    """Not even if this one reaches the owner and the asking one does not."""
    fleet = Fleet(NAMES)
    for reference in [*BLOBS, *TAGS]:
        ranking = [owner(reference, NAMES, rank) for rank in range(4)]
        fleet.asked.clear()
        with fleet.members[ranking[1]].answering(reference, ""):
            fleet.members[ranking[1]].open("GET", reference, timeout=1.0)
        assert hops(fleet, reference) == [(ranking[1], "upstream")]
        with fleet.members[ranking[1]].answering(reference, None):
            fleet.members[ranking[1]].open("GET", reference, timeout=1.0)
        assert hops(fleet, reference)[1] == (ranking[1], ranking[0])


@pytest.mark.parametrize(
    "problem", [Unavailable(Kind.SERVER_ERROR, "503"), Unavailable(Kind.TOO_MANY, "429"), Denied("no")], ids=repr
)
def test_upstream_is_asked_if_a_replica_refuses(problem: Exception) -> None:
    """Another replica would ask the same upstream once more."""
    fleet = Fleet(NAMES)
    fleet.problem = problem
    for reference in [*BLOBS, *TAGS]:
        last = owner(reference, NAMES, 3)
        fleet.pull(last, reference)
        assert hops(fleet, reference) == [(last, owner(reference, NAMES)), (last, "upstream")]


@pytest.mark.parametrize(("references", "most"), [(TAGS, 4.0), (BLOBS, 10.0)], ids=["tags", "blobs"])
def test_replica_that_hangs_leaves_time_for_the_upstream(references: list[Reference], most: float) -> None:
    fleet = Fleet(NAMES[:2])
    for reference in references:
        fleet.timeouts.clear()
        fleet.pull(owner(reference, NAMES[:2], 1), reference)
        assert fleet.timeouts[0] == pytest.approx(most, abs=0.5)


def test_replicas_that_hang_share_the_time_of_one() -> None:
    fleet = Fleet(NAMES)
    fleet.away = dict.fromkeys(NAMES, SILENT)
    fleet.pull(owner(TAGS[0], NAMES, 3), TAGS[0])
    first, second, third, upstream = fleet.timeouts
    assert 4.0 >= first >= second >= third
    assert upstream == 10.0


def test_upstream_is_not_asked_again_for_something_that_it_does_not_have() -> None:
    """The other replica has asked it already."""
    fleet = Fleet(NAMES)
    fleet.problem = NotFound("no")
    for reference in [*BLOBS, *TAGS]:
        with pytest.raises(NotFound):
            fleet.pull(owner(reference, NAMES, 3), reference)
    assert fleet.fetched() == {}


@pytest.mark.parametrize(
    ("held", "asked"),
    [
        pytest.param("0", "upstream", id="holds-nothing"),
        pytest.param("1000", "upstream", id="is-far-behind"),
        pytest.param(str(50_000_000 - MAX_BEHIND_BYTES), "replica", id="is-nearly-as-far"),
        pytest.param(str(60_000_000), "replica", id="is-ahead"),
        pytest.param(ALL, "replica", id="holds-all"),
        pytest.param("nonsense", "upstream", id="nonsense"),
    ],
)
def test_rest_of_a_blob_is_asked_of_a_replica_that_can_send_it_soon(held: str, asked: str) -> None:
    fleet = Fleet(NAMES)
    first, last = owner(BLOBS[0], NAMES), owner(BLOBS[0], NAMES, 3)
    fleet.away = {name: REFUSED for name in NAMES if name != first}
    fleet.held[first][BLOBS[0]] = held
    fleet.members[last].open("GET", BLOBS[0], offset=50_000_000, timeout=10.0)
    assert hops(fleet, BLOBS[0])[0] == (last, first if asked == "replica" else "upstream")


def test_blob_crosses_to_each_zone_once() -> None:
    names = [f"x-{number}" for number in range(6)]
    zones = {name: f"zone-{number % 3}" for number, name in enumerate(names)}
    for number, blob in enumerate(BLOBS):
        # New ones each time: no replica knows the zones of the others yet.
        fleet = Fleet(names, zones)
        for turn in range(6):
            fleet.pull(names[(number + turn) % 6], blob)
        crossings = Counter(
            zones[name] for name, target in hops(fleet, blob) if target in zones and zones[name] != zones[target]
        )
        assert fleet.fetched() == {blob: 1}
        assert set(crossings.values()) == {1}
        assert len(crossings) == 2


def test_container_without_room_for_threads_still_asks_the_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        message = "can't start new thread"
        raise RuntimeError(message)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    fleet = Fleet(NAMES)
    for blob in BLOBS:
        last = owner(blob, NAMES, 3)
        fleet.pull(last, blob)
        assert hops(fleet, blob)[0] == (last, owner(blob, NAMES))


def test_zone_that_is_unknown_is_not_asked_to_pass_on() -> None:
    fleet = Fleet(NAMES, {"x-0": "a", "x-1": "a", "x-2": "b"})
    with ExitStack() as stack:
        for name in NAMES:
            stack.enter_context(fleet.members[name].answering(BLOBS[0], ""))
        for name in NAMES:
            fleet.members[name].open("GET", BLOBS[0], timeout=1.0)
    assert [target for _, target in hops(fleet, BLOBS[0])] == ["upstream"] * 4
