"""Fetches layers before a node requests them, so that the node does not wait for the delay of the line each time.

A node that got the manifest of an image requests the layers that it does not have, a few at a time. Which ones it has,
the cache cannot know. By default, the layers that come next are fetched only for a node that has requested two
successive ones that were not on the volume, and only their beginnings until the node requests them.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fetching.threads import start_thread
from upstream.errors import Unavailable
from upstream.reference import BLOB, Reference

from gate.media_types import DOCKER_MANIFEST, OCI_MANIFEST

if TYPE_CHECKING:
    from collections.abc import Callable

    from fetching.fetches import Fetches
    from store.store import Store

    from gate.manifests import Manifest

# The values of `fetchAhead`.
NEVER = "Never"
ADAPTIVE = "Adaptive"
ALWAYS = "Always"
MODES = (NEVER, ADAPTIVE, ALWAYS)
# If the upstream begins to send a blob sooner, nothing is gained by a request ahead, and what it brings takes the line
# from the layers that a node waits for: with 1 Gbit/s and no delay, an image of ten layers of 20 MiB took 0.2 s longer.
NEAR_SECONDS = 0.01
# As many as containerd requests at once (docs/cri/config.md, max_concurrent_downloads).
LAYERS = 3
# How many images are remembered, and for how long after their manifests were sent.
MAX_IMAGES = 256
IMAGE_SECONDS = 600.0


@dataclass
class _Image:
    """An image that a node may be pulling."""

    repository: str
    positions: dict[str, int]
    """The layers that were not on the volume, in the order of the manifest."""
    sent_at: float
    requested: set[int] = field(default_factory=set)
    started: set[int] = field(default_factory=set)


class Ahead:
    """Decides which layers to fetch ahead."""

    def __init__(
        self,
        mode: str,
        store: Store,
        fetches: Fetches,
        prepare: Callable[[int], None],
        find_wait: Callable[[], float],
    ) -> None:
        """Use one of `MODES`.

        `prepare` opens a number of connections to the upstream, so that they are ready. `find_wait` returns how many
        seconds the upstream takes to begin to send a blob.
        """
        self._mode = mode
        self._find_wait = find_wait
        self._store = store
        self._fetches = fetches
        self._prepare = prepare
        self._lock = threading.Lock()
        self._images: dict[str, _Image] = {}

    def note_manifest(self, repository: str, manifest: Manifest) -> None:
        """Take note that a node gets a manifest."""
        if self._mode == NEVER or manifest.media_type not in (OCI_MANIFEST, DOCKER_MANIFEST):
            return
        missing = self._store.missing_layers(manifest.digest)
        if not missing:
            return
        now = time.monotonic()
        with self._lock:
            images = {key: image for key, image in self._images.items() if now - image.sent_at < IMAGE_SECONDS}
            image = images.pop(manifest.digest, None)
            if image is None or image.positions.keys() != missing.keys():
                image = _Image(repository, {digest: position for position, digest in enumerate(missing)}, now)
            while len(images) >= MAX_IMAGES:
                del images[next(iter(images))]
            image.sent_at = now
            self._images = {**images, manifest.digest: image}
            following = self._choose(image)
        self._prepare_connections(min(LAYERS, len(missing)))
        self._fetch(image, following)

    def note_blob(self, digest: str) -> None:
        """Take note that a node requests a blob that is not on the volume."""
        chosen = []
        with self._lock:
            for image in self._images.values():
                if digest in image.positions:
                    image.requested.add(image.positions[digest])
                    chosen.append((image, self._choose(image)))
        for image, following in chosen:
            self._fetch(image, following)

    def _choose(self, image: _Image) -> list[str]:
        """Return the layers to fetch now, which come after the last one that was requested."""
        last = max(image.requested, default=-1)
        if self._mode == ADAPTIVE and (not {last - 1, last} <= image.requested or self._find_wait() < NEAR_SECONDS):
            return []
        following = [
            digest
            for digest, position in image.positions.items()
            if last < position <= last + LAYERS and position not in image.started
        ]
        image.started.update(image.positions[digest] for digest in following)
        return following

    def _fetch(self, image: _Image, digests: list[str]) -> None:
        for digest in digests:
            if self._store.find_blob(digest) is None:
                self._fetches.start_ahead(Reference(BLOB, image.repository, digest))

    def _prepare_connections(self, count: int) -> None:
        """Open connections side by side; each thread opens what is still missing."""
        with suppress(Unavailable):  # a thread that cannot be had would only have saved time
            for _ in range(count):
                start_thread(self._prepare, count)
