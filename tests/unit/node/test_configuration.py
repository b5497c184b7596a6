"""The node program's configuration: refused whole, every problem with its place and what to write."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest
from node_program import configuration
from node_program.configuration import Cache, Invalid

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
    "caches": [{"upstream": "docker.io", "server": "https://registry-1.docker.io", "service": "x.svc", "port": 5000}],
}


def read(folder: Path, content: object) -> configuration.Configuration:
    path = folder / "node.json"
    path.write_text(json.dumps(content))
    return configuration.read(path)


def test_good_one_is_read(tmp_path: Path) -> None:
    made = read(tmp_path, GOOD)
    assert (made.interval, made.timeout, made.failure_threshold, made.dial_timeout) == (60.5, 2.0, 2, "500ms")
    assert made.caches == (Cache("docker.io", "https://registry-1.docker.io", "x.svc", 5000),)


@pytest.mark.parametrize("text", ["0", "0s", "+1h", ".5s", "1.5m", "1h2m3s4ms5us6µs7ns"])
def test_durations_of_go_are_taken(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, {**GOOD, "dialTimeout": text}).dial_timeout == text


@pytest.mark.parametrize(
    ("place", "value", "problem"),
    [
        ("owner", "no-namespace", "owner: is 'no-namespace', not a namespace and a name"),
        ("owner", None, "owner: is missing, not a namespace and a name"),
        ("registryDirectory", "", "registryDirectory: is '', not an absolute path"),
        ("dialTimeout", "soon", "dialTimeout: is 'soon', not a duration such as 5s or 500ms"),
        ("dialTimeout", "-1s", "dialTimeout: is '-1s', not a duration"),
        ("probe", [], "probe: is \\[\\], not an object"),
        ("probe.interval", "0s", "probe.interval: is '0s', not a duration above 0"),
        ("probe.timeout", 2, "probe.timeout: is 2, not a text"),
        ("probe.failureThreshold", 0, "probe.failureThreshold: is 0, not a number from 1"),
        ("probe.failureThreshold", True, "probe.failureThreshold: is True, not a number from 1"),
        ("probe.maxBackoff", "-1s", "probe.maxBackoff: is '-1s', not a duration"),
        ("metricsPort", 65536, "metricsPort: is 65536, not a port, or 0 for none"),
        ("containerd", "x", "containerd: is 'x', not an object"),
        ("containerd.configuration", "", "containerd.configuration: is '', not a text"),
        ("containerd.version", "new", "containerd.version: is 'new', not a version such as 2.2.1, or nothing"),
        ("containerd.mounts", {"/x": "y"}, "containerd.mounts: is {'/x': 'y'}, not an absolute path"),
        ("caches", {}, "caches: is {}, not a list"),
        ("caches", ["docker.io"], "caches\\[0\\].upstream: is missing, not a registry"),
        ("caches.0.upstream", "../etc", "caches\\[0\\].upstream: is '../etc', not a registry"),
        ("caches.0.upstream", "_default", "caches\\[0\\].upstream: is '_default', not a registry"),
        ("caches.0.server", "", "caches\\[0\\].server: is '', not a text"),
        ("caches.0.port", 65536, "caches\\[0\\].port: is 65536, not a port from 1 to 65535"),
        ("caches", GOOD["caches"] * 2, "caches: docker.io is there twice"),
    ],
)
def test_problem_is_told_with_its_place(tmp_path: Path, place: str, value: object, problem: str) -> None:
    content: Any = copy.deepcopy(GOOD)
    inner: Any = content
    *way, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    for part in way:
        inner = inner[part]
    inner[last] = value
    with pytest.raises(Invalid, match=f"node.json: {problem}"):
        read(tmp_path, content)


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(Invalid) as refused:
        read(tmp_path, {})
    assert [line.split(": ")[1] for line in str(refused.value).splitlines()] == [
        *["probe", "containerd", "caches", "owner", "registryDirectory", "stateDirectory", "dialTimeout"],
        *["probe.interval", "probe.timeout", "probe.failureThreshold", "probe.maxBackoff", "metricsPort"],
        *["containerd.configuration", "containerd.registryDirectory", "containerd.version", "containerd.mounts"],
    ]


def test_missing_and_broken_file_are_told(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="No such file"):
        configuration.read(tmp_path / "node.json")
    (tmp_path / "node.json").write_text("{")
    with pytest.raises(Invalid, match=r"node\.json: Expecting"):
        configuration.read(tmp_path / "node.json")
