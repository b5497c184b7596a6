"""The gate's configuration: it is refused as a whole, with each problem, its place and what to write."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from common.config_reader import InvalidConfiguration
from gate import configuration
from gate.configuration import Limits
from machine.paths import PROGRAMS

CACHE: dict[str, Any] = {
    "upstream": "docker.io",
    "remoteURL": "https://registry-1.docker.io",
    "tagCheckInterval": "10s",
    "fetchAhead": "Adaptive",
    "allowedRepositories": ["library/nginx", "team/*"],
    "access": "Puller",
    "accessCheckInterval": "5m",
    "accessGracePeriod": "1h",
    "tokenServers": ["auth.example.com"],
    "allowedNetworks": ["10.0.0.0/8", "fd00::/8"],
    "httpProxy": "",
    "httpsProxy": "http://proxy:3128",
    "noProxy": [".svc"],
    "credentials": "/etc/registry-cache/credentials",
    "credentialsSource": "the Secret login",
    "proxyCredentials": "",
    "caFile": "",
    "caSource": "",
    "replicas": [{"scheme": "http", "host": f"x-{ordinal}.x--peers", "port": 5000} for ordinal in (0, 1)],
}
LIMITS: dict[str, Any] = {"capacity": 10 << 30, "highWaterMarkPercent": 85, "ttl": "168h", "version": "0.1.0"}


def test_files_of_the_chart_are_read(tmp_path: Path) -> None:
    (tmp_path / "cache.json").write_text(json.dumps(CACHE))
    (tmp_path / "room.json").write_text(json.dumps(LIMITS))
    read = configuration.read_configuration(tmp_path)
    assert (read.upstream, read.tag_check_interval_seconds) == ("docker.io", 10.0)
    assert [replica.url for replica in read.replicas] == ["http://x-0.x--peers:5000", "http://x-1.x--peers:5000"]
    assert read.settings.remote_url == "https://registry-1.docker.io"
    assert (read.settings.credentials, read.settings.ca_file) == (Path("/etc/registry-cache/credentials"), None)
    assert (read.settings.https_proxy, read.settings.no_proxy) == ("http://proxy:3128", (".svc",))
    assert read.settings.token_servers == ("auth.example.com",)
    assert list(map(str, read.settings.allowed_networks)) == ["10.0.0.0/8", "fd00::/8"]
    assert configuration.read_limits(tmp_path) == Limits(10 << 30, 0.85, 604800.0, "0.1.0")


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("upstream", "", "must be a string that is not empty, but is ''"),
        ("tagCheckInterval", "soon", "must be a duration such as 5s or 500ms, but is 'soon'"),
        ("fetchAhead", "Sometimes", "must be one of Never, Adaptive, Always, but is 'Sometimes'"),
        ("httpProxy", None, "must be a string, but is missing"),
        ("noProxy", ".svc", "must be a list of strings, but is '.svc'"),
        ("allowedNetworks", ["10.0.0.0/33"], "must be a list of networks such as 10.0.0.0/8, but is ['10.0.0.0/33']"),
        ("caFile", "ca.crt", "must be an absolute path, but is 'ca.crt'"),
        ("credentials", None, "must be an absolute path, but is missing"),
        ("replicas", None, "must be a list, but is missing"),
    ],
)
def test_problem_of_the_cache_is_reported(tmp_path: Path, field: str, value: object, problem: str) -> None:
    (tmp_path / "cache.json").write_text(json.dumps({**CACHE, field: value}))
    with pytest.raises(InvalidConfiguration) as refused:
        configuration.read_configuration(tmp_path)
    assert str(refused.value) == f"{tmp_path}/cache.json: {field}: {problem}"


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("capacity", -1, "must be a number of bytes, but is -1"),
        ("capacity", "10Gi", "must be a number of bytes, but is '10Gi'"),
        ("highWaterMarkPercent", 101, "must be a whole number of percent from 1 to 100, but is 101"),
        ("ttl", "-1s", "must be a duration such as 5s or 500ms, but is '-1s'"),
        ("version", None, "must be a string that is not empty, but is missing"),
    ],
)
def test_problem_of_the_limits_is_reported(tmp_path: Path, field: str, value: object, problem: str) -> None:
    (tmp_path / "room.json").write_text(json.dumps({**LIMITS, field: value}))
    with pytest.raises(InvalidConfiguration) as refused:
        configuration.read_limits(tmp_path)
    assert str(refused.value) == f"{tmp_path}/room.json: {field}: {problem}"


def test_every_problem_is_reported(tmp_path: Path) -> None:
    (tmp_path / "cache.json").write_text("{}")
    with pytest.raises(InvalidConfiguration) as refused:
        configuration.read_configuration(tmp_path)
    assert {line.split(": ")[1] for line in str(refused.value).splitlines()} == set(CACHE)


def test_gate_ends_with_the_problems_as_its_message(tmp_path: Path) -> None:
    (tmp_path / "cache.json").write_text(json.dumps({**CACHE, "upstream": 3}))
    command = [sys.executable, "-B", "-m", "gate", "--config", str(tmp_path)]
    ended = subprocess.run(command, env={"PYTHONPATH": str(PROGRAMS)}, capture_output=True, text=True, check=False)
    problem = "upstream: must be a string that is not empty, but is 3"
    assert (ended.returncode, ended.stderr) == (2, f"{tmp_path}/cache.json: {problem}\n")
