"""Writing of content: incoming blobs, and the links that make them layers, manifests and tags."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from common.files import flush_folder

from store.files import RESOURCE_ERRORS, create_file, disk_bytes, write_file
from store.incoming_blob import IncomingBlob
from store.index import MAX_LINKS, Blob
from store.interrupted import keep_interrupted
from store.layout import TAG_CURRENT, check_digest
from store.room import NoRoom, Reservation, whole_blocks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from store.files import Files
    from store.index import Index
    from store.layout import Link
    from store.removal import Removal
    from store.room import Room


# The name under which the last error of the disk is recorded that kept a complete blob from being stored.
COMMITS = "commits"


class Writer:
    """Adds blobs and links, and evicts for them where the volume is full; the `Owner` of its incoming blobs."""

    def __init__(self, index: Index, files: Files, room: Room, removal: Removal, now: Callable[[], float]) -> None:
        """Write to `files`, and keep `index` in step; `now` returns seconds since the epoch."""
        self.lock = index.lock
        self._index = index
        self.files = files
        self.room = room
        self._removal = removal
        self._now = now
        self._incoming: set[IncomingBlob] = set()

    def begin_blob(self, digest: str, size: int | None) -> IncomingBlob:
        """Begin to write a blob; see `Store.begin_blob`."""
        check_digest(digest)
        incoming = self._resume_blob(digest, size) or self._create_blob(digest, size)
        try:
            if size:
                self.room.admit(incoming.reservation, size)
        except BaseException:
            incoming.interrupt()
            raise
        return incoming

    def _create_blob(self, digest: str, size: int | None) -> IncomingBlob:
        path = self.files.temporary_path()
        descriptor = self.room.evict_while_full(partial(create_file, path))
        reservation = Reservation(descriptor, has_known_size=size is not None)
        incoming = IncomingBlob(digest, size, path, reservation, self)
        with self.lock:
            self._add_incoming(incoming)
        return incoming

    def _resume_blob(self, digest: str, size: int | None) -> IncomingBlob | None:
        """Go on with an interrupted blob, or remove it if it is of no use."""
        with self.lock:
            blob = self._index.interrupted.get(digest)
            if blob is None:
                return None
            path = self.files.layout.interrupted_path(digest, blob.size)
            descriptor = -1
            if size is not None and blob.size < size:
                try:
                    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                except OSError as error:
                    if error.errno in RESOURCE_ERRORS:
                        raise
            if descriptor < 0:
                self._removal.remove_interrupted(digest)
                return None
            self._index.remove_interrupted(digest)
            room = whole_blocks(blob.size)
            reservation = Reservation(descriptor, reserved_bytes=room, written_bytes=room)
            incoming = IncomingBlob(digest, size, path, reservation, self, recorded=blob.size)
            self._add_incoming(incoming)
            return incoming

    def _add_incoming(self, blob: IncomingBlob) -> None:
        self._incoming.add(blob)
        self.room.reservations.add(blob.reservation)

    def _remove_incoming(self, blob: IncomingBlob) -> None:
        self._incoming.remove(blob)
        self.room.reservations.remove(blob.reservation)

    def record_incoming_blobs(self) -> None:
        """Record how far all large incoming blobs are; see `IncomingBlob.record`."""
        with self.lock:
            blobs = list(self._incoming)
        for blob in blobs:
            blob.record()

    def end_blob(self, blob: IncomingBlob, *, keep: bool) -> None:
        """Close a blob that was not committed, and keep what was recorded of it, or remove it."""
        with self.lock:
            if blob.reservation.descriptor < 0:
                return
            self._remove_incoming(blob)
            with self.files.recording_errors(blob.path):
                blob.close()
            if keep and blob.recorded:
                with self.files.recording_errors(blob.path):
                    keep_interrupted(self._index, blob.digest, blob.path, blob.recorded, self._now())
                    return
            with self.files.recording_errors(blob.path), suppress(FileNotFoundError):
                blob.path.unlink()

    def commit_blob(self, blob: IncomingBlob, links: list[Link], references: dict[str, int] | None = None) -> None:
        """Make a blob part of the store, and add its links; see `IncomingBlob.commit`."""
        now = self._now()
        try:
            status = blob.complete(now)
            stored = Blob(blob.written, disk_bytes(status), now, now, verified=True)
            changed = self.room.evict_while_full(partial(self._place_blob, blob, stored))
        except BaseException as error:
            if isinstance(error, OSError):
                # The clients have the blob already, so nothing else would show that the disk takes no more.
                self.files.inaccessible[COMMITS] = error
            blob.abandon()
            raise
        self.add_links(blob.digest, links, references, changed)

    def add_links(
        self,
        digest: str,
        links: list[Link],
        references: dict[str, int] | None = None,
        changed: list[Path] | None = None,
    ) -> None:
        """Add the links that a blob does not have yet, in their order, and flush them and the `changed` folders.

        Raises:
            NoRoom: The volume cannot hold them.
            OSError: The blob is not stored any more, or the disk reported another error.
        """
        changed = changed or []
        with self.lock:
            missing = [link for link in links if not self._index.has_link(digest, link)]
            blob = self._index.blobs.get(digest)
            added = sum(link.kind != TAG_CURRENT for link in missing)
            if blob is not None and added and len(blob.links) + added > MAX_LINKS:
                message = f"{digest} has {len(blob.links)} links, and may have {MAX_LINKS}"
                raise NoRoom(message)
        waiting: list[tuple[Path, Link]] = []
        try:
            for link in missing:
                path = self.files.temporary_path()
                waiting.append((path, link))
                self.room.evict_while_full(partial(write_file, path, digest.encode()), keep=digest)
            self.room.evict_while_full(partial(self._place_links, digest, waiting, references, changed), keep=digest)
        finally:
            for path, _ in waiting:
                with self.files.recording_errors(path):
                    # On a read-only disk, removing a file fails even if the file does not exist.
                    if path.exists():
                        path.unlink()
        for folder in dict.fromkeys(changed):
            # A folder that does not exist any more was removed because it became empty.
            with suppress(FileNotFoundError):
                flush_folder(folder)

    def add_link_if_possible(self, digest: str, link: Link) -> None:
        """Add a link to a blob that is of use without it too; an error is only recorded."""
        path = str(self.files.layout.link_path(link, digest))
        try:
            self.add_links(digest, [link])
            self.files.inaccessible.pop(path, None)
        except FileNotFoundError:
            # The blob was removed in the meantime.
            return
        except NoRoom as error:
            self.files.inaccessible[path] = OSError(errno.ENOSPC, str(error), path)
        except OSError as error:
            self.files.inaccessible[path] = error

    def _place_blob(self, blob: IncomingBlob, stored: Blob) -> list[Path]:
        """Give a complete blob its final name, and return the folders to flush."""
        path = self.files.layout.blob_path(blob.digest)
        with self.lock:
            changed = self.files.rename(blob.path, path)
            blob.path = path
            self._remove_incoming(blob)
            self._index.add_blob(blob.digest, stored)
            self._removal.count_stored(blob.digest, stored.size)
            if blob.digest in self._index.interrupted:
                self._removal.remove_interrupted(blob.digest)
            self.files.inaccessible.pop(blob.digest, None)
            self.files.inaccessible.pop(COMMITS, None)
            # Everything was flushed before, so that an error has no meaning.
            with suppress(OSError):
                blob.close()
        return changed

    def _place_links(
        self, digest: str, waiting: list[tuple[Path, Link]], references: dict[str, int] | None, changed: list[Path]
    ) -> None:
        """Give links that wait under temporary names their final ones; a second call goes on after a failed one."""
        with self.lock:
            blob = self._index.blobs.get(digest)
            if blob is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), digest)
            if references and not blob.references:
                self._index.set_references(blob, references)
            while waiting:
                path, link = waiting[0]
                changed += self.files.rename(path, self.files.layout.link_path(link, digest))
                self._index.add_link(digest, link)
                del waiting[0]
