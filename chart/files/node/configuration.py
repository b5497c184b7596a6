"""The node program's configuration, written by the chart."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class Invalid(Exception):
    """The configuration cannot be used; the message has every problem, a line each."""


@dataclass(frozen=True)
class Cache:
    """One upstream, and where its cache is: `service` is a name in the cluster's DNS."""

    upstream: str
    server: str
    service: str
    port: int


@dataclass(frozen=True)
class Configuration:
    """All of it; intervals and timeouts in seconds, `dial_timeout` as it goes into hosts.toml."""

    owner: str
    registry_directory: Path
    state_directory: Path
    dial_timeout: str
    interval: float
    timeout: float
    failure_threshold: int
    caches: tuple[Cache, ...]


def read(path: Path) -> Configuration:
    """Read the file.

    Raises:
        Invalid: it cannot be read, or something in it is missing or of the wrong kind.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = f"{path}: {error}"
        raise Invalid(message) from error
    problems: list[str] = []

    def take(source: dict[str, Any], where: str, key: str, kind: type) -> Any:  # noqa: ANN401 - of the given kind
        value = source.get(key) if isinstance(source, dict) else None
        if not isinstance(value, kind) or isinstance(value, bool):
            problems.append(f"{path}: {where}{key}: is {value!r}, not a {kind.__name__}")
            return kind()
        return value

    def seconds(source: dict[str, Any], where: str, key: str) -> float:
        text = take(source, where, key, str)
        try:
            return duration_seconds(text)
        except ValueError as error:
            problems.append(f"{path}: {where}{key}: {error}")
            return 0.0

    probe = take(content, "", "probe", dict)
    caches = tuple(
        Cache(
            upstream=take(entry, f"caches[{index}].", "upstream", str),
            server=take(entry, f"caches[{index}].", "server", str),
            service=take(entry, f"caches[{index}].", "service", str),
            port=take(entry, f"caches[{index}].", "port", int),
        )
        for index, entry in enumerate(take(content, "", "caches", list))
    )
    made = Configuration(
        owner=take(content, "", "owner", str),
        registry_directory=Path(take(content, "", "registryDirectory", str)),
        state_directory=Path(take(content, "", "stateDirectory", str)),
        dial_timeout=take(content, "", "dialTimeout", str),
        interval=seconds(probe, "probe.", "interval"),
        timeout=seconds(probe, "probe.", "timeout"),
        failure_threshold=take(probe, "probe.", "failureThreshold", int),
        caches=caches,
    )
    if problems:
        raise Invalid("\n".join(problems))
    return made


def duration_seconds(text: str) -> float:
    """A Go duration (time.ParseDuration), not negative, in seconds.

    Raises:
        ValueError: it is none.
    """
    if text == "0":
        return 0.0
    parts = DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        message = f"{text!r} is not a duration such as 5s or 500ms"
        raise ValueError(message)
    return sum(float(number) * SECONDS[unit] for number, unit in parts)
