"""The files with certificates: there before a hosts.toml that names them, and gone after the last one."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest
from common.endpoint import Endpoint
from node_program import certificate_files
from node_program.cache_probe import ProbeFailed
from node_program.certificate_files import AUTHORITIES, WITH_KEY
from node_program.hosts_toml import Mirror
from node_program.registry_directory import RegistryDirectory
from node_program.trust import OVERLAP_SECONDS, Trust

ENDPOINT = Endpoint("https", "10.96.0.20", 5000)


@pytest.fixture(autouse=True)
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate_files, "GRACE_SECONDS", 0.0)


def mirror(authorities: str, client_certificate: str = "") -> Mirror:
    return Mirror("https://registry-1.docker.io", ENDPOINT, "500ms", authorities, client_certificate)


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


def test_certificate_of_the_nodes_is_private_from_the_start_and_goes_with_the_hosts_toml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: modes.append(os.fstat(descriptor).st_mode & 0o777))
    directory = RegistryDirectory(tmp_path, "space/x")
    directory.activate("docker.io", mirror("one\n", "certificate and key\n"))
    (file,) = tmp_path.glob(".registry-cache-*.pem")
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("certificate and key\n", 0o600)
    # The file, its folder, the authorities, their folder, and then the hosts.toml and its folders.
    assert modes.count(0o600) == 1
    assert f'  client = "../{file.name}"\n' in (tmp_path / "docker.io" / "hosts.toml").read_text()
    directory.activate("docker.io", mirror("one\n", "another\n"))
    assert [one.read_text() for one in tmp_path.glob(".registry-cache-*.pem")] == ["another\n"]
    directory.withdraw("docker.io")
    directory.close()
    assert list(tmp_path.iterdir()) == []


def test_file_with_a_key_that_others_may_read_is_written_again(tmp_path: Path) -> None:
    name = certificate_files.install(tmp_path, WITH_KEY, "key\n").removeprefix("../")
    (tmp_path / name).chmod(0o644)
    certificate_files.install(tmp_path, WITH_KEY, "key\n")
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


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


def test_no_file_goes_while_a_hosts_toml_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pulls of the upstream would fail: containerd may read what this program cannot."""
    other, directory = RegistryDirectory(tmp_path, "space/y"), RegistryDirectory(tmp_path, "space/x")
    other.activate("quay.io", mirror("one\n"))
    directory.activate("docker.io", mirror("two\n"))
    read_bytes = Path.read_bytes

    def fail(path: Path) -> bytes:
        if path.parent.name == "quay.io":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return read_bytes(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail)
        directory.activate("docker.io", mirror("three\n"))
        assert files(tmp_path) == ["one\n", "three\n", "two\n"]
    directory.activate("docker.io", mirror("four\n"))
    assert files(tmp_path) == ["four\n", "one\n"]


def test_file_of_a_program_that_was_killed_is_tidied(tmp_path: Path) -> None:
    (tmp_path / ".registry-cache-0123456789abcdef.crt").write_text("one\n")
    (tmp_path / ".registry-cache-0123456789abcdef.crt.new").write_text("on")
    RegistryDirectory(tmp_path, "space/x").tidy(["docker.io"])
    assert files(tmp_path) == []
    assert not list(tmp_path.glob("*.new"))


def test_file_that_somebody_changed_is_written_again(tmp_path: Path) -> None:
    path = certificate_files.install(tmp_path, AUTHORITIES, "one\n")
    (tmp_path / path.removeprefix("../")).write_text("another\n")
    assert certificate_files.install(tmp_path, AUTHORITIES, "one\n") == path
    assert files(tmp_path) == ["one\n"]


def test_authority_that_was_replaced_is_trusted_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    file = tmp_path / "x-tls.crt"
    trust = Trust(file)
    file.write_text("one\n")
    assert trust.read_authorities() == "one\n"
    file.write_text("two\n")
    assert trust.read_authorities() == trust.read_authorities() == "two\none\n"
    now += OVERLAP_SECONDS
    assert trust.read_authorities() == "two\n"


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
        Trust(file).read_authorities()
    assert failed.value.kind == "certificate"


def test_certificate_of_the_nodes_that_was_replaced_is_kept_for_a_while(tmp_path: Path) -> None:
    folder = tmp_path / "x-client"
    for number in (1, 2):
        version = folder / f"..{number}"
        version.mkdir(parents=True)
        (version / "tls.crt").write_text(f"certificate {number}\n")
        (version / "tls.key").write_text(f"key {number}")
        (folder / "..data").unlink(missing_ok=True)
        (folder / "..data").symlink_to(version.name)
        if number == 1:
            trust = Trust(tmp_path / "x-tls.crt", folder)
            assert trust.read_client_certificates() == ["certificate 1\nkey 1\n"]
    assert trust.read_client_certificates() == ["certificate 2\nkey 2\n", "certificate 1\nkey 1\n"]


def test_missing_certificate_of_the_nodes_is_reported_with_its_secret(tmp_path: Path) -> None:
    with pytest.raises(ProbeFailed, match=r"the Secret x-client does not exist or has no key tls\.crt"):
        Trust(tmp_path / "x-tls.crt", tmp_path / "x-client").read_client_certificates()
