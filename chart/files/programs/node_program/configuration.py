"""The configuration of the node program, which the chart writes."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from common.config_reader import (
    HIGHEST_PORT,
    InvalidConfiguration,
    read_config,
    require,
    to_matching_text,
    to_path,
    to_positive_seconds,
    to_seconds,
    to_text,
    to_texts,
    to_whole_number,
)
from common.endpoint import Endpoint, read_endpoint

if TYPE_CHECKING:
    from common.config_reader import Fields

# It becomes the name of a folder: it must not lead out of the registry directory, and must not be `_default`.
_UPSTREAM = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?")
_OWNER = re.compile(r"[A-Za-z0-9.-]+/[A-Za-z0-9.-]+")
_VERSION = re.compile(r"(v?[0-9]+\.[0-9]+.*)?")


class Cache(NamedTuple):
    """The cache of an upstream; its host is a name in the cluster's DNS, and `server` is the URL of the upstream.

    `identity` is what the cache has to state (common.identity), or None to accept any registry at the address.
    """

    upstream: str
    server: str
    endpoint: Endpoint
    identity: str | None = None


class Probe(NamedTuple):
    """How to probe caches, with times in seconds; `max_backoff` is for keeper.Backoff."""

    interval: float
    timeout: float
    failure_threshold: int
    max_backoff: float


class Containerd(NamedTuple):
    """Where the files of containerd are: paths on the node; `mounts` maps folders of the node to folders in the pod.

    `version` is for example 2.2.1, or empty if the values do not say it.
    """

    configuration: str
    registry_directory: str
    version: str
    mounts: dict[str, Path]


class Configure(NamedTuple):
    """How to change containerd: commands, and in `on_host` the prefix that runs each of them outside the pod."""

    on_host: tuple[str, ...]
    containerd_binary: str
    restart_command: tuple[str, ...]
    ready_command: tuple[str, ...]


class ProxyCheck(NamedTuple):
    """How to find out whether containerd uses a proxy: the units that start it, and where the pod sees their files.

    `directories` are those of the node with units, in systemd's order, and `mounts` has them in the pod.
    """

    units: tuple[str, ...]
    directories: tuple[str, ...]
    mounts: dict[str, Path]


class Configuration(NamedTuple):
    """The whole configuration; `owner` is the release's namespace/name, and a `metrics_port` of 0 serves no metrics."""

    owner: str
    registry_directory: Path
    state_directory: Path
    dial_timeout: str
    probe: Probe
    metrics_port: int
    containerd: Containerd
    configure: Configure | None
    proxy_check: ProxyCheck | None
    caches: tuple[Cache, ...]


def from_arguments(arguments: list[str], description: str | None) -> Configuration:
    """Return the configuration in the file that `--config` names; end the program with exit code 2 if it is invalid."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", type=Path, required=True)
    try:
        return read(parser.parse_args(arguments).config)
    except InvalidConfiguration as problem:
        print(problem, file=sys.stderr)
        raise SystemExit(2) from problem


def read(path: Path) -> Configuration:
    """Read the file.

    Raises:
        InvalidConfiguration: The file cannot be read, or something in it is missing or cannot be used.
    """
    return read_config(path, _read_configuration)


def _read_configuration(fields: Fields) -> Configuration:
    configuration = Configuration(
        owner=fields.take("owner", _to_owner),
        registry_directory=fields.take("registryDirectory", to_path),
        state_directory=fields.take("stateDirectory", to_path),
        dial_timeout=fields.take("dialTimeout", _to_duration),
        probe=fields.take_object("probe", _read_probe),
        metrics_port=fields.take("metricsPort", _to_port_or_0),
        containerd=fields.take_object("containerd", _read_containerd),
        configure=fields.take_object("configure", _read_configure) if fields.has("configure") else None,
        proxy_check=fields.take_object("proxyCheck", _read_proxy_check) if fields.has("proxyCheck") else None,
        caches=fields.take_objects("caches", _read_cache),
    )
    upstreams = [cache.upstream for cache in configuration.caches if cache.upstream is not None]
    for upstream in sorted(set(upstreams)):
        if upstreams.count(upstream) > 1:
            fields.report("caches", f"must have one entry for each upstream, but has more for {upstream}")
    return configuration


def _read_probe(fields: Fields) -> Probe:
    return Probe(
        interval=fields.take("interval", to_positive_seconds),
        timeout=fields.take("timeout", to_positive_seconds),
        failure_threshold=fields.take("failureThreshold", to_whole_number(1, "a whole number from 1")),
        max_backoff=fields.take("maxBackoff", to_seconds),
    )


def _read_containerd(fields: Fields) -> Containerd:
    return Containerd(
        configuration=fields.take("configuration", to_text),
        registry_directory=fields.take("registryDirectory", to_text),
        version=fields.take("version", _to_version),
        mounts=fields.take("mounts", _to_mounts),
    )


def _read_configure(fields: Fields) -> Configure:
    return Configure(
        on_host=fields.take("onHost", to_texts),
        containerd_binary=fields.take("containerdBinary", to_text),
        restart_command=fields.take("restartCommand", to_texts),
        ready_command=fields.take("readyCommand", to_texts),
    )


def _read_proxy_check(fields: Fields) -> ProxyCheck:
    return ProxyCheck(
        units=fields.take("units", to_texts),
        directories=fields.take("directories", to_texts),
        mounts=fields.take("mounts", _to_mounts),
    )


def _read_cache(fields: Fields) -> Cache:
    return Cache(
        upstream=fields.take("upstream", _to_upstream),
        server=fields.take("server", to_text),
        endpoint=fields.take_object("endpoint", read_endpoint),
        identity=fields.take("identity", to_text) if fields.has("identity") else None,
    )


_to_owner = to_matching_text(_OWNER, "a namespace and a name such as kube-system/registry-cache")
_to_upstream = to_matching_text(_UPSTREAM, "a registry such as docker.io or registry.example.com:5000")
_to_version = to_matching_text(_VERSION, "a version such as 2.2.1, or empty")
_to_port_or_0 = to_whole_number(0, f"a port up to {HIGHEST_PORT}, or 0 for none", HIGHEST_PORT)


def _to_duration(value: object) -> str:
    to_seconds(value)
    return str(value)


def _to_mounts(value: object) -> dict[str, Path]:
    mounts = require(value, dict, "an object of absolute paths", lambda mounts: all(map(_is_path, mounts.values())))
    return {node: Path(pod) for node, pod in mounts.items()}


def _is_path(value: object) -> bool:
    return isinstance(value, str) and value.startswith("/")
