"""The registry directory, case by case, on a real file system."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from unittest import mock

import pytest
from common.endpoint import Endpoint
from node_program import registry_directory
from node_program.hosts_toml import CannotMerge, Mirror
from node_program.registry_directory import OwnedByOtherRelease, RegistryDirectory

MIRROR = Mirror(
    server="https://registry-1.docker.io", endpoint=Endpoint("http", "10.0.0.1", 5000), dial_timeout="500ms"
)
OTHER_ADDRESS = Mirror(
    server="https://registry-1.docker.io", endpoint=Endpoint("http", "10.0.0.2", 5000), dial_timeout="500ms"
)
FOREIGN = '# theirs\nserver = "https://registry-1.docker.io"\n\n[host."https://mirror"]\n  capabilities = ["pull"]\n'


@pytest.fixture
def directory(tmp_path: Path) -> RegistryDirectory:
    return RegistryDirectory(tmp_path, "space/name")


def tree(root: Path) -> dict[str, tuple[int, bytes, int]]:
    """Every folder and file except the locks of running programs: its mode, and the content and time of files."""
    found = {}
    for path in sorted(set(root.rglob("*")) - set(root.glob(".registry-cache-*.lock"))):
        status = path.stat()
        content, when = (path.read_bytes(), status.st_mtime_ns) if path.is_file() else (b"", 0)
        found[str(path.relative_to(root))] = (status.st_mode, content, when)
    return found


def hosts(path: Path) -> list[str]:
    return list(tomllib.loads(path.read_text())["host"])


def test_folder_is_created_and_removed_with_its_file(directory: RegistryDirectory, tmp_path: Path) -> None:
    assert directory.activate("docker.io", MIRROR)
    assert not directory.activate("docker.io", MIRROR), "nothing to change the second time"
    assert set(tree(tmp_path)) == {"docker.io", "docker.io/hosts.toml"}
    assert (tmp_path / "docker.io" / "hosts.toml").stat().st_mode & 0o777 == 0o644
    assert directory.withdraw("docker.io")
    assert not directory.withdraw("docker.io")
    assert tree(tmp_path) == {}


def test_new_address_is_written(directory: RegistryDirectory, tmp_path: Path) -> None:
    directory.activate("docker.io", MIRROR)
    assert directory.activate("docker.io", OTHER_ADDRESS)
    assert hosts(tmp_path / "docker.io" / "hosts.toml") == ["http://10.0.0.2:5000"]


def test_foreign_mirrors_follow_the_cache_and_the_file_is_restored_to_the_byte(
    directory: RegistryDirectory, tmp_path: Path
) -> None:
    folder = tmp_path / "docker.io"
    folder.mkdir()
    (folder / "hosts.toml").write_text(FOREIGN)
    (folder / "hosts.toml").chmod(0o640)
    os.utime(folder / "hosts.toml", (1, 1))
    before = tree(tmp_path)
    directory.activate("docker.io", MIRROR)
    assert hosts(folder / "hosts.toml") == ["http://10.0.0.1:5000", "https://mirror"]
    directory.withdraw("docker.io")
    assert tree(tmp_path) == before


def test_empty_folder_and_certificates_are_kept(directory: RegistryDirectory, tmp_path: Path) -> None:
    (tmp_path / "empty.io").mkdir()
    (tmp_path / "docker.io").mkdir()
    (tmp_path / "docker.io" / "ca.crt").write_text("certificate")
    before = tree(tmp_path)
    directory.activate("docker.io", MIRROR)
    directory.activate("empty.io", MIRROR)
    assert tomllib.loads((tmp_path / "docker.io" / "hosts.toml").read_text())["ca"] == ["ca.crt"]
    directory.withdraw("docker.io")
    directory.withdraw("empty.io")
    assert tree(tmp_path) == before


def test_default_mirrors_follow_the_cache(directory: RegistryDirectory, tmp_path: Path) -> None:
    (tmp_path / "_default").mkdir()
    (tmp_path / "_default" / "hosts.toml").write_text('[host."https://everything"]\n')
    directory.activate("docker.io", MIRROR)
    assert hosts(tmp_path / "docker.io" / "hosts.toml") == ["http://10.0.0.1:5000", "https://everything"]
    (tmp_path / "_default" / "hosts.toml").write_text('[host."https://changed"]\n')
    assert directory.activate("docker.io", MIRROR)
    assert hosts(tmp_path / "docker.io" / "hosts.toml") == ["http://10.0.0.1:5000", "https://changed"]


def test_default_that_names_files_in_its_own_folder_is_refused(directory: RegistryDirectory, tmp_path: Path) -> None:
    (tmp_path / "_default").mkdir()
    (tmp_path / "_default" / "hosts.toml").write_text('[host."https://everything"]\n  ca = "ca.crt"\n')
    with pytest.raises(CannotMerge, match="relative paths"):
        directory.activate("docker.io", MIRROR)
    assert not (tmp_path / "docker.io").exists()


def test_upstream_with_a_port_gets_the_folder_that_containerd_tries_first(
    directory: RegistryDirectory, tmp_path: Path
) -> None:
    directory.activate("a.b:5000", MIRROR)
    assert set(tree(tmp_path)) == {"a.b_5000_", "a.b_5000_/hosts.toml"}
    (tmp_path / "c.d:5000").mkdir()
    (tmp_path / "c.d:5000" / "hosts.toml").write_text(FOREIGN)
    directory.activate("c.d:5000", MIRROR)
    assert hosts(tmp_path / "c.d:5000" / "hosts.toml") == ["http://10.0.0.1:5000", "https://mirror"]
    assert not (tmp_path / "c.d_5000_").exists(), "it would hide the foreign one"


def test_broken_foreign_file_is_left_unchanged(directory: RegistryDirectory, tmp_path: Path) -> None:
    (tmp_path / "docker.io").mkdir()
    (tmp_path / "docker.io" / "hosts.toml").write_text("server =")
    before = tree(tmp_path)
    with pytest.raises(CannotMerge):
        directory.activate("docker.io", MIRROR)
    directory.withdraw("docker.io")
    assert tree(tmp_path) == before


def test_two_releases_do_not_get_in_each_others_way(directory: RegistryDirectory, tmp_path: Path) -> None:
    other = RegistryDirectory(tmp_path, "other/name")
    other.activate("docker.io", OTHER_ADDRESS)
    before = tree(tmp_path)
    with pytest.raises(OwnedByOtherRelease, match="other/name"):
        directory.activate("docker.io", MIRROR)
    assert not directory.withdraw("docker.io")
    assert directory.tidy([]) == []
    assert tree(tmp_path) == before


def test_tidying_removes_what_an_earlier_run_left(directory: RegistryDirectory, tmp_path: Path) -> None:
    directory.activate("gone.io", MIRROR)
    directory.activate("kept.io", MIRROR)
    (tmp_path / directory._temporary).mkdir()
    (tmp_path / directory._temporary / "hosts.toml").write_text("half")
    (tmp_path / "kept.io" / directory._temporary).write_text("half")
    assert directory.tidy(["kept.io"]) == ["gone.io"]
    assert set(tree(tmp_path)) == {"kept.io", "kept.io/hosts.toml"}


def test_file_of_another_user_is_copied(directory: RegistryDirectory, tmp_path: Path) -> None:
    """Without the capability, a link to another user's file is refused (fs.protected_hardlinks)."""
    (tmp_path / "docker.io").mkdir()
    (tmp_path / "docker.io" / "hosts.toml").write_text(FOREIGN)
    before = tree(tmp_path)
    with mock.patch.object(Path, "hardlink_to", side_effect=PermissionError(1, "not permitted")):
        directory.activate("docker.io", MIRROR)
    assert (tmp_path / "docker.io" / registry_directory.ORIGINAL).read_text() == FOREIGN
    directory.withdraw("docker.io")
    assert tree(tmp_path) == before
