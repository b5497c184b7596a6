"""Repeated requests for the same blob are noticed, once for each blob."""

from __future__ import annotations

import pytest
from gate import repeats
from gate.repeats import Repeats


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(repeats.time, "monotonic", lambda: now[0])
    return now


def test_repeated_request_is_noticed_once_for_each_blob(clock: list[float]) -> None:
    requests = Repeats()
    assert not requests.is_repeat("node-1", "blob")
    assert not requests.is_repeat("node-2", "blob")
    assert not requests.is_repeat("node-1", "other")
    assert requests.is_repeat("node-1", "blob")
    assert not requests.is_repeat("node-2", "blob")
    assert requests.is_repeat("node-1", "other")
    clock[0] += repeats.REPEAT_WINDOW_SECONDS - 1
    assert not requests.is_repeat("node-1", "blob")
    clock[0] += 2
    assert requests.is_repeat("node-1", "blob")


def test_request_long_after_the_first_one_is_a_new_pull(clock: list[float]) -> None:
    requests = Repeats()
    assert not requests.is_repeat("node-1", "blob")
    clock[0] += repeats.REPEAT_WINDOW_SECONDS
    assert not requests.is_repeat("node-1", "blob")


def test_number_of_remembered_requests_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "MAX_REMEMBERED_REQUESTS", 10)
    requests = Repeats()
    for number in range(11):
        requests.is_repeat("node-1", str(number))
    assert not requests.is_repeat("node-1", "0")
    assert requests.is_repeat("node-1", "10")


def test_reports_are_forgotten_after_the_window(clock: list[float]) -> None:
    requests = Repeats()
    for number in range(1000):
        requests.is_repeat("node-1", str(number))
        assert requests.is_repeat("node-1", str(number))
    clock[0] += repeats.REPEAT_WINDOW_SECONDS
    requests.is_repeat("node-1", "new")
    assert not requests._reported_at
