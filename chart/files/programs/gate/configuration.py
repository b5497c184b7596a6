"""Reads the configuration of a cache, which the chart writes into a ConfigMap."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, NamedTuple

from common.config_reader import (
    read_config,
    require,
    to_optional_text,
    to_path,
    to_seconds,
    to_text,
    to_texts,
    to_whole_number,
)
from common.endpoint import Endpoint, read_endpoint
from upstream.client import Settings

from gate.ahead import MODES

if TYPE_CHECKING:
    from pathlib import Path

    from common.config_reader import Fields
    from upstream.destinations import Network


# The values of `access`: everybody may pull everything, or each puller shows the upstream credentials of their own.
ANYONE, PULLER = "Anyone", "Puller"
ACCESSES = (ANYONE, PULLER)


class Configuration(NamedTuple):
    """The settings that apply until the gate ends; a change of them replaces the pod."""

    upstream: str
    settings: Settings
    tag_check_interval_seconds: float
    fetch_ahead: str
    """One of `ahead.MODES`."""
    allowed_repositories: tuple[str, ...]
    """The repositories that the cache serves, such as `library/nginx` or `team/*`, or nothing for all."""
    replicas: tuple[Endpoint, ...]
    """The endpoints of all replicas, or nothing if the cache has one pod."""
    access: str
    """ANYONE or PULLER."""
    access_check_seconds: float
    """How long an answer of the upstream about a puller counts."""
    access_grace_seconds: float
    """How long it counts while the upstream is away."""
    certificates: Path | None = None
    """The folder with the certificate of a cache with TLS."""
    client_certificate: Path | None = None
    """The folder with the nodes' certificate, if the cache serves only nodes."""


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
        InvalidConfiguration: The file cannot be read, or something in it is missing or cannot be used.
    """
    return read_config(folder / "cache.json", _to_configuration)


def read_limits(folder: Path) -> Limits:
    """Read room.json, which the kubelet updates after an upgrade of the release.

    Raises:
        InvalidConfiguration: As for `read_configuration`.
    """
    return read_config(folder / "room.json", _to_limits)


def _to_configuration(fields: Fields) -> Configuration:
    upstream = fields.take("upstream", to_text)
    return Configuration(
        upstream=upstream,
        settings=Settings(
            remote_url=fields.take("remoteURL", to_text),
            credentials=fields.take("credentials", _to_path_or_none),
            http_proxy=fields.take("httpProxy", to_optional_text),
            https_proxy=fields.take("httpsProxy", to_optional_text),
            no_proxy=fields.take("noProxy", to_texts),
            proxy_credentials=fields.take("proxyCredentials", _to_path_or_none),
            ca_file=fields.take("caFile", _to_path_or_none),
            credentials_source=fields.take("credentialsSource", to_optional_text),
            ca_source=fields.take("caSource", to_optional_text),
            registry=upstream,
            token_servers=fields.take("tokenServers", to_texts),
            allowed_networks=fields.take("allowedNetworks", _to_networks),
        ),
        tag_check_interval_seconds=fields.take("tagCheckInterval", to_seconds),
        fetch_ahead=fields.take("fetchAhead", _to_ahead_mode),
        allowed_repositories=fields.take("allowedRepositories", to_texts),
        replicas=fields.take_objects("replicas", read_endpoint),
        access=fields.take("access", _to_access),
        access_check_seconds=fields.take("accessCheckInterval", to_seconds),
        access_grace_seconds=fields.take("accessGracePeriod", to_seconds),
        certificates=_take_folder(fields, "certificates"),
        client_certificate=_take_folder(fields, "clientCertificate"),
    )


def _take_folder(fields: Fields, name: str) -> Path | None:
    return fields.take(name, to_path) if fields.has(name) else None


def _to_limits(fields: Fields) -> Limits:
    return Limits(
        capacity_bytes=fields.take("capacity", to_whole_number(0, "a number of bytes")),
        high_water=fields.take("highWaterMarkPercent", _to_share),
        ttl_seconds=fields.take("ttl", to_seconds),
        version=fields.take("version", to_text),
    )


def _to_path_or_none(value: object) -> Path | None:
    return None if value == "" else to_path(value)


def _to_networks(value: object) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(text, strict=False) for text in to_texts(value))
    except ValueError:
        message = "must be a list of networks such as 10.0.0.0/8"
        raise ValueError(message) from None


def _to_ahead_mode(value: object) -> str:
    return require(value, str, f"one of {', '.join(MODES)}", lambda mode: mode in MODES)


def _to_access(value: object) -> str:
    return require(value, str, f"one of {', '.join(ACCESSES)}", lambda access: access in ACCESSES)


def _to_share(value: object) -> float:
    return to_whole_number(1, "a whole number of percent from 1 to 100", 100)(value) / 100
