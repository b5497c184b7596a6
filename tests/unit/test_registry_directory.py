"""The registry folder: whatever happens, in whatever order, it ends as the rules say. On a real file system."""

from __future__ import annotations

import os
import tempfile
import tomllib
from pathlib import Path
from unittest import mock

import hosts_toml
import pytest
import registry_directory
from hosts_toml import CannotMerge, Mirror
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from registry_directory import InUse, RegistryDirectory

MIRROR = Mirror(server="https://registry-1.docker.io", address="http://10.0.0.1:5000", dial_timeout="500ms")
OTHER_ADDRESS = Mirror(server="https://registry-1.docker.io", address="http://10.0.0.2:5000", dial_timeout="500ms")
FOREIGN = '# theirs\nserver = "https://registry-1.docker.io"\n\n[host."https://mirror"]\n  capabilities = ["pull"]\n'


@pytest.fixture
def directory(tmp_path: Path) -> RegistryDirectory:
    return RegistryDirectory(tmp_path, "space/name")


def tree(root: Path) -> dict[str, tuple[int, bytes, int]]:
    """Every folder and file: mode, content, and a file's time."""
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.stat()
        content, when = (path.read_bytes(), status.st_mtime_ns) if path.is_file() else (b"", 0)
        found[str(path.relative_to(root))] = (status.st_mode, content, when)
    return found


def hosts(path: Path) -> list[str]:
    return list(tomllib.loads(path.read_text())["host"])


def test_folder_comes_and_goes_with_its_file(directory: RegistryDirectory, tmp_path: Path) -> None:
    assert directory.activate("docker.io", MIRROR)
    assert not directory.activate("docker.io", MIRROR), "nothing to change the second time"
    assert {path.name for path in tmp_path.iterdir()} == {"docker.io"}
    assert (tmp_path / "docker.io" / "hosts.toml").stat().st_mode & 0o777 == 0o644
    assert directory.withdraw("docker.io")
    assert not directory.withdraw("docker.io")
    assert tree(tmp_path) == {}


def test_new_address_is_written(directory: RegistryDirectory, tmp_path: Path) -> None:
    directory.activate("docker.io", MIRROR)
    assert directory.activate("docker.io", OTHER_ADDRESS)
    assert hosts(tmp_path / "docker.io" / "hosts.toml") == ["http://10.0.0.2:5000"]


def test_foreign_file_follows_and_is_restored_to_the_byte(directory: RegistryDirectory, tmp_path: Path) -> None:
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


def test_empty_folder_and_certificates_stay(directory: RegistryDirectory, tmp_path: Path) -> None:
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


def test_default_hosts_follow_the_cache(directory: RegistryDirectory, tmp_path: Path) -> None:
    (tmp_path / "_default").mkdir()
    (tmp_path / "_default" / "hosts.toml").write_text('[host."https://everything"]\n')
    directory.activate("docker.io", MIRROR)
    assert hosts(tmp_path / "docker.io" / "hosts.toml") == ["http://10.0.0.1:5000", "https://everything"]
    (tmp_path / "_default" / "hosts.toml").write_text('[host."https://changed"]\n')
    assert directory.activate("docker.io", MIRROR)
    assert hosts(tmp_path / "docker.io" / "hosts.toml") == ["http://10.0.0.1:5000", "https://changed"]


def test_default_with_files_of_its_own_folder_is_not_taken(directory: RegistryDirectory, tmp_path: Path) -> None:
    (tmp_path / "_default").mkdir()
    (tmp_path / "_default" / "hosts.toml").write_text('[host."https://everything"]\n  ca = "ca.crt"\n')
    with pytest.raises(CannotMerge, match="relative paths"):
        directory.activate("docker.io", MIRROR)
    assert not (tmp_path / "docker.io").exists()


def test_port_gives_the_folder_that_containerd_looks_for_first(directory: RegistryDirectory, tmp_path: Path) -> None:
    directory.activate("a.b:5000", MIRROR)
    assert [path.name for path in tmp_path.iterdir()] == ["a.b_5000_"]
    (tmp_path / "c.d:5000").mkdir()
    (tmp_path / "c.d:5000" / "hosts.toml").write_text(FOREIGN)
    directory.activate("c.d:5000", MIRROR)
    assert hosts(tmp_path / "c.d:5000" / "hosts.toml") == ["http://10.0.0.1:5000", "https://mirror"]
    assert not (tmp_path / "c.d_5000_").exists(), "it would hide the foreign one"


def test_broken_foreign_file_is_left_alone(directory: RegistryDirectory, tmp_path: Path) -> None:
    (tmp_path / "docker.io").mkdir()
    (tmp_path / "docker.io" / "hosts.toml").write_text("server =")
    before = tree(tmp_path)
    with pytest.raises(CannotMerge):
        directory.activate("docker.io", MIRROR)
    directory.withdraw("docker.io")
    assert tree(tmp_path) == before


def test_two_releases_do_not_disturb_each_other(directory: RegistryDirectory, tmp_path: Path) -> None:
    other = RegistryDirectory(tmp_path, "other/name")
    other.activate("docker.io", OTHER_ADDRESS)
    before = tree(tmp_path)
    with pytest.raises(InUse, match="other/name"):
        directory.activate("docker.io", MIRROR)
    assert not directory.withdraw("docker.io")
    assert directory.tidy([]) == []
    assert tree(tmp_path) == before


