"""The rates and delays of links, and the program that delays packets."""

from __future__ import annotations

import argparse

import pytest
from cluster.delay_line import DelayLine
from machine.links import parse_delay, parse_rate, token_bucket


@pytest.mark.parametrize(
    ("text", "bits"),
    [("1gbit", 10**9), ("2.5Gbit", 2_500_000_000), ("200mbit", 2 * 10**8), ("64kbit", 64_000), ("unlimited", None)],
)
def test_rates_are_bits_per_second(text: str, bits: int | None) -> None:
    assert parse_rate(text) == bits


@pytest.mark.parametrize("text", ["", "200", "200mb", "-1mbit", "0mbit", "1tbit", "none"])
def test_wrong_rate_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="write for example 200mbit"):
        parse_rate(text)


@pytest.mark.parametrize(("text", "seconds"), [("0", 0), ("50ms", 0.05), ("1.5ms", 0.0015), ("2s", 2)])
def test_delays_are_seconds(text: str, seconds: float) -> None:
    assert parse_delay(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "50", "-1ms", "50us"])
def test_wrong_delay_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="write for example 50ms"):
        parse_delay(text)


@pytest.mark.parametrize("bits", [10**6, 2 * 10**8, 10**9, 10**10])
def test_token_bucket_holds_whole_packets(bits: int) -> None:
    _, rate, _, burst, _, limit = token_bucket(bits)
    assert rate == f"{bits}bit"
    assert 2 * 65536 <= int(burst.removesuffix("b")) < int(limit.removesuffix("b"))


def test_packets_wait_in_order_until_they_are_due() -> None:
    line = DelayLine(0.05)
    assert line.wait_seconds(1.0) is None
    assert line.put(b"one", 1.0)
    assert line.put(b"two", 1.01)
    assert line.take(1.04) is None
    assert line.wait_seconds(1.04) == pytest.approx(0.01)
    assert line.take(1.055) == b"one"
    assert line.take(1.055) is None
    assert line.wait_seconds(2.0) == 0
    assert line.take(2.0) == b"two"
    assert line.take(2.0) is None


def test_full_delay_line_drops_packets_until_some_are_delivered() -> None:
    line = DelayLine(0.05, max_bytes=5)
    assert line.put(b"123", 1.0)
    assert not line.put(b"456", 1.0)
    assert line.put(b"78", 1.0)
    assert line.take(2.0) == b"123"
    assert line.put(b"456", 2.0)
