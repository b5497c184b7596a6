"""Whether more connections are used is decided by what they add, and in doubt they are not."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from fetching.trial import FAST_BYTES_PER_SECOND, TRIAL_BYTES, Trial

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20
SIZE = 1000 * MIB
RATE = 20 * MIB
STEP_SECONDS = 0.01


def observe(trial: Trial, written: Callable[[float], float], seconds: float = 10.0) -> float | None:
    """Let a first connection run, and return when the trial is due, if it is."""
    for step in range(int(seconds / STEP_SECONDS)):
        now = step * STEP_SECONDS
        if trial.is_due(now, int(written(now)), SIZE):
            return now
    return None


def steady(now: float) -> float:
    return now * RATE


def run(first: float, second: float) -> Trial:
    """Return a trial in which the connections have these shares of the rate that the first one had alone."""
    trial = Trial()
    began = observe(trial, steady)
    assert began is not None
    trial.begin()
    now, received = began, 0
    while received < TRIAL_BYTES:
        now += 0.001
        received = int((now - began) * RATE * second)
        trial.observe_second(now, received)
        trial.decide(now, int(steady(began) + (now - began) * RATE * first))
    assert not trial.is_running
    return trial


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(1.0, 1.0, id="each-is-limited"),
        pytest.param(0.9, 0.6, id="more-together"),
        pytest.param(0.0, 5.0, id="limited-only-after-a-while"),
    ],
)
def test_more_connections_are_used_if_they_add_speed(first: float, second: float) -> None:
    assert run(first, second).has_succeeded


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(0.5, 0.5, id="the-line-is-the-limit"),
        pytest.param(0.9, 0.2, id="not-much-more"),
        pytest.param(0.6, 0.9, id="at-the-cost-of-the-first-one"),
        pytest.param(0.0, 1.5, id="instead-of-the-first-one"),
    ],
)
def test_more_connections_are_not_used_if_they_add_little(first: float, second: float) -> None:
    assert not run(first, second).has_succeeded


def test_connection_that_still_becomes_faster_is_not_judged() -> None:
    assert observe(Trial(), lambda now: MIB * math.exp(now), 3.0) is None


def test_connection_that_pauses_after_a_burst_is_not_judged_before_it_is_steady() -> None:
    due = observe(Trial(), lambda now: max(40 * MIB, steady(now)) if now > 0.1 else 400 * MIB * now)
    assert due is not None
    assert due > 2.0


def test_fast_connection_is_left_alone() -> None:
    assert observe(Trial(), lambda now: now * FAST_BYTES_PER_SECOND * 1.1) is None


def test_blob_that_is_nearly_there_is_left_alone() -> None:
    trial = Trial()
    assert not any(trial.is_due(now / 10, SIZE - (20 - now) * MIB, SIZE) for now in range(20))


def test_trial_without_a_result_does_not_succeed() -> None:
    trial = Trial()
    began = observe(trial, steady)
    assert began is not None
    start = trial.begin()
    assert start >= steady(began) + 2 * TRIAL_BYTES
    trial.decide(began + 1, start)
    assert trial.is_running
    trial.give_up()
    assert not trial.is_running
    assert not trial.has_succeeded
