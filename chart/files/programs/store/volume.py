"""The volume itself: that one program writes to it, and that it can do what the store needs.

The store needs no hard links and executes nothing. It needs a file system that can be written to, that flushes files,
renames them and sets their times, and that tells names apart by case, as tags are.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from common.files import flush_folder

from store.files import create_file
from store.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Callable

# The file that a program locks while it writes to the volume. Its modification time tells when it did so last.
LOCK_NAME = "registry-cache.lock"
# With less, no image finds room.
MIN_FREE_BYTES = 1 << 20
FULL = {errno.ENOSPC, errno.EDQUOT}
DENIED = {errno.EACCES, errno.EPERM}


class Unusable(Exception):
    """The volume cannot be used; the message says why, for the person who looks after the cluster."""


class Volume:
    """A volume that one program at a time may use."""

    def __init__(self, root: Path, log: Callable[[str], None]) -> None:
        """Use the volume that is mounted at `root`; nothing is read or written yet."""
        self._root = root
        self._log = log
        self._layout = Layout(root)
        self._lock = -1
        self._has_locks = True
        self._warning: str | None = None

    def find_problem(self) -> str | None:
        """Return why the volume cannot be used, or None if it can; then it is locked until the program ends.

        What is stored on a volume that only cannot be written to is served anyway, and `find_warning` has the reason.
        """
        try:
            self._acquire()
            self._check_names()
        except Unusable as problem:
            return str(problem)
        has_content = self._has_content()
        self._warning = self._find_writing_problem(has_content=has_content)
        return None if has_content else self._warning

    def find_warning(self) -> str | None:
        """Return why a volume with content cannot be written to, and look whether that is still so; None if it can."""
        if self._warning is None:
            return None
        self._warning = self._find_writing_problem(has_content=True)
        return f"{self._warning}; what it has is served, and nothing is added" if self._warning else None

    def close(self) -> None:
        """Unlock the volume; the kernel does it when a program ends."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _acquire(self) -> None:
        """Lock the volume, unless it is locked by this program, or cannot be locked at all.

        Raises:
            Unusable: Another program uses the volume.
        """
        if self._lock >= 0 or not self._has_locks:
            return
        try:
            self._lock = self._open_lock(os.O_RDONLY)
        except OSError:
            # The check of writing says why.
            return
        try:
            self._lock_file()
        except OSError as error:
            self.close()
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                message = (
                    "another pod uses the volume, and this one waits until that one has ended; "
                    "if none is left, the file system has not noticed yet that it is gone"
                )
                raise Unusable(message) from None
            self._has_locks = False
            self._log(
                f"the file system of the volume has no locks ({error.strerror}): "
                "it must make sure itself that two pods never use it at the same time"
            )

    def _open_lock(self, mode: int) -> int:
        path = self._root / LOCK_NAME
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
        return os.open(path, mode | os.O_CLOEXEC)

    def _lock_file(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            # NFS locks only what is open for writing. Elsewhere that would keep the volume from being made read-only.
            self.close()
            self._lock = self._open_lock(os.O_RDWR)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _check_names(self) -> None:
        """Check that names are told apart by case.

        Raises:
            Unusable: They are not.
        """
        lock = self._root / LOCK_NAME
        if lock.exists() and (self._root / LOCK_NAME.upper()).exists():
            message = (
                "the volume does not tell upper and lower case apart, so tags would be taken for each other; "
                "use a volume of another kind, or mount it so that it does"
            )
            raise Unusable(message)

    def _find_writing_problem(self, *, has_content: bool) -> str | None:
        try:
            self._check_writing(has_content=has_content)
        except Unusable as problem:
            return str(problem)
        return None

    def _check_writing(self, *, has_content: bool) -> None:
        """Do once what the store does with each blob. The store makes room itself on a volume that is full of content.

        Raises:
            Unusable: The volume refuses it.
        """
        folder = self._layout.incoming
        path, renamed = folder / secrets.token_hex(8), folder / secrets.token_hex(8)
        step = "cannot be written to"
        try:
            for each in (folder, self._layout.blobs / "sha256", self._layout.repositories):
                each.mkdir(parents=True, exist_ok=True)
                self._check_permission(each)
            descriptor = create_file(path)
            try:
                os.write(descriptor, b"check")
                step = "cannot set the time of a file"
                os.utime(descriptor, (0, 0))
                step = "cannot flush a file to the disk"
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            step = "cannot rename a file"
            path.rename(renamed)
            step = "cannot flush a folder to the disk"
            flush_folder(folder)
            if not has_content:
                self._check_free()
        except OSError as error:
            if not (has_content and error.errno in FULL):
                raise Unusable(self._describe(error, step)) from error
        finally:
            for each in (path, renamed):
                with suppress(OSError):
                    each.unlink()

    def _check_permission(self, folder: Path) -> None:
        if os.statvfs(folder).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(folder))
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))

    def _check_free(self) -> None:
        status = os.statvfs(self._root)
        if status.f_bavail * status.f_frsize < MIN_FREE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _describe(self, error: OSError, step: str) -> str:
        if error.errno == errno.EROFS:
            return "the volume is read-only"
        if error.errno in FULL:
            full = os.statvfs(self._root)
            free = f"{full.f_bavail * full.f_frsize} bytes and {full.f_favail} inodes are free"
            return f"the volume is full of files that are not the cache's: {free}"
        if error.errno in DENIED:
            folder = _nearest(Path(error.filename or self._root))
            status = folder.stat()
            return (
                f"the volume cannot be written to: its folder {folder} belongs to "
                f"{status.st_uid}:{status.st_gid} and has the mode {status.st_mode & 0o7777:04o}, and this program "
                f"is {os.getuid()}:{os.getgid()}, so fsGroup has no effect on this kind of volume; "
                "change the owner or the mode, or use a volume of another kind"
            )
        return f"the volume {step}: {error.strerror}"

    def _has_content(self) -> bool:
        """Return whether there is a blob."""
        return next(self._layout.blobs.glob("sha256/*/*/data"), None) is not None


def _nearest(path: Path) -> Path:
    """Return a path, or the nearest folder above it that exists."""
    while not path.is_dir():
        path = path.parent
    return path
