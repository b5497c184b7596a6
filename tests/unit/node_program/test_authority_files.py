"""The files with authorities: there before a hosts.toml that names them, and gone after the last one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from common.endpoint import Endpoint
from node_program import authority_files
from node_program.cache_probe import ProbeFailed
from node_program.hosts_toml import Mirror
from node_program.registry_directory import RegistryDirectory
from node_program.trust import OVERLAP_SECONDS, Authorities

if TYPE_CHECKING:
    from pathlib import Path

ENDPOINT = Endpoint("https", "10.96.0.20", 5000)


@pytest.fixture(autouse=True)
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authority_files, "GRACE_SECONDS", 0.0)


def mirror(authorities: str) -> Mirror:
    return Mirror("https://registry-1.docker.io", ENDPOINT, "500ms", authorities)


def files(root: Path) -> list[str]:
    return sorted(path.read_text() for path in root.glob(".registry-cache-*.crt"))


def test_file_is_named_by_the_hosts_toml_and_goes_with_it(tmp_path: Path) -> None:
    directory = RegistryDirectory(tmp_path, "space/x")
    assert directory.activate("docker.io", mirror("one\n"))
    (file,) = tmp_path.glob(".registry-cache-*.crt")
    hosts = tmp_path / "docker.io" / "hosts.toml"
    assert f'  ca = "../{file.name}"\n' in hosts.read_text()
    assert (hosts.parent / f"../{file.name}").read_text() == "one\n"
    assert not directory.activate("docker.io", mirror("one\n"))
    directory.withdraw("docker.io")
    directory.close()
    assert list(tmp_path.iterdir()) == []


def test_new_authorities_replace_the_file_after_the_hosts_toml(tmp_path: Path) -> None:
    directory = RegistryDirectory(tmp_path, "space/x")
    directory.activate("docker.io", mirror("one\n"))
    assert directory.activate("docker.io", mirror("two\none\n"))
    assert files(tmp_path) == ["two\none\n"]


def test_file_that_another_cache_or_release_names_stays(tmp_path: Path) -> None:
    directory, other = RegistryDirectory(tmp_path, "space/x"), RegistryDirectory(tmp_path, "space/y")
    directory.activate("docker.io", mirror("one\n"))
    other.activate("quay.io", mirror("one\n"))
    directory.activate("docker.io", mirror("two\n"))
    assert files(tmp_path) == ["one\n", "two\n"]
    directory.withdraw("docker.io")
    directory.close()
    assert files(tmp_path) == ["one\n"]


def test_file_of_a_program_that_was_killed_is_tidied(tmp_path: Path) -> None:
    (tmp_path / ".registry-cache-0123456789abcdef.crt").write_text("one\n")
    (tmp_path / ".registry-cache-0123456789abcdef.crt.new").write_text("on")
    RegistryDirectory(tmp_path, "space/x").tidy(["docker.io"])
    assert files(tmp_path) == []
    assert not list(tmp_path.glob("*.new"))


def test_file_that_somebody_changed_is_written_again(tmp_path: Path) -> None:
    path = authority_files.install(tmp_path, "one\n")
    (tmp_path / path.removeprefix("../")).write_text("another\n")
    assert authority_files.install(tmp_path, "one\n") == path
    assert files(tmp_path) == ["one\n"]


def test_authority_that_was_replaced_is_trusted_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    file = tmp_path / "x-tls.crt"
    authorities = Authorities(file)
    file.write_text("one\n")
    assert authorities.read() == "one\n"
    file.write_text("two\n")
    assert authorities.read() == authorities.read() == "two\none\n"
    now += OVERLAP_SECONDS
    assert authorities.read() == "two\n"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "the Secret x-tls does not exist or has no key ca.crt"),
        (b"\xff", "ca.crt of the Secret x-tls cannot be read"),
    ],
)
def test_missing_authority_is_reported_with_its_secret(tmp_path: Path, content: bytes | None, problem: str) -> None:
    file = tmp_path / "x-tls.crt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ProbeFailed, match=problem) as failed:
        Authorities(file).read()
    assert failed.value.kind == "certificate"
