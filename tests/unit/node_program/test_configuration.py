"""The node program's configuration: it is refused as a whole, with each problem, its place and what to write."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest
from common.config_reader import InvalidConfiguration
from common.endpoint import Endpoint
from node_program import configuration as node_configuration
from node_program.configuration import Cache

if TYPE_CHECKING:
    from pathlib import Path

GOOD: dict[str, Any] = {
    "owner": "kube-system/registry-cache",
    "registryDirectory": "/host/registry",
    "stateDirectory": "/run/registry-cache",
    "dialTimeout": "500ms",
    "probe": {"interval": "1m0.5s", "timeout": "+2s", "failureThreshold": 2, "maxBackoff": "0s"},
    "metricsPort": 0,
    "containerd": {
        "configuration": "/etc/containerd/config.toml",
        "registryDirectory": "/etc/containerd/certs.d",
        "version": "2.2.1",
        "mounts": {"/etc/containerd": "/host/containerd"},
    },
    "caches": [
        {
            "upstream": "docker.io",
            "server": "https://registry-1.docker.io",
            "endpoint": {"scheme": "http", "host": "x.svc", "port": 5000},
        }
    ],
}


def read(folder: Path, content: object) -> node_configuration.Configuration:
    path = folder / "node.json"
    path.write_text(json.dumps(content))
    return node_configuration.read(path)


def test_valid_configuration_is_read(tmp_path: Path) -> None:
    configuration = read(tmp_path, GOOD)
    assert configuration.probe == (60.5, 2.0, 2, 0.0)
    assert configuration.dial_timeout == "500ms"
    assert configuration.caches == (
        Cache("docker.io", "https://registry-1.docker.io", Endpoint("http", "x.svc", 5000)),
    )


@pytest.mark.parametrize("text", ["0", "0s", "+1h", ".5s", "1.5m", "1h2m3s4ms5us6µs7ns"])
def test_go_durations_are_accepted(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, {**GOOD, "dialTimeout": text}).dial_timeout == text


@pytest.mark.parametrize(
    ("place", "value", "problem"),
    [
        ("owner", "no-namespace", "owner: must be a namespace and a name such as .*, but is 'no-namespace'"),
        ("owner", None, "owner: must be a namespace and a name such as kube-system/registry-cache, but is missing"),
        ("registryDirectory", "", "registryDirectory: must be an absolute path, but is ''"),
        ("dialTimeout", "soon", "dialTimeout: must be a duration such as 5s or 500ms, but is 'soon'"),
        ("dialTimeout", "-1s", "dialTimeout: must be a duration such as 5s or 500ms, but is '-1s'"),
        ("probe", [], "probe: must be an object, but is \\[\\]"),
        ("probe.interval", "0s", "probe.interval: must be a duration above 0 such as 5s or 500ms, but is '0s'"),
        ("probe.timeout", 2, "probe.timeout: must be a duration such as 5s or 500ms, but is 2"),
        ("probe.failureThreshold", 0, "probe.failureThreshold: must be a whole number from 1, but is 0"),
        ("probe.failureThreshold", True, "probe.failureThreshold: must be a whole number from 1, but is True"),
        ("probe.maxBackoff", "-1s", "probe.maxBackoff: must be a duration such as 5s or 500ms, but is '-1s'"),
        ("metricsPort", 65536, "metricsPort: must be a port up to 65535, or 0 for none, but is 65536"),
        ("containerd", "x", "containerd: must be an object, but is 'x'"),
        ("containerd.configuration", "", "containerd.configuration: must be a string that is not empty, but is ''"),
        ("containerd.version", "new", "containerd.version: must be a version such as 2.2.1, or empty, but is 'new'"),
        ("containerd.mounts", {"/x": "y"}, "containerd.mounts: must be an object of absolute paths, but is {'"),
        ("caches", {}, "caches: must be a list, but is {}"),
        ("caches", ["docker.io"], "caches\\[0\\].upstream: must be a registry such as .*, but is missing"),
        ("caches.0.upstream", "../etc", "caches\\[0\\].upstream: must be a registry such as .*, but is '../etc'"),
        ("caches.0.upstream", "_default", "caches\\[0\\].upstream: must be a registry such as .*, but is '_default'"),
        ("caches.0.server", "", "caches\\[0\\].server: must be a string that is not empty, but is ''"),
        ("caches.0.endpoint", None, "caches\\[0\\].endpoint: must be an object, but is missing"),
        ("caches.0.endpoint.port", 65536, "caches\\[0\\].endpoint.port: must be a port from 1 to 65535, but is 65536"),
        ("caches.0.endpoint.scheme", "ftp", "caches\\[0\\].endpoint.scheme: must be http or https, but is 'ftp'"),
        ("caches", GOOD["caches"] * 2, "caches: must have one entry for each upstream, but has more for docker.io"),
    ],
)
def test_problem_is_reported_with_its_place(tmp_path: Path, place: str, value: object, problem: str) -> None:
    content: Any = copy.deepcopy(GOOD)
    inner: Any = content
    *way, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    for part in way:
        inner = inner[part]
    inner[last] = value
    with pytest.raises(InvalidConfiguration, match=f"node.json: {problem}"):
        read(tmp_path, content)


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration) as refused:
        read(tmp_path, {})
    assert [line.split(": ")[1] for line in str(refused.value).splitlines()] == [
        *["owner", "registryDirectory", "stateDirectory", "dialTimeout"],
        *["probe", "probe.interval", "probe.timeout", "probe.failureThreshold", "probe.maxBackoff", "metricsPort"],
        *["containerd", "containerd.configuration", "containerd.registryDirectory", "containerd.version"],
        *["containerd.mounts", "caches"],
    ]


def test_missing_and_broken_files_are_reported(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match=r"node\.json: cannot be read: No such file"):
        node_configuration.read(tmp_path / "node.json")
    (tmp_path / "node.json").write_text("{")
    with pytest.raises(InvalidConfiguration, match=r"node\.json: is not JSON: Expecting"):
        node_configuration.read(tmp_path / "node.json")
