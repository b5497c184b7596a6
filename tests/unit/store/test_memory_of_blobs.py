"""The memory that the store takes for each blob: docs/threat-model.md says how many blobs fit."""

from __future__ import annotations

import tracemalloc

from store.index import Blob, Index
from store.layout import LAYER, Link

BLOBS = 5000
MAX_BYTES = 1000


def test_stored_blob_takes_less_than_a_kilobyte_of_memory() -> None:
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    index = Index()
    for number in range(BLOBS):
        digest = f"sha256:{number:064x}"
        index.add_blob(digest, Blob(size=10_000, disk_bytes=12_288, last_use=number / 7, last_use_on_disk=number / 9))
        index.add_link(digest, Link(LAYER, f"team-{number % 100}/image-{number}"))
    taken = (tracemalloc.get_traced_memory()[0] - before) / BLOBS
    tracemalloc.stop()
    print(f"{taken:.0f} bytes for each blob")
    assert taken < MAX_BYTES
