"""Go's durations, as the values have them; for the program on the nodes and for the caches' gate."""

from __future__ import annotations

import re

DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def duration_seconds(text: str) -> float:
    """A Go duration (time.ParseDuration), not negative, in seconds.

    Raises:
        ValueError: it is none.
    """
    unsigned = text.removeprefix("+")
    parts = DURATION.findall(unsigned)
    if unsigned != "0" and (not parts or "".join(number + unit for number, unit in parts) != unsigned):
        message = "not a duration such as 5s or 500ms"
        raise ValueError(message)
    return sum((float(number) * SECONDS[unit] for number, unit in parts), 0.0)
