"""A short form of `make fuzz` for what clients send to a cache pod."""

from __future__ import annotations

from experiments.fuzz import run_target
from experiments.fuzz_http import fuzzed_pod


def test_odd_requests_do_no_harm() -> None:
    with fuzzed_pod() as fuzzed:
        assert run_target(fuzzed.target, 8, None) > 0
