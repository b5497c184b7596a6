"""Programs get the same environment whatever the user of the machine has set."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from cluster import interface, kind
from machine import environment, gobuild, paths, tools
from machine.paths import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

UNWANTED = {
    "BASH_ENV": "/tmp/bashrc",
    "CGO_ENABLED": "1",
    "GOARCH": "arm64",
    "GOFLAGS": "-mod=vendor",
    "GOOS": "windows",
    "GOTOOLCHAIN": "go1.20",
    "HELM_DRIVER": "sql",
    "HELM_KUBECONTEXT": "somewhere",
    "HELM_NAMESPACE": "elsewhere",
    "KUBECONFIG": "/nowhere",
    "LD_LIBRARY_PATH": "/opt/lib",
    "LD_PRELOAD": "/opt/lib/x.so",
    "LC_CTYPE": "tr_TR.UTF-8",
    "NODE_OPTIONS": "--inspect",
    "PIP_REQUIRE_VIRTUALENV": "1",
    "PIP_TARGET": "/opt/packages",
    "PIP_USER": "1",
    "PYTHONHOME": "/nowhere",
    "PYTHONPATH": "/nowhere",
}
SOURCES = {
    "GOPROXY": "https://go.example.com",
    "HTTPS_PROXY": "http://proxy.example.com:3128",
    "NO_PROXY": "example.com",
    "PIP_INDEX_URL": "https://python.example.com",
    "npm_config_registry": "https://npm.example.com",
}


@pytest.fixture(autouse=True)
def settings_of_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**UNWANTED, **SOURCES}.items():
        monkeypatch.setenv(name, value)


def test_programs_get_nothing_that_the_user_has_set() -> None:
    given = environment.for_programs()
    assert not given.keys() & (UNWANTED.keys() | SOURCES.keys())
    assert given["LC_ALL"] == "C.UTF-8"
    assert given["HOME"] != os.environ["HOME"]


def test_programs_of_the_test_bed_come_before_those_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("containerd", "nginx", "registry", "runc"):
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin")
    folders = tools.program_environment()["PATH"].split(":")
    assert folders[0] == str(tools.debian_root() / "programs")
    assert folders.index(str(tools.go_binary("containerd", "containerd").parent)) < folders.index(str(tmp_path))


def test_system_folders_are_searched_though_the_users_path_lacks_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    assert {"/usr/sbin", "/sbin", "/bin"} <= set(environment.for_programs()["PATH"].split(":"))
    assert {"/usr/sbin", "/sbin", "/bin"} <= set(environment.for_downloads()["PATH"].split(":"))
    monkeypatch.delenv("PATH")
    assert environment.for_programs()["PATH"] == ":".join(environment.SYSTEM_FOLDERS)


def test_downloads_keep_the_sources_and_nothing_else() -> None:
    given = environment.for_downloads()
    assert {name: given[name] for name in SOURCES} == SOURCES
    assert not given.keys() & UNWANTED.keys()


def test_kind_gets_the_users_engine_and_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://engine.example.com")
    given = environment.for_container_engine()
    assert given["DOCKER_HOST"] == "tcp://engine.example.com"
    assert given["HOME"] == os.environ["HOME"]
    assert not given.keys() & (UNWANTED.keys() | SOURCES.keys())


def test_client_speaks_to_the_given_cluster_alone(tmp_path: Path) -> None:
    given = interface.client_environment(tmp_path / "admin.conf")
    assert given["KUBECONFIG"] == str(tmp_path / "admin.conf")
    assert "HELM_NAMESPACE" not in given
    assert "HELM_DRIVER" not in given


def test_go_builds_from_the_users_proxy_with_our_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the user has set them with `go env -w`, which writes a file."""
    for name in (*UNWANTED, *SOURCES):
        monkeypatch.delenv(name)
    (tmp_path / "env").write_text("GOFLAGS=-mod=vendor\nGOOS=windows\nGOPROXY=https://go.example.com\n")
    monkeypatch.setenv("GOENV", str(tmp_path / "env"))
    gobuild._environment.cache_clear()
    command = ["go", "env", "GOFLAGS", "GOOS", "GOPROXY"]
    done = subprocess.run(command, env=gobuild._environment(), capture_output=True, text=True, check=True)
    gobuild._environment.cache_clear()
    assert done.stdout.splitlines() == ["-buildvcs=false", "linux", "https://go.example.com"]


def test_go_uses_the_cache_folder_where_the_home_folder_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/proc/nobody")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("GOPATH", raising=False)
    monkeypatch.delenv("GOMODCACHE", raising=False)
    gobuild._environment.cache_clear()
    given = gobuild._environment()
    gobuild._environment.cache_clear()
    assert given["GOMODCACHE"] == str(tmp_path / "registry-cache" / "gomodcache")


@pytest.mark.parametrize("home", [None, ""])
def test_home_folder_that_is_not_set_is_the_users(home: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if home is None:
        monkeypatch.delenv("HOME")
    else:
        monkeypatch.setenv("HOME", home)
    assert paths.user_home().is_absolute()
    assert environment.for_downloads()["HOME"] == str(paths.user_home())
    assert paths.cache_folder() == paths.user_home() / ".cache" / "registry-cache"


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("echo 'Cannot connect to the Docker daemon' >&2; exit 1", id="client-without-engine"),
        pytest.param("echo", id="client-that-tells-only-its-own-version"),
        pytest.param("exec sleep 60", id="engine-that-does-not-answer"),
    ],
)
def test_docker_without_an_engine_means_no_kind_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    for name in ("docker", "kind"):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(kind, "ENGINE_SECONDS", 0.5)
    assert not kind.is_available()


def test_process_is_cleaned_for_what_it_writes_and_starts(tmp_path: Path) -> None:
    """A new process is needed, because the one that runs the tests is clean already."""
    script = (
        "import os, urllib.request\nfrom machine import environment\nenvironment.clean_process()\n"
        f"open({str(tmp_path / 'file')!r}, 'w').close()\n"
        "print(*sorted(os.environ))\n"
        "print([handler for handler in urllib.request._opener.handlers if hasattr(handler, 'https_open')][0])\n"
    )
    given = {**os.environ, "PYTHONPATH": str(REPOSITORY / "ci")}
    given.pop("PYTHONHOME")
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=given, umask=0o077, capture_output=True, text=True, check=True)
    names, handler = done.stdout.splitlines()
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644
    assert not set(names.split()) & {name for name in UNWANTED if not name.startswith("PYTHON")}
    assert set(names.split()) >= SOURCES.keys()
    assert "ProxyHandler" not in handler


def test_venv_is_set_up_with_nothing_that_the_user_has_set() -> None:
    """Make passes the environment of the user to its recipes."""
    probe = "include Makefile\nprint:\n\t@env\n"
    done = subprocess.run(
        ["make", "--silent", "-f", "-", "print"],
        input=probe,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    given = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    assert given["PIP_INDEX_URL"] == SOURCES["PIP_INDEX_URL"]
    assert (given["PIP_USER"], given["PIP_REQUIRE_VIRTUALENV"]) == ("0", "0")
    assert not given.keys() & {"PIP_TARGET", "PYTHONHOME", "PYTHONPATH"}
