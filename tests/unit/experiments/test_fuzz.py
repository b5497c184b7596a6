"""A short form of `make fuzz`, without its memory of earlier inputs."""

from __future__ import annotations

import time

import pytest
from experiments import fuzz_parsers, fuzz_upstream
from experiments.fuzz import Hang, Target, limit, run_target
from hypothesis import strategies as st

TARGETS = [*fuzz_parsers.TARGETS, *fuzz_upstream.TARGETS]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_odd_input_is_refused_and_does_no_harm(target: Target) -> None:
    assert run_target(target, 0.3 * target.weight, None) > 0


def test_input_that_fails_is_reported() -> None:
    def check(number: int) -> None:
        assert number < 100

    with pytest.raises(AssertionError):
        run_target(Target("numbers", st.integers(), check), 10, None)


def test_input_that_takes_too_long_is_reported() -> None:
    with pytest.raises(Hang), limit(0.05):
        time.sleep(30)
