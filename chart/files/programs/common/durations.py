"""Durations as Go writes them, which is how the chart's values have them."""

from __future__ import annotations

import re

_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_SECONDS_PER_UNIT = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float:
    """Return the seconds of a Go duration (time.ParseDuration) that is not negative; -0s is zero.

    Raises:
        ValueError: The text is not such a duration.
    """
    unsigned = text[1:] if text.startswith(("+", "-")) else text
    parts = _PART.findall(unsigned)
    seconds = sum((float(number) * _SECONDS_PER_UNIT[unit] for number, unit in parts), 0.0)
    is_duration = unsigned == "0" or (parts and "".join(number + unit for number, unit in parts) == unsigned)
    if not is_duration or (seconds and text.startswith("-")):
        message = "must be a duration such as 5s or 500ms"
        raise ValueError(message)
    return seconds
