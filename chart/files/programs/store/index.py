"""The index: blobs with their links and last use, tags, and references of manifests, all in memory.

This module does no I/O and takes no lock: callers hold `Index.lock` while they use an index.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from store.layout import LAYER, REVISION, TAG_CURRENT, TAG_INDEX, Link
from store.references import References, pack_references, unpack_references

if TYPE_CHECKING:
    from collections.abc import Iterator

# With a manifest, this many of the blobs are used that it names directly or through other manifests. A large image for
# thirty platforms has about a thousand.
MAX_USED_BLOBS = 2000
# Links to a blob, which are the repositories and tags that have it. Without a link, the gate serves it anyway.
MAX_LINKS = 1000


@dataclass(slots=True, eq=False)
class Blob:
    """A blob that is stored; times are seconds since the epoch."""

    size: int
    disk_bytes: int
    """Bytes that its file takes on the disk."""
    last_use: float
    last_use_on_disk: float
    """The modification time of its file."""
    links: tuple[Link, ...] = ()
    """All links to it, except those of kind `TAG_CURRENT`, which are in `Index.tags`."""
    revisions: int = 0
    """How many of its links make it a manifest of a repository."""
    references: bytes = b""
    """The digests and sizes that it refers to, if it is a manifest (references.pack_references)."""
    references_used: float = float("-inf")
    """When all that it refers to was used last, if it is a manifest."""
    verified: bool = False
    """Its content was compared with its digest since the program started."""
    damaged: bool = False
    """Its content is wrong, but it could not be removed."""

    @property
    def is_layer(self) -> bool:
        """Whether it was stored as a layer or config, or its kind is unknown because it has no link yet.

        What was stored as a manifest is not served as a blob, since clients would keep it under the wrong media type.
        """
        return not self.revisions or any(link.kind == LAYER for link in self.links)


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
        self.references = References()
        """The manifests that name a blob."""
        self.links_by_repository: Counter[str] = Counter()
        """How many links each repository has, except those of kind `TAG_CURRENT`."""
        # Equal links are one object, which takes less memory.
        self._shared_links: dict[Link, Link] = {}

    def clear(self) -> None:
        """Forget everything."""
        for each in (self.blobs, self.tags, self.interrupted, self.links_by_repository, self._shared_links):
            each.clear()
        self.references.clear()
        self.stored_bytes = 0

    def add_blob(self, digest: str, blob: Blob) -> None:
        """Add a blob, or replace it; a new blob takes over links and references."""
        if before := self.blobs.get(digest):
            self.stored_bytes -= before.disk_bytes
            blob.links, blob.revisions = before.links, before.revisions
            packed = before.references
            self.references.set(before, b"")
            self.references.set(blob, packed)
        self.blobs[digest] = blob
        self.stored_bytes += blob.disk_bytes

    def remove_blob(self, digest: str) -> None:
        """Remove a blob to which no link is left."""
        blob = self.blobs.pop(digest)
        self.references.set(blob, b"")
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
            blob.links += (self._shared_links.setdefault(link, link),)
            blob.revisions += link.kind == REVISION
            self.links_by_repository[link.repository] += 1

    def remove_link(self, blob: Blob, link: Link) -> None:
        """Remove a link to a blob. Without its last revision, a blob is no longer a manifest."""
        blob.links = tuple(each for each in blob.links if each != link)
        self.links_by_repository[link.repository] -= 1
        if not self.links_by_repository[link.repository]:
            del self.links_by_repository[link.repository]
        if link.kind not in (LAYER, REVISION) or link.repository not in self.links_by_repository:
            self._shared_links.pop(link, None)
        if link.kind == REVISION:
            blob.revisions -= 1
            if not blob.revisions:
                self.references.set(blob, b"")

    def set_references(self, blob: Blob, references: dict[str, int]) -> None:
        """Set the digests and sizes that a manifest refers to."""
        self.references.set(blob, pack_references(references))
        self.references.forget_most(self.blobs.values)

    def missing_layers(self, manifest: str) -> dict[str, int]:
        """Return the layers of a stored manifest that are not stored, with their sizes, in its order."""
        blob = self.blobs.get(manifest)
        # The config comes last.
        layers = [] if blob is None else list(unpack_references(blob.references))[:-1]
        return {digest: size for digest, size in layers if digest not in self.blobs}

    def walk_references(self, digest: str) -> Iterator[tuple[str, Blob]]:
        """Yield a blob and the stored blobs that it refers to, directly first; `MAX_USED_BLOBS` at most."""
        seen = {digest}
        following = deque([digest])
        while following and len(seen) <= MAX_USED_BLOBS:
            name = following.popleft()
            if blob := self.blobs.get(name):
                yield name, blob
                for referred, _ in unpack_references(blob.references):
                    if referred not in seen and len(seen) <= MAX_USED_BLOBS:
                        seen.add(referred)
                        following.append(referred)
        yield from ((name, blob) for name in following if (blob := self.blobs.get(name)))

    def expected_size(self, digest: str) -> int | None:
        """Return the size of a blob according to the stored manifests, or None if they disagree or say nothing."""
        sizes = self.stated_sizes(digest)
        return sizes.pop() if len(sizes) == 1 else None

    def stated_sizes(self, digest: str) -> set[int]:
        """Return the sizes of a blob that the stored manifests state."""
        return {size for _, size in self.references.find_manifests(digest)}

    def count_inodes(self, blob: Blob) -> int:
        """Return about how many inodes a blob takes with its links; links share the folders of their repository."""
        # A blob is a file in a folder, and so is a link, which has one or three folders above it for its kind.
        inodes = 3.0
        for link in blob.links:
            folders = link.repository.count("/") + 3
            inodes += (6 if link.kind == TAG_INDEX else 2) + folders / self.links_by_repository[link.repository]
        return round(inodes)

    def may_link(self, digest: str, link: Link) -> bool:
        """Return whether a blob may get a link for which nothing was fetched: a manifest of the repository names it."""
        blob = self.blobs[digest]
        if link in blob.links or len(blob.links) >= MAX_LINKS:
            return False
        revision = Link(REVISION, link.repository)
        return any(revision in manifest.links for manifest, _ in self.references.find_manifests(digest))
