"""What manifests name: the digests and sizes of their configs, layers and manifests, kept compactly and bounded in all.

A manifest takes 40 bytes for each blob that it names, and each named blob an entry that leads to its manifests. If all
of that gets too much, the references of some manifests are forgotten: of those that name the most, and among equals of
those that were not used for longest. A manifest whose references are forgotten is served like any other one. Only what
it names is not used with it, and has no size before the upstream says so.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from store.index import Blob

# Blobs that all manifests name, a blob counted once for each manifest. Each takes 200 bytes at most.
MAX_NAMED_BLOBS = 200_000
# What is left after references were forgotten, so that this seldom happens.
LEFT_SHARE = 0.9
# Manifests that name about as many blobs as each other are equals when references are forgotten.
EQUAL_BLOBS = 128
PREFIX = "sha256:"

_ENTRY = struct.Struct(">32sQ")
_DIGEST_BYTES = 32


def pack_references(references: dict[str, int]) -> bytes:
    """Return digests and sizes in their compact form."""
    return b"".join(_ENTRY.pack(_digest_bytes(digest), size) for digest, size in references.items())


def unpack_references(packed: bytes) -> Iterator[tuple[str, int]]:
    """Yield the digests and sizes of `pack_references`, in their order."""
    for digest, size in _ENTRY.iter_unpack(packed):
        yield PREFIX + digest.hex(), size


class References:
    """Finds the manifests that name a blob."""

    def __init__(self) -> None:
        """Start without manifests."""
        self.count = 0
        """How many blobs are named, each counted once for each manifest."""
        # The first bytes of the digest of a named blob, and the manifest or manifests that name it.
        self._manifests: dict[int, Blob | list[Blob]] = {}

    def clear(self) -> None:
        """Forget everything."""
        self.count = 0
        self._manifests.clear()

    def set(self, manifest: Blob, packed: bytes) -> None:
        """Set the references of a manifest."""
        for key in _keys(manifest.references):
            self._remove(key, manifest)
        self.count += (len(packed) - len(manifest.references)) // _ENTRY.size
        manifest.references = packed
        for key in _keys(packed):
            self._add(key, manifest)

    def forget_most(self, blobs: Callable[[], Iterable[Blob]]) -> None:
        """Forget the references of some manifests among the blobs, if there are too many in all."""
        if self.count <= MAX_NAMED_BLOBS:
            return
        manifests = [blob for blob in blobs() if blob.references]
        manifests.sort(key=lambda blob: (-(len(blob.references) // _ENTRY.size // EQUAL_BLOBS), blob.last_use))
        for manifest in manifests:
            self.set(manifest, b"")
            if self.count <= MAX_NAMED_BLOBS * LEFT_SHARE:
                break

    def find_manifests(self, digest: str) -> Iterator[tuple[Blob, int]]:
        """Yield the manifests that name a blob, each with the size that it states."""
        name = _digest_bytes(digest)
        manifests = self._manifests.get(_key(name), ())
        for manifest in manifests if isinstance(manifests, (list, tuple)) else (manifests,):
            start = -1
            while (start := manifest.references.find(name, start + 1)) >= 0:
                if start % _ENTRY.size == 0:
                    yield manifest, _ENTRY.unpack_from(manifest.references, start)[1]
                    break

    def _add(self, key: int, manifest: Blob) -> None:
        before = self._manifests.get(key)
        if before is None:
            self._manifests[key] = manifest
        elif isinstance(before, list):
            before.append(manifest)
        else:
            self._manifests[key] = [before, manifest]

    def _remove(self, key: int, manifest: Blob) -> None:
        before = self._manifests[key]
        if not isinstance(before, list):
            del self._manifests[key]
            return
        before.remove(manifest)
        if len(before) == 1:
            self._manifests[key] = before[0]


def _digest_bytes(digest: str) -> bytes:
    return bytes.fromhex(digest.removeprefix(PREFIX))


def _key(digest: bytes) -> int:
    return int.from_bytes(digest[:8])


def _keys(packed: bytes) -> Iterator[int]:
    return (_key(packed[start : start + _DIGEST_BYTES]) for start in range(0, len(packed), _ENTRY.size))
