"""The index: blobs with their links and last use, tags, and references of manifests, all in memory.

This module does no I/O and takes no lock: callers hold `Index.lock` while they use an index.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from store.layout import LAYER, REVISION, TAG_CURRENT, TAG_INDEX, Link

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(slots=True, eq=False)
class Blob:
    """A blob that is stored; times are seconds since the epoch."""

    size: int
    disk_bytes: int
    """Bytes that its file takes on the disk."""
    last_use: float
    last_use_on_disk: float
    """The modification time of its file."""
    links: set[Link] = field(default_factory=set)
    """All links to it, except those of kind `TAG_CURRENT`, which are in `Index.tags`."""
    revisions: int = 0
    """How many of its links make it a manifest of a repository."""
    references: dict[str, int] = field(default_factory=dict)
    """The digests and sizes that it refers to, if it is a manifest."""
    verified: bool = False
    """Its content was compared with its digest since the program started."""
    damaged: bool = False
    """Its content is wrong, but it could not be removed."""

    def link_in(self, repository: str) -> Link:
        """Return the link that lets the blob be read from a repository."""
        return Link(REVISION if self.revisions else LAYER, repository)


class Index:
    """Everything that is stored."""

    def __init__(self) -> None:
        """Start empty."""
        self.lock = threading.Lock()
        self.blobs: dict[str, Blob] = {}
        self.tags: dict[tuple[str, str], str] = {}
        """The digest that each tag of a repository points to."""
        self.interrupted: dict[str, Blob] = {}
        """The beginnings of blobs that the next fetches of them resume."""
        self.stored_bytes = 0
        """Bytes that all of that takes on the disk."""
        self.stated_sizes: dict[str, Counter[int]] = {}
        """For each digest that manifests refer to: the sizes that they state, and how many manifests state each."""

    def clear(self) -> None:
        """Forget everything."""
        for each in (self.blobs, self.tags, self.interrupted, self.stated_sizes):
            each.clear()
        self.stored_bytes = 0

    def add_blob(self, digest: str, blob: Blob) -> None:
        """Add a blob, or replace it; a new blob takes over links and references."""
        if before := self.blobs.get(digest):
            self.stored_bytes -= before.disk_bytes
            blob.links, blob.revisions, blob.references = before.links, before.revisions, before.references
        self.blobs[digest] = blob
        self.stored_bytes += blob.disk_bytes

    def remove_blob(self, digest: str) -> None:
        """Remove a blob to which no link is left."""
        blob = self.blobs.pop(digest)
        self.set_references(blob, {})
        self.stored_bytes -= blob.disk_bytes

    def add_interrupted(self, digest: str, blob: Blob) -> None:
        """Add an interrupted blob."""
        self.interrupted[digest] = blob
        self.stored_bytes += blob.disk_bytes

    def remove_interrupted(self, digest: str) -> None:
        """Remove an interrupted blob."""
        self.stored_bytes -= self.interrupted.pop(digest).disk_bytes

    def has_link(self, digest: str, link: Link) -> bool:
        """Return whether a link leads to a blob."""
        if link.kind == TAG_CURRENT:
            return self.tags.get((link.repository, link.tag)) == digest
        blob = self.blobs.get(digest)
        return blob is not None and link in blob.links

    def add_link(self, digest: str, link: Link) -> None:
        """Add a link to a blob."""
        if link.kind == TAG_CURRENT:
            self.tags[link.repository, link.tag] = digest
            link = link._replace(kind=TAG_INDEX)
        blob = self.blobs[digest]
        if link not in blob.links:
            blob.links.add(link)
            blob.revisions += link.kind == REVISION

    def remove_link(self, blob: Blob, link: Link) -> None:
        """Remove a link to a blob. Without its last revision, a blob is no longer a manifest."""
        blob.links.remove(link)
        if link.kind == REVISION:
            blob.revisions -= 1
            if not blob.revisions:
                self.set_references(blob, {})

    def set_references(self, blob: Blob, references: dict[str, int]) -> None:
        """Set the digests and sizes that a manifest refers to."""
        for digest, size in blob.references.items():
            sizes = self.stated_sizes[digest]
            sizes[size] -= 1
            if not sizes[size]:
                del sizes[size]
            if not sizes:
                del self.stated_sizes[digest]
        blob.references = references
        for digest, size in references.items():
            self.stated_sizes.setdefault(digest, Counter())[size] += 1

    def missing_layers(self, manifest: str) -> dict[str, int]:
        """Return the layers of a stored manifest that are not stored, with their sizes, in its order."""
        blob = self.blobs.get(manifest)
        # The config comes last.
        layers = [] if blob is None else list(blob.references.items())[:-1]
        return {digest: size for digest, size in layers if digest not in self.blobs}

    def walk_references(self, digest: str) -> Iterator[tuple[str, Blob]]:
        """Yield a blob and all stored blobs that it refers to, directly or through other manifests."""
        seen = {digest}
        following = [digest]
        while following:
            name = following.pop()
            if blob := self.blobs.get(name):
                yield name, blob
                if blob.references:
                    following.extend(blob.references.keys() - seen)
                    seen.update(blob.references)

    def expected_size(self, digest: str) -> int | None:
        """Return the size of a blob according to the stored manifests, or None if they disagree or say nothing."""
        sizes = self.stated_sizes.get(digest, ())
        return next(iter(sizes)) if len(sizes) == 1 else None
