"""Incoming blobs: blobs that are being written to the volume and are not complete yet."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from store.layout import LAYER, Link, check_names

if TYPE_CHECKING:
    import threading
    from io import FileIO
    from pathlib import Path

    from store.files import Files
    from store.room import Reservation, Room


READ_BYTES = 1 << 18
# A blob of this size survives as an interrupted blob if its fetch ends too early.
RESUMABLE_BYTES = 256 << 20


class WrongContent(Exception):
    """The content does not have the expected digest or size."""


class Owner(Protocol):
    """The part of the store that began an incoming blob, as far as the blob needs it."""

    lock: threading.Lock
    """Held while files are renamed, which changes the path of a blob."""
    files: Files
    room: Room

    def commit_blob(self, blob: IncomingBlob, links: list[Link]) -> None:
        """Make a blob part of the store, or abandon it."""

    def end_blob(self, blob: IncomingBlob, *, keep: bool) -> None:
        """Close a blob that was not committed, and keep what was recorded of it, or remove it."""


class IncomingBlob:
    """A blob that is being written, and that many may read; its writer has to commit or to abandon it.

    One thread appends to it. Others may write ahead: bytes after those that were appended so far.
    """

    def __init__(  # noqa: PLR0913 - only the store begins blobs
        self,
        digest: str,
        size: int | None,
        path: Path,
        reservation: Reservation,
        owner: Owner,
        *,
        recorded: int = 0,
    ) -> None:
        """Write to the open file of a reservation; `size` is None if it is unknown.

        The first `recorded` bytes are in the file already. They have to be appended with `append_written`.
        """
        self.digest = digest
        self.size = size
        self.path = path
        self.reservation = reservation
        self.recorded = recorded
        """How many of the first bytes survive if the program is killed."""
        self._owner = owner
        self._hash = hashlib.sha256()
        self._written = 0
        # How far room was made for it.
        self._room_end = 0

    @property
    def written(self) -> int:
        """Return how many bytes were appended so far."""
        return self._written

    def open_for_reading(self) -> FileIO:
        """Open the blob for reading, while it is written or after it was committed.

        Raises:
            OSError: The blob was abandoned or removed, or cannot be read.
        """
        with self._owner.lock:
            return self.path.open("rb", buffering=0)

    def write(self, content: bytes | memoryview) -> None:
        """Append to the blob.

        Raises:
            WrongContent: That is more than the expected size; the blob was abandoned.
            NoRoom: The volume cannot hold that.
            OSError: The disk reported another error.
        """
        if self.size is None:
            self._owner.room.admit_growth(self.reservation, self.written + len(content))
        elif self.written + len(content) > self.size:
            self.abandon()
            message = f"more came than the expected {self.size} bytes"
            raise WrongContent(message)
        left = memoryview(content)
        while left:
            written = self._write(left, self._written, appends=True)
            self._hash.update(left[:written])
            left = left[written:]

    def write_ahead(self, offset: int, content: memoryview) -> bool:
        """Write bytes that have not been appended yet, and return whether that was possible.

        It is not if the blob has grown beyond `offset`, or was committed or abandoned.

        Raises:
            NoRoom: The volume cannot hold that.
            OSError: The disk reported another error.
        """
        left = content
        while left:
            written = self._write(left, offset)
            if not written:
                return False
            offset += written
            left = left[written:]
        return True

    def append_written(self, count: int) -> None:
        """Append bytes that were written ahead; all of the next `count` bytes were.

        Raises:
            OSError: The disk cannot read them.
        """
        end = self._written + count
        buffer = memoryview(bytearray(min(count, READ_BYTES)))
        while self._written < end:
            read = os.preadv(self.reservation.descriptor, [buffer[: end - self._written]], self._written)
            if not read:
                message = "the file of the blob was truncated"
                raise OSError(message)
            self._hash.update(buffer[:read])
            with self.reservation.lock:
                self._written += read

    def _write(self, content: memoryview, offset: int, *, appends: bool = False) -> int:
        """Write some bytes and return how many, or 0 if those at `offset` may not be written any more."""

        def write() -> int:
            # Only for one attempt, because eviction between two attempts needs other locks. A thread that writes ahead
            # must not change what was appended.
            with self.reservation.lock:
                if not appends and (offset < self._written or self.reservation.descriptor < 0):
                    return 0
                written = os.pwrite(self.reservation.descriptor, content, offset)
                self.reservation.written_bytes += written
                if appends:
                    self._written += written
                return written

        end = offset + len(content)
        if end > self._room_end:
            self._room_end = self._owner.room.reserve(self.reservation, end)
        return self._owner.room.evict_while_full(write, len(content))

    def commit(self, repository: str) -> None:
        """Make the blob part of the store, as a layer of a repository.

        Raises:
            ValueError: The repository's name is not valid.
            WrongContent: The digest or the size is not the expected one; the blob was abandoned.
            NoRoom: The volume has no room for its names. The blob was abandoned, or only its link is missing.
            OSError: The disk reported another error, with the same result.
        """
        check_names(repository)
        self._owner.commit_blob(self, [Link(LAYER, repository)])

    def abandon(self) -> None:
        """Remove the blob, unless it was committed or ended before."""
        self._owner.end_blob(self, keep=False)

    def interrupt(self) -> None:
        """End the blob, and keep what was appended for the next fetch if it is large, unless it was ended before."""
        self.record()
        self._owner.end_blob(self, keep=True)

    def record(self) -> None:
        """Flush a large blob and record how much was appended, so that this much survives if the program is killed.

        Errors of the disk are only recorded.
        """
        written, files = self._written, self._owner.files
        if self.size is None or self.size < RESUMABLE_BYTES or not self.recorded < written < self.size:
            return
        with files.recording_errors(self.digest), suppress(FileNotFoundError):
            # The kernel reports an error of the disk once for each open file, so the commit will see it too.
            with self.open_for_reading() as file:
                os.fdatasync(file.fileno())
            path = files.layout.interrupted_path(self.digest, written)
            with self._owner.lock:
                if self.reservation.descriptor >= 0 and written > self.recorded and not path.exists():
                    self.path.rename(path)
                    self.path, self.recorded = path, written

    def verify(self) -> None:
        """Compare what was written with the expected size and digest.

        Raises:
            WrongContent: They differ.
        """
        digest = f"sha256:{self._hash.hexdigest()}"
        if self.size not in (None, self.written):
            message = f"{self.written} bytes came instead of the expected {self.size}"
            raise WrongContent(message)
        if digest != self.digest:
            message = f"the content has the digest {digest} instead of {self.digest}"
            raise WrongContent(message)

    def complete(self, now: float) -> os.stat_result:
        """Check the content, flush it to the disk with `now` as its last use, and return the file's status."""
        self.verify()
        descriptor = self.reservation.descriptor
        # Room is made in whole blocks.
        os.ftruncate(descriptor, self.written)
        os.utime(descriptor, (now, now))
        os.fsync(descriptor)
        return os.fstat(descriptor)

    def close(self) -> None:
        """Close the file for writing, even if the disk reports an error."""
        with self.reservation.lock:
            descriptor, self.reservation.descriptor = self.reservation.descriptor, -1
        os.close(descriptor)
