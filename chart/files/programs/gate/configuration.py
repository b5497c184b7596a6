"""Reads the configuration of a cache, which the chart writes into a ConfigMap."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from common.durations import duration_seconds
from upstream.client import Settings


class Configuration(NamedTuple):
    """The settings that apply until the gate ends; a change of them replaces the pod."""

    upstream: str
    settings: Settings
    tag_check_interval_seconds: float
    replicas: tuple[str, ...]
    """The host names of all replicas, or nothing if the cache has one pod."""


class Limits(NamedTuple):
    """The settings that may change while the gate runs."""

    capacity_bytes: int
    high_water: float
    """The share of the capacity above which content is evicted."""
    ttl_seconds: float
    """How long content is kept after its last use, or 0 to keep it forever."""
    version: str
    """The version of the chart that wrote the file."""


def read_configuration(folder: Path) -> Configuration:
    """Read cache.json.

    Raises:
        OSError, ValueError, KeyError: The file cannot be read, or it is not as the chart writes it.
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
        tag_check_interval_seconds=_seconds(content["tagCheckInterval"]),
        replicas=tuple(content["replicas"]),
    )


def read_limits(folder: Path) -> Limits:
    """Read room.json, which the kubelet updates after an upgrade of the release.

    Raises:
        OSError, ValueError, KeyError: The file cannot be read, or it is not as the chart writes it.
    """
    content = json.loads((folder / "room.json").read_text(encoding="utf-8"))
    return Limits(
        capacity_bytes=content["capacity"],
        high_water=content["highWaterMarkPercent"] / 100,
        ttl_seconds=_seconds(content["ttl"]),
        version=content["version"],
    )


def _seconds(text: str) -> float:
    """Return the seconds of a duration; the schema accepts a minus sign before zero alone."""
    return duration_seconds(text.removeprefix("-"))


def _path(text: str) -> Path | None:
    return Path(text) if text else None
