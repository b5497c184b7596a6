"""Room on the volume: its limits, reservations for incoming blobs, and eviction.

An incoming blob is admitted with its whole size at the start, so that no two blobs count on the same bytes. Room for it
is made in steps, so that a large blob that breaks off early has evicted little.

`Room.evict_until` is the only place that evicts. `Room.lock` is held while blobs are admitted and room is made, so that
two threads do not count on the same bytes.
"""

from __future__ import annotations

import errno
import os
import threading
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from store.removal import EVICTED

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from store.index import Blob, Index
    from store.removal import Removal

# The unit in which file systems allocate room.
BLOCK_BYTES = 4096
# The room that is made at a time for an incoming blob.
STEP_BYTES = 256 * 1024 * 1024
# The room that an incoming blob of unknown size is admitted with at a time.
GROWTH_BYTES = 16 * 1024 * 1024
# The inodes to keep free, or a 20th of all on a small volume. A blob takes about six, with its folders and one link.
MIN_FREE_INODES = 300
INODES_PER_FILE = 2
MIN_LARGE_INODES = 64
# Blobs that take more than this share of the inodes of all content are evicted first when inodes are short.
LARGE_INODES_SHARE = 0.01
# Manifests are evicted last while they take less than this share of the room.
MANIFESTS_SHARE = 0.1
# All incoming blobs of unknown size together evict less than this share of the room.
UNKNOWN_SIZE_SHARE = 0.1
# The least to evict for a disk that reports that it is full although its figures say otherwise.
MIN_EVICTED_BLOBS = 8

FULL = {errno.ENOSPC, errno.EDQUOT}
NO_INODES = "no inodes are left on the volume"
NO_ROOM_REASONS = {
    errno.ENOSPC: "no space is left on the volume",
    errno.EDQUOT: "the volume's quota is used up",
    errno.EROFS: "the volume is read-only",
    errno.EFBIG: "the file would be larger than the volume allows",
}
# Some file systems cannot set room aside for a file (posix_fallocate(3)).
CANNOT_ALLOCATE = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}

T = TypeVar("T")


class NoRoom(Exception):
    """The volume cannot hold some content; the message says why."""


@dataclass(slots=True, eq=False)
class Reservation:
    """Room for one incoming blob."""

    descriptor: int
    """The open file, -1 when it is closed."""
    admitted_bytes: int = 0
    """Bytes that no other incoming blob may count on."""
    reserved_bytes: int = 0
    """The first of these bytes, for which room was made."""
    written_bytes: int = 0
    has_known_size: bool = True
    evicted_bytes: int = 0
    """What was evicted for it."""
    allocated: bool = False
    """Whether the file system has set the reserved bytes aside; else they are only counted here."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while the file is changed or closed, since another file may get its descriptor then."""

    @property
    def disk_bytes(self) -> int:
        """Return how many bytes the file system no longer counts as free."""
        return self.reserved_bytes if self.allocated else self.written_bytes


@dataclass(slots=True)
class Evicted:
    """The blobs that an eviction removed so far."""

    digests: list[str] = field(default_factory=list)
    disk_bytes: int = 0


