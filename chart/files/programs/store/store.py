"""The store: everything that the gate does with the volume."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from common.apart import call_apart

from store.files import RESOURCE_ERRORS, Files
from store.incoming_blob import IncomingBlob, WrongContent
from store.index import MAX_LINKS, Index
from store.interrupted import MAX_AGE_SECONDS
from store.layout import (
    LAYER,
    REVISION,
    Layout,
    Link,
    check_digest,
    check_names,
    digest_of,
    manifest_links,
    read_references,
)
from store.loading import Loader
from store.removal import DAMAGED, EVICTED, EXPIRED, Removal
from store.room import NoRoom, Room
from store.statistics import Statistics
from store.unseen_time import UnseenTime
from store.volume import LOCK_NAME
from store.writing import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from store.index import Blob

__all__ = ["DAMAGED", "EVICTED", "EXPIRED", "IncomingBlob", "NoRoom", "Store", "WrongContent"]

# The last use of a blob is written to the disk no more often than this.
LAST_USE_INTERVAL_SECONDS = 60.0
# Time that the program did not see pass counts up to this, so that a restart does not write to each blob.
MAX_UNSEEN_SECONDS = 3600.0
MAX_UNSEEN_SHARE = 0.1
# What a manifest refers to is used with it no more often than this.
REFERENCES_INTERVAL_SECONDS = 1.0


class Store:
    """The content of the volume."""

    def __init__(  # noqa: PLR0913 - how a volume is used
        self,
        root: Path,
        capacity: int,
        *,
        high_water: float = 0.85,
        links_need_proof: bool = False,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep content below the folder `root`, `capacity` bytes at most, less if the volume is smaller or shared.

        With `links_need_proof`, a link says that the upstream has the blob in that repository: a manifest that names
        it makes none. `now` returns the time of the clock, and `monotonic` one that never jumps.

        `evict_above_high_water` leaves the share `high_water` of what content may take. Errors of the disk that do
        not stop the store are in `inaccessible`, by path or digest.
        """
        self._now = now
        self._links_need_proof = links_need_proof
        self._unseen = UnseenTime(root / LOCK_NAME, monotonic)
        self._layout = Layout(root)
        self._index = Index()
        self._files = Files(self._layout)
        self._removal = Removal(self._index, self._files)
        self._room = Room(root, self._index, self._removal, capacity, high_water)
        self._writer = Writer(self._index, self._files, self._room, self._removal, now)
        self.inaccessible = self._files.inaccessible

    def load(self) -> None:
        """Read the volume, and remove leftovers of a killed program and damaged content."""
        self._unseen.start()
        Loader(self._index, self._files, self._removal, self._now()).load()

    # Reading

    def blob_path(self, digest: str) -> Path:
        """Return the path of a blob's content.

        Raises:
            ValueError: The digest is not valid.
        """
        return self._layout.blob_path(digest)

    def find_blob(self, digest: str, first_byte: int = 0) -> int | None:
        """Return the size of a blob, or None if it is not stored as one, or was damaged and is discarded now.

        The byte at `first_byte` is read. A download breaks off where the disk cannot read on, and the client asks for
        the rest from there.
        """
        with self._index.lock:
            blob = self._index.blobs.get(digest)
        if blob is None or not blob.is_layer:
            return None
        if not blob.damaged and self._is_readable(digest, blob, first_byte):
            return blob.size
        with self._index.lock:
            current = self._index.blobs.get(digest)
            if current is not blob:
                # It was removed or replaced in the meantime.
                return current.size if current and current.is_layer else None
            self._removal.remove_blob(digest, DAMAGED)
        return None

    def expected_size(self, digest: str) -> int | None:
        """Return the size of a blob according to the stored manifests, or None if they disagree or say nothing."""
        with self._index.lock:
            return self._index.expected_size(digest)

    def resolve_tag(self, repository: str, tag: str) -> str | None:
        """Return the digest that a tag points to."""
        with self._index.lock:
            return self._index.tags.get((repository, tag))

    def read_manifest(self, repository: str, digest: str) -> bytes | None:
        """Return a manifest, whichever repository it was fetched for.

        It is linked in this one if a manifest that is stored there names it.

        Raises:
            ValueError: The repository's name or the digest is not valid.
            OSError: Too many files are open, or there is a similar lack.
        """
        check_names(repository)
        with self._index.lock:
            blob = self._index.blobs.get(digest)
            if blob is None or not blob.revisions:
                return None
            link = Link(REVISION, repository)
            is_due = not self._links_need_proof and self._index.may_link(digest, link)
        content = self._read_verified(digest, blob)
        if content is not None and is_due:
            self._writer.add_link_if_possible(digest, link)
        return content

    def repositories_of(self, digest: str) -> frozenset[str]:
        """Return the repositories that have a link to a blob or manifest."""
        with self._index.lock:
            blob = self._index.blobs.get(digest)
            return frozenset() if blob is None else frozenset(link.repository for link in blob.links)

    def verify_blob(self, digest: str, *, anew: bool = False) -> bool:
        """Compare a blob with its digest, discard it if it is wrong or unreadable, and return whether it is right.

        A blob that was compared since the start, on arrival or here, is not read again unless `anew` is set.

        Raises:
            OSError: Too many files are open, or there is a similar lack.
        """
        with self._index.lock:
            blob = self._index.blobs.get(digest)
            if blob is None or blob.damaged:
                return False
            if blob.verified and not anew:
                return True
        try:
            with self.blob_path(digest).open("rb") as file:
                right = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" == digest
        except OSError as error:
            if error.errno in RESOURCE_ERRORS:
                raise
            right = False
        return self._record_verified(digest, blob, right=right)

    def statistics(self) -> Statistics:
        """Return the state of the store."""
        index, free = self._index, 0
        with index.lock:
            with self._files.recording_errors(self._layout.root):
                free = self._room.free_bytes()
            return Statistics(
                stored_bytes=index.stored_bytes,
                blobs=len(index.blobs),
                manifests=sum(blob.revisions > 0 for blob in index.blobs.values()),
                tags=len(index.tags),
                usable_bytes=self._room.usable_bytes(free),
                free_bytes=free,
                least_recent_use=min((blob.last_use for blob in index.blobs.values()), default=None),
                removed=self._removal.removed.copy(),
                refetched_bytes=self._removal.refetched_bytes,
                inaccessible_files=len(self.inaccessible),
                high_water=self._room.high_water,
            )

    def _is_readable(self, digest: str, blob: Blob, first_byte: int) -> bool:
        try:
            with self.blob_path(digest).open("rb", buffering=0) as file:
                os.pread(file.fileno(), 1, first_byte)
                return os.fstat(file.fileno()).st_size == blob.size
        except FileNotFoundError:
            return False
        except OSError as error:
            return error.errno in RESOURCE_ERRORS

    def _read_verified(self, digest: str, blob: Blob) -> bytes | None:
        """Return the content of a small blob, or discard it if it is wrong."""
        try:
            content = self.blob_path(digest).read_bytes()
        except OSError as error:
            if error.errno in RESOURCE_ERRORS:
                raise
            content = b""
        return content if self._record_verified(digest, blob, right=digest_of(content) == digest) else None

    def _record_verified(self, digest: str, blob: Blob, *, right: bool) -> bool:
        """Record whether the content of a blob is right, discard it if not, and return the same."""
        with self._index.lock:
            if self._index.blobs.get(digest) is blob:
                blob.verified = right
                if not right:
                    self._removal.remove_blob(digest, DAMAGED)
        return right

    def missing_layers(self, digest: str) -> dict[str, int]:
        """Return the layers of a stored manifest that are not stored, with their sizes, in its order."""
        with self._index.lock:
            return self._index.missing_layers(digest)

    # Writing

    def mark_used(self, repository: str, digest: str) -> None:
        """Record that a blob is used now, in a repository: its time to live begins anew.

        A layer is linked there if a manifest names it that is stored there. So nobody fills the volume with links by
        requests for repositories that do not exist. With a manifest, all that it refers to is used, since a node that
        has the layers asks for the manifest only.

        Raises:
            ValueError: The repository's name or the digest is not valid.
        """
        check_names(repository)
        now = self._now()
        with self._index.lock:
            blob = self._index.blobs.get(digest)
            if blob is None:
                return
            link = Link(LAYER, repository)
            is_due = not self._links_need_proof and blob.is_layer and self._index.may_link(digest, link)
            due = []
            for name, used in self._find_used(digest, blob, now):
                used.last_use = now
                if abs(now - used.last_use_on_disk) >= LAST_USE_INTERVAL_SECONDS:
                    used.last_use_on_disk = now
                    due.append(name)
        for name in due:
            # A blob that was removed in the meantime does not need it.
            with self._files.recording_errors(name), suppress(FileNotFoundError):
                os.utime(self.blob_path(name), (now, now))
                self.inaccessible.pop(name, None)
        if is_due:
            self._writer.add_link_if_possible(digest, link)

    def link_layer(self, repository: str, digest: str) -> None:
        """Link a stored blob in a repository in which the upstream has it.

        Raises:
            ValueError: The repository's name is not valid.
        """
        check_names(repository)
        link = Link(LAYER, repository)
        with self._index.lock:
            blob = self._index.blobs.get(digest)
            is_due = blob is not None and blob.is_layer and link not in blob.links and len(blob.links) < MAX_LINKS
        if is_due:
            self._writer.add_link_if_possible(digest, link)

    def _find_used(self, digest: str, blob: Blob, now: float) -> Iterable[tuple[str, Blob]]:
        """Return what is used with a blob; what a manifest refers to seldom enough that many requests cost nothing."""
        if not blob.references or abs(now - blob.references_used) < REFERENCES_INTERVAL_SECONDS:
            return [(digest, blob)]
        blob.references_used = now
        return self._index.walk_references(digest)

    def begin_blob(self, digest: str, size: int | None) -> IncomingBlob:
        """Begin to write a blob, and reserve room for it; the least recently used content is evicted as it grows.

        If the size is unknown, room is also reserved as the blob grows.

        Raises:
            ValueError: The digest is not valid.
            NoRoom: The volume cannot hold the blob. Nothing was evicted if that was clear from the start.
            OSError: The disk reported another error.
        """
        return self._writer.begin_blob(digest, size)

    def interrupted_size(self, digest: str) -> int:
        """Return how many of the first bytes of a blob are left of an earlier fetch, from where the next one resumes.

        `begin_blob` returns them as `IncomingBlob.recorded`.
        """
        with self._index.lock:
            blob = self._index.interrupted.get(digest)
            return 0 if blob is None else blob.size

    def record_incoming_blobs(self) -> None:
        """Record how far large incoming blobs are, so that the next fetches resume there if the program is killed."""
        self._writer.record_incoming_blobs()

    def put_manifest(self, repository: str, content: bytes, tag: str | None = None) -> str:
        """Store a manifest in a repository, let a tag point to it, and return its digest.

        Raises:
            ValueError: The repository's name or the tag is not valid.
            NoRoom: The volume cannot hold the manifest.
            OSError: The disk reported another error.
        """
        check_names(repository, tag)
        digest, links = digest_of(content), manifest_links(repository, tag)
        references = call_apart(read_references, content)
        with self._index.lock:
            blob = self._index.blobs.get(digest)
        if blob is not None and self._read_verified(digest, blob) is not None:
            # It may be removed in the meantime.
            with suppress(FileNotFoundError):
                self._writer.add_links(digest, links, references)
                self.mark_used(repository, digest)
                return digest
        incoming = self.begin_blob(digest, len(content))
        try:
            incoming.write(content)
        except BaseException:
            incoming.abandon()
            raise
        self._writer.commit_blob(incoming, links, references)
        return digest

    def set_tag(self, repository: str, tag: str, digest: str) -> None:
        """Let a tag point to a manifest that is stored.

        Raises:
            ValueError: The repository's name, the tag or the digest is not valid.
            NoRoom: The volume cannot hold the tag.
            OSError: The manifest is not stored, or the disk reported another error.
        """
        check_names(repository, tag)
        check_digest(digest)
        with self._index.lock:
            blob = self._index.blobs.get(digest)
            if blob is None or not blob.revisions:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), digest)
        self._writer.add_links(digest, manifest_links(repository, tag))

    # Removing

    def remove_tag(self, repository: str, tag: str) -> None:
        """Remove a tag, if it is stored; its manifest stays.

        Raises:
            ValueError: The repository's name or the tag is not valid.
            OSError: The disk reported an error.
        """
        check_names(repository, tag)
        with self._index.lock:
            if (repository, tag) in self._index.tags:
                self._removal.remove_tag(repository, tag)

    def expire(self, ttl: float) -> list[str]:
        """Remove what was not used for more than `ttl` seconds, and return the digests; 0 keeps everything.

        Interrupted blobs are removed after a day at the latest. Time that the program did not see pass does not count,
        or a clock that jumps would empty the cache.
        """
        now = self._now()
        unseen = self._unseen.take(now)
        if ttl > 0 and unseen > min(MAX_UNSEEN_SECONDS, ttl * MAX_UNSEEN_SHARE):
            self._removal.postpone(unseen, now)
        self._unseen.record(now)
        self._removal.expire_interrupted(min(ttl, MAX_AGE_SECONDS) if ttl > 0 else MAX_AGE_SECONDS, now)
        return self._removal.expire(ttl, now) if ttl > 0 else []

    def evict_above_high_water(self) -> list[str]:
        """Evict in advance, so that the next blobs find room at once, and return the digests."""
        return self._room.evict_above_high_water()

    def set_limits(self, capacity: int, high_water: float) -> bool:
        """Change the limits that the constructor set, and return whether they are different."""
        return self._room.set_limits(capacity, high_water)

    def check_room(self, size: int) -> None:
        """Check whether a blob would find room if everything else was evicted.

        Raises:
            NoRoom: It would not.
            OSError: The disk does not say how full it is.
        """
        self._room.check_room(size)
