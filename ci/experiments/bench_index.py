"""The part of `make bench` that measures how much memory the gate needs for each blob on its volume."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import tempfile
from pathlib import Path

from machine.usage import resident_mib
from store.store import Store

BLOBS = 50_000
REPOSITORIES = 500
VOLUME_BYTES = 1 << 30
# The index has no content, so files in memory make no difference, and they come sooner.
FOLDER = "/dev/shm"


def bench_index() -> None:
    """Store blobs, read the volume anew in another process, and print what its index needs for each of them."""
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        store = Store(Path(folder), VOLUME_BYTES)
        store.load()
        for number in range(BLOBS):
            content = str(number).encode()
            blob = store.begin_blob(f"sha256:{hashlib.sha256(content).hexdigest()}", len(content))
            blob.write(content)
            blob.commit(f"library/image-{number % REPOSITORIES}")
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            mebibytes = pool.apply(load, (folder,))
    each = mebibytes * (1 << 20) / BLOBS
    print(f"{BLOBS:,} blobs in {REPOSITORIES} repositories: {each:.0f} bytes of resident memory for each blob")


def load(folder: str) -> float:
    """Read a volume, and return by how many MiB the resident memory of this process grew."""
    before = resident_mib([os.getpid()])
    store = Store(Path(folder), VOLUME_BYTES)
    store.load()
    return resident_mib([os.getpid()]) - before
