"""Durations as Go writes them."""

from __future__ import annotations

import pytest
from common.durations import parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("0s", 0.0),
        ("+1h", 3600.0),
        (".5s", 0.5),
        ("1.5m", 90.0),
        ("1h2m3s4ms5us6µs7ns", 3723.004011007),
        ("-0", 0.0),
        ("-0h0.0s", 0.0),
    ],
)
def test_duration_is_parsed(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "5 s", "soon", "s", "1s2", "--1s", "+-1s", "-1s", "-0.5s", "1d", "٣s"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must be a duration such as 5s or 500ms$"):
        parse_duration(text)
