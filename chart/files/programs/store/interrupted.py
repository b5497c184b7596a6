"""Interrupted blobs: the beginnings of large blobs whose fetch ended too early, kept for the next fetch of them.

The name of the file tells the digest, and how many of the first bytes have reached the disk. It is changed by a rename
each time that the file was flushed (`IncomingBlob.record`), and the rename itself is not flushed: after a crash of the
node, the disk has either name, and both are right. The content is read and compared with the digest by that next fetch.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from store.files import disk_bytes
from store.index import Blob

if TYPE_CHECKING:
    from pathlib import Path

    from store.index import Index

# An interrupted blob is removed if no fetch resumed it for this long.
MAX_AGE_SECONDS = 24 * 3600.0


def keep_interrupted(index: Index, digest: str, path: Path, size: int, now: float) -> None:
    """Keep the first `size` bytes of a file that nobody writes to, or remove it if it is of no use.

    The caller holds the lock of the index.

    Raises:
        OSError: The disk reported an error.
    """
    status = path.stat()
    if status.st_size < size or digest in index.blobs or digest in index.interrupted:
        path.unlink()
        return
    last_use = min(status.st_mtime, now)
    os.truncate(path, size)
    os.utime(path, (last_use, last_use))
    index.add_interrupted(digest, Blob(size, disk_bytes(path.stat()), last_use, last_use))