def test_start_removes_what_an_earlier_run_left(directory: RegistryDirectory, tmp_path: Path) -> None:
    directory.activate("gone.io", MIRROR)
    directory.activate("kept.io", MIRROR)
    (tmp_path / directory._temporary).mkdir()
    (tmp_path / directory._temporary / "hosts.toml").write_text("half")
    (tmp_path / "kept.io" / directory._temporary).write_text("half")
    assert directory.tidy(["kept.io"]) == ["gone.io"]
    assert set(tree(tmp_path)) == {"kept.io", "kept.io/hosts.toml"}


class Killed(Exception):
    """The program ended at once, in the middle."""


CHANGES = ("rename", "hardlink_to", "unlink", "mkdir", "chmod")


class AnySequence(RuleBasedStateMachine):
    """Cache up and down, foreign file comes, changes and goes, program killed at any change of the disk, restarted."""

    @initialize(folder_exists=st.booleans())
    def start(self, folder_exists: bool) -> None:  # noqa: FBT001 - drawn
        self.temporary = tempfile.TemporaryDirectory()
        self.root = Path(self.temporary.name)
        self.hosts = self.root / "docker.io" / "hosts.toml"
        self.folder_exists = folder_exists
        self.foreign: str | None = None
        self.active = False
        if folder_exists:
            self.hosts.parent.mkdir()
        self.restart()

    def teardown(self) -> None:
        if hasattr(self, "root"):
            self.restart()
            self.directory.withdraw("docker.io")
            expected = {"docker.io/hosts.toml"} if self.foreign is not None else set()
            found = {str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()}
            assert found == expected, "uninstalled: as it was found"
            if self.foreign is not None:
                assert self.hosts.read_text() == self.foreign
            assert self.hosts.parent.exists() == (self.folder_exists or self.foreign is not None)
            self.temporary.cleanup()

    @rule()
    def restart(self) -> None:
        self.directory = RegistryDirectory(self.root, "space/name")
        self.directory.tidy(["docker.io"])

    @rule(mirror=st.sampled_from([MIRROR, OTHER_ADDRESS]))
    def cache_up(self, mirror: Mirror) -> None:
        self.directory.activate("docker.io", mirror)
        self.active = True
        assert hosts(self.hosts) == [mirror.address, *(["https://mirror"] if self.foreign is not None else [])]

    @rule()
    def cache_down(self) -> None:
        self.directory.withdraw("docker.io")
        self.active = False
        assert self.hosts.exists() == (self.foreign is not None)

    @rule(note=st.sampled_from(["one", "two"]))
    def somebody_writes_the_file(self, note: str) -> None:
        self.foreign = f"# {note}\n{FOREIGN}"
        self.folder_exists = True
        self.hosts.parent.mkdir(exist_ok=True)
        self.hosts.unlink(missing_ok=True)
        self.hosts.write_text(self.foreign)
        self.active = False

    @precondition(lambda self: self.hosts.exists() and self.foreign is not None)
    @rule()
    def somebody_removes_the_file(self) -> None:
        self.foreign = None
        self.hosts.unlink()
        self.active = False

    @rule(change=st.sampled_from(CHANGES), after=st.integers(0, 2), up=st.booleans())
    def killed_in_the_middle(self, change: str, after: int, up: bool) -> None:  # noqa: FBT001 - drawn
        real = getattr(Path, change)
        calls = iter(range(100))

        def die(*arguments: object, **keywords: object) -> object:
            if next(calls) == after:
                raise Killed
            return real(*arguments, **keywords)

        with mock.patch.object(Path, change, die):
            try:
                if up:
                    self.directory.activate("docker.io", MIRROR)
                else:
                    self.directory.withdraw("docker.io")
            except Killed:
                pass
        self.restart()

    @invariant()
    def containerd_can_read_it(self) -> None:
        if hasattr(self, "root") and self.hosts.exists():
            text = self.hosts.read_text()
            tomllib.loads(text)
            assert hosts_toml.owner_of(text) or text == self.foreign

    @invariant()
    def no_folder_is_made_empty(self) -> None:
        if hasattr(self, "root") and not self.folder_exists and self.hosts.parent.exists():
            assert any(self.hosts.parent.iterdir())


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(max_examples=150, stateful_step_count=12, deadline=None)


def test_file_of_another_user_is_copied(directory: RegistryDirectory, tmp_path: Path) -> None:
    """Without the capability a link to another's file is refused (fs.protected_hardlinks)."""
    (tmp_path / "docker.io").mkdir()
    (tmp_path / "docker.io" / "hosts.toml").write_text(FOREIGN)
    before = tree(tmp_path)
    with mock.patch.object(Path, "hardlink_to", side_effect=PermissionError(1, "not permitted")):
        directory.activate("docker.io", MIRROR)
    assert (tmp_path / "docker.io" / registry_directory.ORIGINAL).read_text() == FOREIGN
    directory.withdraw("docker.io")
    assert tree(tmp_path) == before
