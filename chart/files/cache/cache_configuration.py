"""The cache's configuration, written by the chart."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class Configuration(NamedTuple):
    """What holds from the start to the end; times in seconds, and None for what is not there."""

    upstream: str
    remote_url: str
    tag_window: float
    http_proxy: str
    https_proxy: str
    no_proxy: tuple[str, ...]
    ca_file: Path | None
    credentials: Path | None
    proxy_credentials: Path | None
    replicas: tuple[str, ...]


class Room(NamedTuple):
    """What may change meanwhile: bytes of the volume, the share of them to use, seconds from last use to removal.

    `version` is the chart's, by which it was written.
    """

    capacity: int
    high_water: float
    ttl: float
    version: str


def read(folder: Path) -> Configuration:
    """Read cache.json.

    Raises:
        OSError, ValueError, KeyError: it cannot be read, or is not as the chart writes it.
    """
    content = json.loads((folder / "cache.json").read_text(encoding="utf-8"))
    return Configuration(
        upstream=content["upstream"],
        remote_url=content["remoteURL"],
        tag_window=duration_seconds(content["tagWindow"]),
        http_proxy=content["httpProxy"],
        https_proxy=content["httpsProxy"],
        no_proxy=tuple(content["noProxy"]),
        ca_file=_path(content["caFile"]),
        credentials=_path(content["credentials"]),
        proxy_credentials=_path(content["proxyCredentials"]),
        replicas=tuple(content["replicas"]),
    )


def read_room(folder: Path) -> Room:
    """Read room.json; the kubelet changes it when the chart does.

    Raises:
        OSError, ValueError, KeyError: as read.
    """
    content = json.loads((folder / "room.json").read_text(encoding="utf-8"))
    return Room(
        content["capacity"], content["highWaterMark"] / 100, duration_seconds(content["ttl"]), content["version"]
    )


def duration_seconds(text: str) -> float:
    """A Go duration (time.ParseDuration) in seconds.

    Raises:
        ValueError: it is none.
    """
    unsigned = text.lstrip("+-")
    parts = DURATION.findall(unsigned)
    if unsigned != "0" and (not parts or "".join(number + unit for number, unit in parts) != unsigned):
        message = f"not a duration such as 168h: {text}"
        raise ValueError(message)
    return sum((float(number) * SECONDS[unit] for number, unit in parts), 0.0)


def _path(text: str) -> Path | None:
    return Path(text) if text else None