class Room:
    """The room for content, and its limits."""

    def __init__(
        self,
        root: Path,
        index: Index,
        removal: Removal,
        capacity: int,
        high_water: float,
    ) -> None:
        """Let content take `capacity` bytes at most; `evict_above_high_water` leaves the share `high_water` of them."""
        self.lock = threading.Lock()
        self.reservations: set[Reservation] = set()
        self.capacity = capacity
        self.high_water = high_water
        self._root = root
        self._index = index
        self._removal = removal

    def set_limits(self, capacity: int, high_water: float) -> bool:
        """Change the limits, and return whether they are different."""
        with self._index.lock:
            before = self.capacity, self.high_water
            self.capacity, self.high_water = capacity, high_water
        return before != (capacity, high_water)

    def free_bytes(self) -> int:
        """Return how many bytes are free on the file system."""
        status = os.statvfs(self._root)
        return status.f_bavail * status.f_frsize

    def usable_bytes(self, free_bytes: int) -> int:
        """Return how many bytes content may take; the caller holds the lock of the index."""
        incoming_bytes = sum(each.disk_bytes for each in self.reservations)
        return min(self.capacity, self._index.stored_bytes + incoming_bytes + free_bytes)

    def check_room(self, size: int) -> None:
        """Check whether `size` more bytes would find room if everything that is stored was evicted.

        Raises:
            NoRoom: It would not.
            OSError: The disk does not say how full it is.
        """
        needed = whole_blocks(size)
        with self._index.lock:
            usable = self.usable_bytes(self.free_bytes())
            reserved = sum(each.admitted_bytes for each in self.reservations)
        if needed > usable:
            message = f"{needed} bytes are needed, but the volume has room for {usable}"
            raise NoRoom(message)
        if needed > usable - reserved:
            message = f"{needed} bytes are needed, but {reserved} of {usable} are reserved for incoming blobs"
            raise NoRoom(message)

    def admit(self, reservation: Reservation, size: int) -> None:
        """Let an incoming blob take `size` bytes in all, and make room for the first step.

        Raises:
            NoRoom: The volume cannot hold that. Nothing was evicted if that was clear from the start.
            OSError: The disk reported another error.
        """
        with self.lock:
            self.check_room(size)
            with self._index.lock:
                usable = self.usable_bytes(self.free_bytes())
                taken = self._index.stored_bytes + sum(each.admitted_bytes for each in self.reservations)
            self._check_evictable(whole_blocks(size) + taken - usable)
            reservation.admitted_bytes = whole_blocks(size)
            self._make_step(reservation, reservation.reserved_bytes + 1)

    def admit_growth(self, reservation: Reservation, end: int) -> None:
        """Admit a blob of unknown size in advance, when it is about to grow to `end` bytes.

        Raises:
            NoRoom: The volume cannot hold that.
            OSError: The disk does not say how full it is.
        """
        missing = end - reservation.admitted_bytes
        if missing <= 0:
            return
        with self.lock:
            growth = max(GROWTH_BYTES, missing)
            try:
                self.check_room(growth)
            except NoRoom:
                growth = missing
                self.check_room(growth)
            reservation.admitted_bytes += whole_blocks(growth)

    def reserve(self, reservation: Reservation, end: int) -> int:
        """Make room for an admitted blob up to the byte `end` at least, and return how far there is room.

        Raises:
            NoRoom: The volume cannot hold that.
            OSError: The disk reported another error.
        """
        with self.lock:
            self._make_step(reservation, end)
            return reservation.reserved_bytes

    def evict_while_full(self, action: Callable[[], T], size: int = 0, keep: str = "") -> T:
        """Run an action that takes `size` bytes, and evict and run it again while the disk reports that it is full.

        The disk can be fuller than its figures say: an evicted file takes room until nobody reads it any more. This
        ends after twice the size was evicted, since others may take the freed room. The digest `keep` is not evicted.

        Raises:
            NoRoom: The disk is still full, or cannot be written to.
            OSError: The action failed for another reason.
        """
        results: list[T] = []
        reason = ""

        def succeeds(evicted: Evicted) -> bool:
            nonlocal reason
            try:
                results.append(action())
            except OSError as error:
                if error.errno not in NO_ROOM_REASONS:
                    raise
                full = error.errno in FULL
                reason = NO_INODES if full and self._is_out_of_inodes(size) else NO_ROOM_REASONS[error.errno]
                if not full or (evicted.disk_bytes > 2 * size and len(evicted.digests) >= MIN_EVICTED_BLOBS):
                    raise NoRoom(reason) from error
                return False
            return True

        if not succeeds(Evicted()):
            self.evict_until(
                lambda evicted: bool(evicted.digests) and succeeds(evicted),
                for_inodes=reason == NO_INODES,
                keep=keep,
            )
        if not results:
            raise NoRoom(reason)
        return results[0]

    def evict_above_high_water(self) -> list[str]:
        """Evict in advance, so that the next blobs find room at once, and return the digests.

        A single layer that is larger than the high-water mark allows stays until other content needs its room.
        """
        with self.lock:
            with self._index.lock:
                reserved = sum(each.reserved_bytes for each in self.reservations)
                layers = [blob for blob in self._index.blobs.values() if not blob.revisions]
                latest = max(layers, key=lambda blob: blob.last_use).disk_bytes if layers else 0
                manifests = sum(blob.disk_bytes for blob in self._index.blobs.values() if blob.revisions)
                usable = self.usable_bytes(self.free_bytes())
                manifests = min(manifests, int(usable * MANIFESTS_SHARE))
                high_water = int(self.high_water * usable)
                excess = self._index.stored_bytes + reserved - max(high_water, reserved + latest + manifests)
            for_bytes = self.evict_until(lambda evicted: evicted.disk_bytes >= excess)
            for_inodes = self.evict_until(lambda _: not self._has_few_inodes(), for_inodes=True)
        return [*for_bytes.digests, *for_inodes.digests]

    def evict_until(self, enough: Callable[[Evicted], bool], *, for_inodes: bool = False, keep: str = "") -> Evicted:
        """Evict the least recently used blobs until `enough` says so or none is left, and return the evicted ones.

        Interrupted blobs are among them. Manifests go last up to a share of the room, since they are small and an image
        is of no use without its own. If inodes are short, blobs that take many of them go first instead. The digest
        `keep` is not evicted, nor is what somebody reads, which would make no room.
        """
        evicted = Evicted()
        if enough(evicted):
            return evicted
        with self._index.lock:
            known = [*self._index.blobs.items(), *self._index.interrupted.items()]
            ranks = self._rank_by_inodes() if for_inodes else self._rank_manifests()
            blobs = [(digest, blob, blob.last_use) for digest, blob in known if digest != keep]
            blobs.sort(key=lambda each: (ranks.get(each[1], 0), each[2]))
        for digest, blob, last_use in blobs:
            if self._removal.remove_unused(digest, blob, last_use, reason=EVICTED):
                evicted.digests.append(digest)
                evicted.disk_bytes += blob.disk_bytes
                if enough(evicted):
                    break
        return evicted

    def _rank_manifests(self) -> dict[Blob, int]:
        """Rank the manifests that go last: those used most recently, up to their share of the room."""
        manifests = [blob for blob in self._index.blobs.values() if blob.revisions]
        manifests.sort(key=lambda blob: -blob.last_use)
        last = {}
        left = self.usable_bytes(self.free_bytes()) * MANIFESTS_SHARE
        for blob in manifests:
            left -= blob.disk_bytes
            if left >= 0:
                last[blob] = 1
        return last

    def _rank_by_inodes(self) -> dict[Blob, int]:
        """Rank the blobs that take many inodes with their links: those with the most go first."""
        inodes = {blob: self._index.count_inodes(blob) for blob in self._index.blobs.values()}
        large = sum(inodes.values()) * LARGE_INODES_SHARE
        return {blob: -round(count / large) for blob, count in inodes.items() if count > max(large, MIN_LARGE_INODES)}

    def _make_step(self, reservation: Reservation, end: int) -> None:
        """Make room up to `end`, and ahead of it, and set it aside so that nobody else takes it."""
        start = reservation.reserved_bytes
        if min(end, reservation.admitted_bytes) <= start or reservation.descriptor < 0:
            return
        step = min(reservation.admitted_bytes - start, max(STEP_BYTES, whole_blocks(end - start)))
        with self._index.lock:
            reserved = sum(each.reserved_bytes for each in self.reservations)
            room = self.usable_bytes(self.free_bytes()) - reserved
            missing = step - (room - self._index.stored_bytes)
            unknown = sum(each.evicted_bytes for each in self.reservations if not each.has_known_size)
        if step > room:
            message = f"{step} more bytes are needed, but the volume has room for {room}"
            raise NoRoom(message)
        if not reservation.has_known_size and missing > 0 and unknown + missing > room * UNKNOWN_SIZE_SHARE:
            message = f"{step} more bytes are needed, and blobs of unknown size have evicted {unknown} already"
            raise NoRoom(message)
        self._check_evictable(missing)
        evicted_bytes = self.evict_until(lambda evicted: evicted.disk_bytes >= missing).disk_bytes
        reservation.evicted_bytes += evicted_bytes
        if evicted_bytes < missing:
            message = f"{missing} more bytes are needed, but the stored content could not be evicted"
            raise NoRoom(message)
        reservation.reserved_bytes += step
        try:
            self.evict_while_full(partial(_allocate, reservation, start, step), step)
            reservation.allocated = True
        except BaseException as error:
            if not (isinstance(error, OSError) and error.errno in CANNOT_ALLOCATE):
                reservation.reserved_bytes = start
                raise

    def _check_evictable(self, size: int) -> None:
        """Check whether that much could be evicted, so that nothing is evicted in vain.

        Raises:
            NoRoom: Too much of the stored content is being read.
        """
        if size <= 0:
            return
        with self._index.lock:
            known = [*self._index.blobs.items(), *self._index.interrupted.items()]
            blobs = sorted(((blob.disk_bytes, digest) for digest, blob in known), reverse=True)
        evictable = 0
        for disk_bytes, digest in blobs:
            evictable += 0 if self._removal.is_read(digest) else disk_bytes
            if evictable >= size:
                return
        message = f"{size} more bytes are needed, but only {evictable} are stored that nobody reads"
        raise NoRoom(message)

    def _is_out_of_inodes(self, size: int) -> bool:
        """Return whether inodes, not bytes, are why the disk is full; what failed may have been undone since."""
        status = os.statvfs(self._root)
        free_bytes = status.f_bavail * status.f_frsize
        return status.f_files > 0 and status.f_favail < MIN_FREE_INODES and free_bytes > whole_blocks(size)

    def _has_few_inodes(self) -> bool:
        """Return whether fewer inodes are free than should be, on a file system that counts them."""
        status = os.statvfs(self._root)
        with self._index.lock:
            files = len(self._index.blobs) + self._index.links_by_repository.total()
        usable = INODES_PER_FILE * files + status.f_favail
        return status.f_files > 0 and status.f_favail < min(MIN_FREE_INODES, usable // 20)


def whole_blocks(size: int) -> int:
    """Return how many bytes a file system allocates for a file of `size` bytes."""
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def _allocate(reservation: Reservation, offset: int, size: int) -> None:
    """Let the file system set room aside for a file, unless it was closed, all or nothing."""
    with reservation.lock:
        if reservation.descriptor < 0:
            return
        try:
            os.posix_fallocate(reservation.descriptor, offset, size)
        except OSError:
            os.ftruncate(reservation.descriptor, offset)
            raise
