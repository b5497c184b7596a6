"""All that a volume can be: what is used, what is refused, and with which words."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from made_stores import MIB, content, fill_disk, put_blob, put_image, remount, small_disk
from store.store import Store
from store.volume import LOCK_NAME, Volume

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS = Path(__file__).parents[3] / "chart/files/programs"
USER = 65532
FIND = """
import os, sys
from pathlib import Path
from store.volume import Volume
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
volume = Volume(Path(sys.argv[1]), print)
print(volume.find_problem())
if warning := volume.find_warning():
    print(warning)
"""


HOLD = """
import sys
from pathlib import Path
from store.volume import Volume
volume = Volume(Path(sys.argv[1]), print)
print(volume.find_problem(), flush=True)
sys.stdin.read()
"""


def find_problem_as_user(root: Path) -> str:
    """Return what the check prints in a process without the rights of root."""
    for folder in [root, *root.parents]:
        if folder.stat().st_mode & 0o001 == 0 and folder != root:
            folder.chmod(folder.stat().st_mode | 0o011)
    done = subprocess.run(
        [sys.executable, "-c", FIND, str(root), str(USER)], cwd=PROGRAMS, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@contextmanager
def ext4(folder: Path, *options: str) -> Iterator[Path]:
    """Mount a small ext4 file system, which has a folder lost+found that belongs to root."""
    image = folder / "image"
    with image.open("wb") as file:
        file.truncate(16 * MIB)
    subprocess.run(["mkfs.ext4", "-q", *options, str(image)], check=True)
    mounted = folder / "ext4"
    mounted.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(mounted)], check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


def failing(error: int, *names: str) -> Any:
    """Let system calls of these names fail."""
    return mock.patch.multiple(
        os, **{name: mock.Mock(side_effect=OSError(error, os.strerror(error))) for name in names}
    )


@pytest.mark.parametrize("option", ["rw", "noexec", "nodev,nosuid", "noatime"])
def test_volume_that_can_be_written_to_is_used(tmp_path: Path, option: str) -> None:
    with small_disk(tmp_path / "disk", "size=8m") as disk:
        remount(disk, option)
        assert Volume(disk, pytest.fail).find_problem() is None
        assert sorted(path.name for path in disk.iterdir()) == ["docker", "parts", LOCK_NAME]
        assert list((disk / "parts").iterdir()) == []


def test_new_file_system_with_lost_and_found_is_used_and_the_folder_is_left_alone(tmp_path: Path) -> None:
    with ext4(tmp_path) as disk:
        assert (disk / "lost+found").is_dir()
        os.chown(disk, USER, USER)
        assert find_problem_as_user(disk) == "None"
        store = Store(disk, 8 * MIB)
        store.load()
        put_image(store, "one", "v1", 1)
        assert store.inaccessible == {}
        assert (disk / "lost+found").is_dir()


def test_links_are_not_needed(tmp_path: Path) -> None:
    with failing(errno.EPERM, "link", "symlink"):
        assert Volume(tmp_path, pytest.fail).find_problem() is None
        store = Store(tmp_path, 8 * MIB)
        store.load()
        put_image(store, "one", "v1", 1)
        assert store.inaccessible == {}


def test_folder_of_another_user_is_named_with_owner_and_mode(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=8m", "mode=0755") as disk:
        problem = find_problem_as_user(disk)
        assert f"its folder {disk} belongs to 0:0 and has the mode 0755" in problem
        assert f"this program is {USER}:{USER}, so fsGroup has no effect" in problem
        os.chown(disk, 0, USER)
        disk.chmod(0o2775)
        assert find_problem_as_user(disk) == "None"


def test_content_of_another_user_is_served_and_the_reason_is_logged(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=8m", "mode=0777") as disk:
        store = Store(disk, 8 * MIB)
        store.load()
        put_blob(store, "one", content(1))
        problem, warning = find_problem_as_user(disk).splitlines()
        assert problem == "None"
        assert "belongs to 0:0" in warning
        assert "what it has is served" in warning


def test_empty_read_only_volume_is_refused_and_one_with_content_is_served(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=8m") as disk:
        remount(disk, "ro")
        assert Volume(disk, pytest.fail).find_problem() == "the volume is read-only"
        remount(disk, "rw")
        store = Store(disk, 8 * MIB)
        store.load()
        put_blob(store, "one", content(1))
        remount(disk, "ro")
        volume = Volume(disk, pytest.fail)
        assert volume.find_problem() is None
        for _ in range(2):
            assert volume.find_warning() == "the volume is read-only; what it has is served, and nothing is added"
        remount(disk, "rw")
        assert volume.find_warning() is None
        # A volume that was good at the start is not tried again: what is stored on it shows when it is not.
        remount(disk, "ro")
        assert volume.find_warning() is None
        remount(disk, "rw")


def test_volume_that_is_full_of_files_of_others_is_refused_until_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=8m") as disk:
        fill_disk(disk / "foreign")
        volume = Volume(disk, pytest.fail)
        assert "full of files that are not the cache's: 0 bytes" in str(volume.find_problem())
        (disk / "foreign").unlink()
        assert volume.find_problem() is None


def test_volume_without_inodes_is_refused(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=8m", "nr_inodes=3") as disk:
        assert "0 inodes are free" in str(Volume(disk, pytest.fail).find_problem())


def test_volume_that_is_full_of_content_is_used(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=8m") as disk:
        store = Store(disk, 8 * MIB)
        store.load()
        put_blob(store, "one", content(1, MIB))
        fill_disk(disk / "foreign")
        assert Volume(disk, pytest.fail).find_problem() is None


@pytest.mark.parametrize(
    ("error", "call", "words"),
    [
        (errno.EINVAL, "fsync", "the volume cannot flush a file to the disk: Invalid argument"),
        (errno.EIO, "write", "the volume cannot be written to: Input/output error"),
        (errno.EPERM, "utime", "the volume cannot be written to: its folder"),
        (errno.EOPNOTSUPP, "utime", "the volume cannot set the time of a file: Operation not supported"),
        (errno.EOPNOTSUPP, "rename", "the volume cannot rename a file: Operation not supported"),
        (errno.ESTALE, "mkdir", "the volume cannot be written to: Stale file handle"),
    ],
)
def test_what_the_volume_cannot_do_is_said(tmp_path: Path, error: int, call: str, words: str) -> None:
    volume = Volume(tmp_path, pytest.fail)
    with failing(error, call):
        assert str(volume.find_problem()).startswith(words)
    assert volume.find_problem() is None


def test_volume_that_does_not_tell_case_apart_is_refused(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME.upper()).write_bytes(b"")
    assert "upper and lower case" in str(Volume(tmp_path, pytest.fail).find_problem())


def test_second_program_waits_and_says_why_until_the_first_one_has_ended(tmp_path: Path) -> None:
    first = subprocess.Popen(
        [
            sys.executable,
            "-c",
            HOLD,
            str(tmp_path),
        ],
        cwd=PROGRAMS,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with first:
        assert first.stdout is not None
        assert first.stdout.readline() == "None\n"
        second = Volume(tmp_path, pytest.fail)
        for _ in range(2):
            assert str(second.find_problem()).startswith("another pod uses the volume, and this one waits")
        first.kill()
    assert second.find_problem() is None
    assert second.find_problem() is None


def test_volume_can_be_made_read_only_while_it_is_locked(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=8m") as disk:
        volume = Volume(disk, pytest.fail)
        assert volume.find_problem() is None
        remount(disk, "ro")
        volume.close()


def test_network_file_system_that_locks_only_files_that_are_open_for_writing_is_locked(tmp_path: Path) -> None:
    real = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        real(descriptor, operation)

    with mock.patch.object(fcntl, "flock", flock):
        first, second = Volume(tmp_path, pytest.fail), Volume(tmp_path, pytest.fail)
        assert first.find_problem() is None
        assert str(second.find_problem()).startswith("another pod uses the volume")
        first.close()
        assert second.find_problem() is None
        second.close()


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_file_system_without_locks_is_used_and_that_is_said_once(tmp_path: Path, error: int) -> None:
    logged: list[str] = []
    volume = Volume(tmp_path, logged.append)
    with mock.patch.object(fcntl, "flock", side_effect=OSError(error, os.strerror(error))):
        assert [volume.find_problem(), volume.find_problem()] == [None, None]
    assert len(logged) == 1
    assert "has no locks" in logged[0]
