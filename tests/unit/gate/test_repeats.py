"""Who asks for a blob again, and how often that is worth a look."""

from __future__ import annotations

import pytest
from gate import repeats
from gate.repeats import Repeats


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(repeats.time, "monotonic", lambda: now[0])
    return now


def test_who_asks_again_is_noticed_once_a_blob(clock: list[float]) -> None:
    asked = Repeats()
    assert not asked.is_one("node-1", "blob")
    assert not asked.is_one("node-2", "blob")
    assert not asked.is_one("node-1", "other")
    assert asked.is_one("node-1", "blob")
    assert not asked.is_one("node-2", "blob")
    assert asked.is_one("node-1", "other")
    clock[0] += repeats.REPEATED - 1
    assert not asked.is_one("node-1", "blob")
    clock[0] += 2
    assert asked.is_one("node-1", "blob")


def test_who_asks_much_later_pulls_anew(clock: list[float]) -> None:
    asked = Repeats()
    assert not asked.is_one("node-1", "blob")
    clock[0] += repeats.REPEATED
    assert not asked.is_one("node-1", "blob")


def test_memory_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "REMEMBERED", 10)
    asked = Repeats()
    for number in range(11):
        asked.is_one("node-1", str(number))
    assert not asked.is_one("node-1", "0")
    assert asked.is_one("node-1", "10")
