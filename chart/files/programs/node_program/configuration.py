"""The node program's configuration, written by the chart."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from common.durations import duration_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

# It names a folder: nothing that leads out of the registry folder, and not `_default`.
UPSTREAM = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?")
OWNER = re.compile(r"[A-Za-z0-9.-]+/[A-Za-z0-9.-]+")
VERSION = re.compile(r"(v?[0-9]+\.[0-9]+.*)?")
LARGEST_PORT = 65535


class Invalid(Exception):
    """The configuration cannot be used; the message has every problem, a line each."""


class Cache(NamedTuple):
    """One upstream, and where its cache is: `service` is a name in the cluster's DNS."""

    upstream: str
    server: str
    service: str
    port: int


class Containerd(NamedTuple):
    """Where containerd's files are: paths of the node, and in `mounts` which of its folders are where in the pod.

    `version` is such as 2.2.1, or empty where it is not said.
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


class Configuration(NamedTuple):
    """All of it; times in seconds, `dial_timeout` as it goes into hosts.toml, `metrics_port` 0 for none."""

    owner: str
    registry_directory: Path
    state_directory: Path
    dial_timeout: str
    interval: float
    timeout: float
    failure_threshold: int
    patience: float
    metrics_port: int
    containerd: Containerd
    configure: Configure | None
    caches: tuple[Cache, ...]


def from_arguments(arguments: list[str], about: str | None) -> Configuration:
    """What the file says that `--config` names; where it cannot be used, the program ends with exit code 2."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--config", type=Path, required=True)
    try:
        return read(parser.parse_args(arguments).config)
    except Invalid as problem:
        print(problem, file=sys.stderr)
        raise SystemExit(2) from problem


def read(path: Path) -> Configuration:
    """Read the file.

    Raises:
        Invalid: it cannot be read, or something in it is missing or cannot be used.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = f"{path}: {error}"
        raise Invalid(message) from error
    problems: list[str] = []

    def take(source: Any, where: str, key: str, kind: Callable[[Any], Any]) -> Any:  # noqa: ANN401 - as `kind` says
        value = source.get(key) if isinstance(source, dict) else None
        try:
            return kind(value)
        except ValueError as error:
            said = "is missing" if value is None else f"is {value!r}"
            problems.append(f"{path}: {where}{key}: {said}, {error}")
            return None

    probe = take(content, "", "probe", _object)
    containerd = take(content, "", "containerd", _object)
    configure = content.get("configure") if isinstance(content, dict) else None
    entries = take(content, "", "caches", _list) or []
    made = Configuration(
        owner=take(content, "", "owner", _owner),
        registry_directory=take(content, "", "registryDirectory", _path),
        state_directory=take(content, "", "stateDirectory", _path),
        dial_timeout=take(content, "", "dialTimeout", _duration),
        interval=take(probe, "probe.", "interval", _seconds),
        timeout=take(probe, "probe.", "timeout", _seconds),
        failure_threshold=take(probe, "probe.", "failureThreshold", _count),
        patience=take(probe, "probe.", "maxBackoff", _seconds_or_none),
        metrics_port=take(content, "", "metricsPort", _port_or_none),
        containerd=Containerd(
            configuration=take(containerd, "containerd.", "configuration", _text),
            registry_directory=take(containerd, "containerd.", "registryDirectory", _text),
            version=take(containerd, "containerd.", "version", _version),
            mounts=take(containerd, "containerd.", "mounts", _mounts),
        ),
        configure=None
        if configure is None
        else Configure(
            on_host=take(configure, "configure.", "onHost", _texts),
            containerd_binary=take(configure, "configure.", "containerdBinary", _text),
            restart_command=take(configure, "configure.", "restartCommand", _texts),
            ready_command=take(configure, "configure.", "readyCommand", _texts),
        ),
        caches=tuple(
            Cache(
                upstream=take(entry, f"caches[{index}].", "upstream", _upstream),
                server=take(entry, f"caches[{index}].", "server", _text),
                service=take(entry, f"caches[{index}].", "service", _text),
                port=take(entry, f"caches[{index}].", "port", _port),
            )
            for index, entry in enumerate(entries)
        ),
    )
    upstreams = [cache.upstream for cache in made.caches if cache.upstream is not None]
    problems += [
        f"{path}: caches: {name} is there twice" for name in sorted(set(upstreams)) if upstreams.count(name) > 1
    ]
    if problems:
        raise Invalid("\n".join(problems))
    return made


def _checked(value: Any, kind: type, good: Callable[[Any], object], wanted: str) -> Any:  # noqa: ANN401 - of the kind
    if not isinstance(value, kind) or isinstance(value, bool) or not good(value):
        message = f"not {wanted}"
        raise ValueError(message)
    return value


def _object(value: object) -> object:
    return _checked(value, dict, lambda _: True, "an object")


def _list(value: object) -> object:
    return _checked(value, list, lambda _: True, "a list")


def _text(value: object) -> str:
    text: str = _checked(value, str, bool, "a text")
    return text


def _version(value: object) -> object:
    return _checked(value, str, VERSION.fullmatch, "a version such as 2.2.1, or nothing")


def _texts(value: object) -> tuple[str, ...]:
    texts = _checked(value, list, lambda found: all(isinstance(text, str) for text in found), "a list of texts")
    return tuple(texts)


def _path(value: object) -> Path:
    return Path(_checked(value, str, lambda text: text.startswith("/"), "an absolute path"))


def _owner(value: object) -> object:
    return _checked(value, str, OWNER.fullmatch, "a namespace and a name such as kube-system/registry-cache")


def _upstream(value: object) -> object:
    return _checked(value, str, UPSTREAM.fullmatch, "a registry such as docker.io or registry.example.com:5000")


def _port(value: object) -> object:
    return _checked(value, int, lambda port: 1 <= port <= LARGEST_PORT, f"a port from 1 to {LARGEST_PORT}")


def _port_or_none(value: object) -> object:
    return _checked(value, int, lambda port: 0 <= port <= LARGEST_PORT, f"a port, or 0 for none, to {LARGEST_PORT}")


def _mounts(value: object) -> dict[str, Path]:
    mounts = _checked(value, dict, lambda _: True, "an object")
    return {node: _path(pod) for node, pod in mounts.items()}


def _count(value: object) -> object:
    return _checked(value, int, lambda count: count >= 1, "a number from 1")


def _duration(value: object) -> object:
    duration_seconds(_text(value))
    return value


def _seconds_or_none(value: object) -> object:
    return duration_seconds(_text(value))


def _seconds(value: object) -> object:
    seconds = duration_seconds(_text(value))
    return _checked(seconds, float, lambda length: length > 0, "a duration above 0 such as 5s or 500ms")
