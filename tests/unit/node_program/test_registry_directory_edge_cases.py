"""The registry directory when several programs change it at once, and when somebody arranged it unusually."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import tomllib
from typing import TYPE_CHECKING

import pytest
from common.endpoint import Endpoint
from machine.paths import CHART, PROGRAMS
from node_program.hosts_toml import CannotMerge, Mirror
from node_program.registry_directory import ORIGINAL, OwnedByOtherRelease, RegistryDirectory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MIRROR = Mirror("https://upstream", Endpoint("http", "10.0.0.1", 5000), "500ms")
FOREIGN = '# theirs\n[host."https://theirs"]\n  capabilities = ["pull"]\n'


def entries(root: Path) -> list[str]:
    """Everything in the registry directory except the locks of running programs."""
    return sorted({path.name for path in root.iterdir()} - {path.name for path in root.glob(".registry-cache-*.lock")})


def hosts(path: Path) -> list[str]:
    return list(tomllib.loads(path.read_text())["host"])


def at_once(*actions: Callable[[], object]) -> None:
    """Run all actions at the same time, and fail with what any of them raised."""
    barrier = threading.Barrier(len(actions))
    raised: list[BaseException] = []

    def run(action: Callable[[], object]) -> None:
        barrier.wait()
        try:
            action()
        except OwnedByOtherRelease:
            return
        except BaseException as error:  # noqa: BLE001 - shown below
            raised.append(error)

    threads = [threading.Thread(target=run, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert raised == []


def test_ten_caches_that_come_and_go_at_once_each_get_their_own_file(tmp_path: Path) -> None:
    directory = RegistryDirectory(tmp_path, "space/name")
    mirrors = {
        f"r{i}.io": Mirror(f"https://r{i}.io", Endpoint("http", f"10.0.0.{i}", 5000), "1s") for i in range(1, 11)
    }
    for _ in range(10):
        at_once(*[lambda u=u, m=m: directory.activate(u, m) for u, m in mirrors.items()])
        for upstream, mirror in mirrors.items():
            found = tomllib.loads((tmp_path / upstream / "hosts.toml").read_text())
            assert (found["server"], list(found["host"])) == (mirror.server, [mirror.endpoint.url])
        at_once(*[lambda u=u: directory.withdraw(u) for u in mirrors])
        assert entries(tmp_path) == []


def test_two_releases_that_start_at_once_do_not_lose_a_foreign_file(tmp_path: Path) -> None:
    path = tmp_path / "docker.io" / "hosts.toml"
    path.parent.mkdir()
    for _ in range(30):
        path.write_text(FOREIGN)
        releases = [RegistryDirectory(tmp_path, f"space{number}/name") for number in range(4)]
        at_once(*[lambda r=r: r.activate("docker.io", MIRROR) for r in releases])
        assert hosts(path) == [MIRROR.endpoint.url, "https://theirs"]
        at_once(*[lambda r=r: r.withdraw("docker.io") for r in releases])
        assert path.read_text() == FOREIGN
        assert list(path.parent.iterdir()) == [path]


def test_file_that_is_a_link_is_kept_as_one(tmp_path: Path) -> None:
    (tmp_path / "shared.toml").write_text(FOREIGN)
    path = tmp_path / "docker.io" / "hosts.toml"
    path.parent.mkdir()
    path.symlink_to("../shared.toml")
    directory = RegistryDirectory(tmp_path, "space/name")
    directory.activate("docker.io", MIRROR)
    assert hosts(path) == [MIRROR.endpoint.url, "https://theirs"]
    directory.withdraw("docker.io")
    assert path.readlink().as_posix() == "../shared.toml"


@pytest.mark.parametrize("name", ["docker.io", "_default"])
def test_link_that_only_the_node_can_follow_is_left_unchanged(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "hosts.toml"
    path.parent.mkdir()
    path.symlink_to("/nowhere/hosts.toml")
    directory = RegistryDirectory(tmp_path, "space/name")
    with pytest.raises(CannotMerge, match=rf"^{name}/hosts.toml is left unchanged: it is a link to a file outside"):
        directory.activate("docker.io", MIRROR)
    directory.withdraw("docker.io")
    directory.tidy([])
    assert path.is_symlink()
    assert not (tmp_path / "docker.io").exists() or name == "docker.io"


def test_folder_that_is_a_broken_link_is_left_unchanged(tmp_path: Path) -> None:
    (tmp_path / "a.b:5000").symlink_to("/nowhere")
    directory = RegistryDirectory(tmp_path, "space/name")
    with pytest.raises(OSError, match="Not a directory"):
        directory.activate("a.b:5000", MIRROR)
    directory.withdraw("a.b:5000")
    assert entries(tmp_path) == ["a.b:5000"]


@pytest.mark.parametrize("text", ["host = 5\n", 'host = "x"\n', "[[host]]\na = 1\n", "[host]\nx = 5\n", "# \xff\n"])
@pytest.mark.parametrize("name", ["docker.io", "_default"])
def test_file_that_containerd_ignores_is_left_unchanged(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name / "hosts.toml"
    path.parent.mkdir()
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(CannotMerge, match=f"^{name}/hosts.toml is left unchanged: "):
        RegistryDirectory(tmp_path, "space/name").activate("docker.io", MIRROR)
    assert path.read_bytes() == text.encode("latin-1")


def test_certificates_of_the_default_still_apply(tmp_path: Path) -> None:
    (tmp_path / "_default").mkdir()
    (tmp_path / "_default" / "ca.crt").write_text("certificate")
    RegistryDirectory(tmp_path, "space/name").activate("docker.io", MIRROR)
    assert tomllib.loads((tmp_path / "docker.io" / "hosts.toml").read_text())["ca"] == ["../_default/ca.crt"]


def test_cache_moves_to_a_foreign_file_under_the_other_name(tmp_path: Path) -> None:
    """Ours would hide it: containerd looks for `a.b_5000_` first."""
    directory = RegistryDirectory(tmp_path, "space/name")
    directory.activate("a.b:5000", MIRROR)
    theirs = tmp_path / "a.b:5000" / "hosts.toml"
    theirs.parent.mkdir()
    theirs.write_text(FOREIGN)
    assert directory.activate("a.b:5000", MIRROR)
    assert not (tmp_path / "a.b_5000_").exists()
    assert hosts(theirs) == [MIRROR.endpoint.url, "https://theirs"]
    assert not directory.activate("a.b:5000", MIRROR)


def test_file_removed_while_ours_was_there_does_not_come_back(tmp_path: Path) -> None:
    path = tmp_path / "docker.io" / "hosts.toml"
    path.parent.mkdir()
    path.write_text(FOREIGN)
    directory = RegistryDirectory(tmp_path, "space/name")
    directory.activate("docker.io", MIRROR)
    path.unlink()
    directory.activate("docker.io", MIRROR)
    assert hosts(path) == [MIRROR.endpoint.url]
    directory.withdraw("docker.io")
    assert list(path.parent.iterdir()) == []


def test_folder_of_ours_that_somebody_took_over_is_kept(tmp_path: Path) -> None:
    directory = RegistryDirectory(tmp_path, "space/name")
    directory.activate("docker.io", MIRROR)
    path = tmp_path / "docker.io" / "hosts.toml"
    path.write_text(FOREIGN)
    directory.withdraw("docker.io")
    assert path.read_text() == FOREIGN
    path.unlink()
    directory.withdraw("docker.io")
    assert entries(tmp_path) == ["docker.io"]


def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    umask = os.umask(0o077)
    try:
        RegistryDirectory(tmp_path, "space/name").activate("docker.io", MIRROR)
    finally:
        os.umask(umask)
    folder = tmp_path / "docker.io"
    assert [path.stat().st_mode & 0o7777 for path in (folder, folder / "hosts.toml")] == [0o755, 0o644]


def test_unreadable_folder_does_not_stop_tidying(tmp_path: Path) -> None:
    (tmp_path / "a.io" / "hosts.toml").mkdir(parents=True)
    directory = RegistryDirectory(tmp_path, "space/name")
    directory.activate("b.io", MIRROR)
    assert directory.tidy([]) == ["b.io"]
    assert directory.not_tidied == {}


def test_folders_that_cannot_be_tidied_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = RegistryDirectory(tmp_path, "space/name")
    for upstream in ("a.io", "b.io"):
        directory.activate(upstream, MIRROR)
    real = os.rename

    def rename(source: Path, target: Path) -> None:
        if source.name == "a.io":
            raise OSError(30, "Read-only file system")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        assert directory.tidy([]) == ["b.io"]
        assert set(directory.not_tidied) == {"a.io"}
    assert directory.tidy([]) == ["a.io"]
    assert directory.not_tidied == {}


def test_original_left_by_a_killed_program_is_removed_when_the_upstream_is_not_configured(tmp_path: Path) -> None:
    path = tmp_path / "docker.io" / "hosts.toml"
    path.parent.mkdir()
    path.write_text(FOREIGN)
    (path.parent / ORIGINAL).hardlink_to(path)
    RegistryDirectory(tmp_path, "space/name").tidy([])
    assert list(path.parent.iterdir()) == [path]
    assert path.read_text() == FOREIGN


def test_file_of_ours_is_withdrawn_whatever_its_mode(tmp_path: Path) -> None:
    """Root without capabilities obeys modes, and containerd does not."""
    RegistryDirectory(tmp_path, "space/name").activate("docker.io", MIRROR)
    path = tmp_path / "docker.io" / "hosts.toml"
    path.chmod(0)
    program = (
        f"import sys; sys.path.insert(0, {str(PROGRAMS)!r})\n"
        "from pathlib import Path; from node_program.registry_directory import RegistryDirectory\n"
        "RegistryDirectory(Path(sys.argv[1]), 'space/name').withdraw('docker.io')"
    )
    bound = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", sys.executable, "-B", "-c"]
    done = subprocess.run([*bound, program, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert entries(tmp_path) == []


def test_foreign_file_keeps_a_mode_that_forbids_reading(tmp_path: Path) -> None:
    path = tmp_path / "docker.io" / "hosts.toml"
    path.parent.mkdir()
    path.write_text(FOREIGN)
    path.chmod(0o200)
    directory = RegistryDirectory(tmp_path, "space/name")
    directory.activate("docker.io", MIRROR)
    directory.withdraw("docker.io")
    assert (path.read_text(), path.stat().st_mode & 0o777) == (FOREIGN, 0o200)


def test_running_program_keeps_its_files_and_a_killed_one_does_not(tmp_path: Path) -> None:
    one, two = RegistryDirectory(tmp_path, "one/name"), RegistryDirectory(tmp_path, "two/name")
    one.activate("docker.io", MIRROR)
    one.activate("gone.io", MIRROR)
    assert two.tidy(["docker.io"]) == []
    with pytest.raises(OwnedByOtherRelease, match="managed by the node program of one/name"):
        two.activate("docker.io", MIRROR)
    assert one._own_lock is not None
    os.close(one._own_lock)  # as the kernel does when a program is killed
    assert two.tidy(["docker.io"]) == ["gone.io"]
    assert two.activate("docker.io", MIRROR)
    assert len([*tmp_path.glob(".registry-cache-*.lock")]) == 1, "the lock of the killed program is gone too"
    two.withdraw("docker.io")
    two.close()
    assert [*tmp_path.iterdir()] == []


def test_files_can_be_withdrawn_though_a_full_disk_has_no_room_for_a_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    RegistryDirectory(tmp_path, "space/name").activate("docker.io", MIRROR)
    for lock in tmp_path.glob(".registry-cache-*.lock"):
        lock.unlink()
    real = os.open

    def full(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", full)
    assert RegistryDirectory(tmp_path, "space/name").withdraw("docker.io")
    assert entries(tmp_path) == []


def test_command_in_the_reference_tidies_a_node_that_was_off(tmp_path: Path) -> None:
    reference = (CHART / "README.md").read_text()
    (command,) = [line for line in reference.splitlines() if line.startswith("cd /etc/containerd/certs.d")]
    foreign, kept, certificate = (tmp_path / name for name in ("foreign.io", "kept.io", "certificate.io"))
    for folder in (foreign, kept, certificate):
        folder.mkdir()
    (foreign / "hosts.toml").write_text(FOREIGN)
    (kept / "hosts.toml").write_text(FOREIGN)
    (certificate / "ca.crt").write_text("certificate")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    directory = RegistryDirectory(tmp_path, "space/name")
    for upstream in ("docker.io", "a.b:5000", "kept.io", "certificate.io"):
        directory.activate(upstream, MIRROR)
    subprocess.run(["sh", "-c", command.replace("/etc/containerd/certs.d", str(tmp_path))], check=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert entries(tmp_path) == ["certificate.io", "foreign.io", "kept.io"]


def test_removed_file_stays_removed_after_a_change_failed_half_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "docker.io" / "hosts.toml"
    path.parent.mkdir()
    path.write_text(FOREIGN)
    directory = RegistryDirectory(tmp_path, "space/name")

    def full(_source: Path, _target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", full)
        with pytest.raises(OSError, match="No space"):
            directory.activate("docker.io", MIRROR)
    assert path.read_text() == FOREIGN
    path.unlink()
    directory.activate("docker.io", MIRROR)
    assert hosts(path) == [MIRROR.endpoint.url]
