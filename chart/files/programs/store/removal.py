"""Removal of content, from the end where readers begin, so that no reader follows a link to nothing.

First the tags that point to a blob are removed, then its links, then the blob. The index follows each step, so that it
still equals the disk if one of them fails.
"""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

from store.files import is_open
from store.layout import LAYER, REVISION, TAG_CURRENT, TAG_INDEX, Link

if TYPE_CHECKING:
    from store.files import Files
    from store.index import Blob, Index

# Why a blob is removed.
EXPIRED, EVICTED, DAMAGED = "expired", "evicted", "damaged"

REMOVAL_ORDER = (TAG_INDEX, REVISION, LAYER)
# The latest evicted blobs, remembered to tell when they are fetched again.
MAX_REMEMBERED_BLOBS = 10_000


class Removal:
    """Removes blobs and tags, and counts removed blobs. Callers hold `Index.lock`, except where noted."""

    def __init__(self, index: Index, files: Files) -> None:
        """Remove from `files` what `index` knows."""
        self._index = index
        self._files = files
        self._evicted: dict[str, None] = {}
        self.removed: Counter[str] = Counter()
        """How many blobs were removed since the start, by reason."""
        self.refetched_bytes = 0
        """Bytes that were stored again since the start, after they had been evicted."""

    def remove_unused(self, digest: str, blob: Blob, last_use: float, *, reason: str) -> bool:
        """Take the lock, remove a blob unless it was used after `last_use`, and return whether it was removed.

        A blob that somebody reads is used, and is not evicted.
        """
        with self._index.lock:
            if self._index.interrupted.get(digest) is blob:
                return self.remove_interrupted(digest)
            unused = self._index.blobs.get(digest) is blob and blob.last_use == last_use
            if unused and reason == EVICTED and self.is_read(digest):
                return False
            return unused and self.remove_blob(digest, reason)

    def is_read(self, digest: str) -> bool:
        """Return whether somebody reads a blob, which needs no lock."""
        return is_open(self._files.layout.blob_path(digest))

    def remove_blob(self, digest: str, reason: str) -> bool:
        """Remove a blob with all links to it, and return whether that succeeded."""
        blob = self._index.blobs[digest]
        try:
            self._remove_links(digest, blob)
            self._files.remove(self._files.layout.blob_path(digest))
        except OSError as error:
            self._files.inaccessible[digest] = error
            blob.damaged = blob.damaged or reason == DAMAGED
            return False
        self._index.remove_blob(digest)
        self._files.inaccessible.pop(digest, None)
        self.removed[reason] += 1
        if reason == EVICTED:
            self._evicted[digest] = None
            if len(self._evicted) > MAX_REMEMBERED_BLOBS:
                del self._evicted[next(iter(self._evicted))]
        return True

    def remove_interrupted(self, digest: str) -> bool:
        """Remove an interrupted blob, and return whether that succeeded."""
        path = self._files.layout.interrupted_path(digest, self._index.interrupted[digest].size)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self._files.inaccessible[str(path)] = error
            return False
        self._index.remove_interrupted(digest)
        return True

    def expire(self, ttl: float, now: float) -> list[str]:
        """Remove the blobs that were not used for more than `ttl` seconds, and return their digests."""
        with self._index.lock:
            blobs = list(self._index.blobs.items())
            for _, blob in blobs:
                # A last use in the future means that the clock was set back.
                blob.last_use = min(blob.last_use, now)
            old = [(digest, blob, blob.last_use) for digest, blob in blobs if now - blob.last_use > ttl]
        return [each[0] for each in old if self.remove_unused(*each, reason=EXPIRED)]

    def postpone(self, seconds: float, now: float) -> None:
        """Take the lock, and count everything as used that much later, up to now, in the index and on the disk."""
        layout = self._files.layout
        with self._index.lock:
            changed = []
            for digest, blob in [*self._index.blobs.items(), *self._index.interrupted.items()]:
                blob.last_use = blob.last_use_on_disk = min(now, blob.last_use + seconds)
                is_interrupted = self._index.interrupted.get(digest) is blob
                path = layout.interrupted_path(digest, blob.size) if is_interrupted else layout.blob_path(digest)
                changed.append((path, blob.last_use))
        for path, last_use in changed:
            with self._files.recording_errors(path), suppress(FileNotFoundError):
                os.utime(path, (last_use, last_use))

    def expire_interrupted(self, ttl: float, now: float) -> None:
        """Remove the interrupted blobs that no fetch resumed for more than `ttl` seconds."""
        with self._index.lock:
            for digest, blob in list(self._index.interrupted.items()):
                if now - blob.last_use > ttl:
                    self.remove_interrupted(digest)

    def remove_tag(self, repository: str, tag: str) -> None:
        """Remove a tag, and all links to the manifests that it pointed to before.

        Raises:
            OSError: The disk reported an error; a part may be removed.
        """
        self._files.remove(self._files.layout.link_path(Link(TAG_CURRENT, repository, tag)))
        self._index.tags.pop((repository, tag), None)
        link = Link(TAG_INDEX, repository, tag)
        for digest, blob in self._index.blobs.items():
            if link in blob.links:
                self._remove_link(digest, blob, link)

    def count_stored(self, digest: str, size: int) -> None:
        """Count a blob that was stored, if it had been evicted before."""
        if digest in self._evicted:
            del self._evicted[digest]
            self.refetched_bytes += size

    def _remove_links(self, digest: str, blob: Blob) -> None:
        for link in sorted(blob.links, key=lambda link: (REMOVAL_ORDER.index(link.kind), link)):
            if link.kind == TAG_INDEX and self._index.tags.get((link.repository, link.tag)) == digest:
                self.remove_tag(link.repository, link.tag)
            else:
                self._remove_link(digest, blob, link)

    def _remove_link(self, digest: str, blob: Blob, link: Link) -> None:
        self._files.remove(self._files.layout.link_path(link, digest))
        self._index.remove_link(blob, link)
