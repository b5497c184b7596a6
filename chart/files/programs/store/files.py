"""Files and folders on the volume: each file appears under its name at once, complete and flushed to the disk.

A file is written and flushed under a temporary name, and renamed then, so that distribution and nginx see all of it or
nothing, and so that a program killed at any system call leaves a folder that both can read. All functions raise OSError
if the disk reports an error, except those that record errors.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from store.layout import Layout

# Too many open files, or too little memory: errors that say nothing about the file.
RESOURCE_ERRORS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
# Errors of removing a folder that is not empty. A read-only disk fails before it checks that.
NOT_EMPTY_ERRORS = {errno.ENOTEMPTY, errno.EEXIST, errno.EROFS}


class Files:
    """The files of the store, and the errors that the disk reported."""

    def __init__(self, layout: Layout) -> None:
        """Use the paths of `layout`."""
        self.layout = layout
        self.inaccessible: dict[str, OSError] = {}
        """The last error for each path or digest that could not be read, written or removed."""

    @contextmanager
    def recording_errors(self, name: Path | str) -> Iterator[None]:
        """Record an error of the disk under a name, and go on after the block."""
        try:
            yield
        except OSError as error:
            self.inaccessible[str(name)] = error

    def list_folder(self, folder: Path) -> list[Path]:
        """Return the sorted paths in a folder, none if it does not exist or cannot be read."""
        try:
            return sorted(folder.iterdir())
        except FileNotFoundError:
            pass
        except OSError as error:
            self.inaccessible[str(folder)] = error
        return []

    def temporary_path(self) -> Path:
        """Return a path for a new file, which is renamed when it is complete."""
        # Another program that writes to the same volume, although it should not, must not use the same name.
        return self.layout.incoming / secrets.token_hex(8)

    def rename(self, source: Path, target: Path) -> list[Path]:
        """Give a complete file its final name, and return the folders whose entries changed, to be flushed."""
        missing = []
        folder = target.parent
        while not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        try:
            for each in reversed(missing):
                each.mkdir(0o755)
            source.rename(target)
        except OSError:
            self.prune(target.parent)
            raise
        return [target.parent, *(each.parent for each in missing)]

    def remove(self, path: Path) -> None:
        """Remove a file if it exists, and its folder if that is empty then."""
        path.unlink(missing_ok=True)
        self.prune(path.parent)

    def prune(self, folder: Path) -> None:
        """Remove a folder and its parents while they are empty, except those that always exist."""
        while folder not in (self.layout.blobs, self.layout.repositories):
            try:
                folder.rmdir()
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno not in NOT_EMPTY_ERRORS:
                    self.inaccessible[str(folder)] = error
                return
            folder = folder.parent


def create_file(path: Path) -> int:
    """Create an empty file, and return its descriptor."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)


def write_file(path: Path, content: bytes) -> None:
    """Write a small file and flush it to the disk; if that fails, it can be tried again."""
    descriptor = create_file(path)
    try:
        while content:
            content = content[os.write(descriptor, content) :]
        os.fsync(descriptor)
    except OSError:
        with suppress(OSError):
            path.unlink()
        raise
    finally:
        os.close(descriptor)


def is_open(path: Path) -> bool:
    """Return whether somebody has a file open, the front for example, as far as the kernel of this node knows.

    A file takes room until nobody has it open any more. The kernel grants a write lease (fcntl(2)) only to the one who
    has a file open alone.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # Who opens the file meanwhile waits until the lease is returned, and the kernel sends a signal to this program:
        # this one is ignored by default.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        # Some file systems have no leases.
        return error.errno == errno.EAGAIN
    finally:
        os.close(descriptor)
    return False


def disk_bytes(status: os.stat_result) -> int:
    """Return how many bytes a file takes on the disk (stat(2))."""
    return status.st_blocks * 512
