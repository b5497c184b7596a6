"""The cache's configuration, written by the chart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from common.durations import duration_seconds
from upstream.client import Settings


class Configuration(NamedTuple):
    """What holds from the start to the end; times in seconds."""

    upstream: str
    settings: Settings
    tag_window: float
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
        settings=Settings(
            remote_url=content["remoteURL"],
            credentials=_path(content["credentials"]),
            http_proxy=content["httpProxy"],
            https_proxy=content["httpsProxy"],
            no_proxy=tuple(content["noProxy"]),
            proxy_credentials=_path(content["proxyCredentials"]),
            ca_file=_path(content["caFile"]),
            credentials_source=content["credentialsSource"],
            ca_source=content["caSource"],
        ),
        tag_window=_seconds(content["tagCheckInterval"]),
        replicas=tuple(content["replicas"]),
    )


def read_room(folder: Path) -> Room:
    """Read room.json; the kubelet changes it when the chart does.

    Raises:
        OSError, ValueError, KeyError: as read.
    """
    content = json.loads((folder / "room.json").read_text(encoding="utf-8"))
    return Room(
        content["capacity"], content["highWaterMarkPercent"] / 100, _seconds(content["ttl"]), content["version"]
    )


def _seconds(text: str) -> float:
    """The schema lets nothing but 0 be negative."""
    return duration_seconds(text.removeprefix("-"))


def _path(text: str) -> Path | None:
    return Path(text) if text else None
