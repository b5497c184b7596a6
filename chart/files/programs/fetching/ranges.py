"""Fetches short ranges of blobs that are not stored, without storing them.

Snapshotters that pull lazily request small ranges of large blobs, and processes wait for each of them. A range is
complete before the first byte of it is sent, so it never breaks off. Nobody can compare it with the digest of the blob;
these clients compare it with digests of their own, as they do with ranges from the upstream.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from upstream.errors import Kind, Unavailable

from fetching.fair_slots import FairSlots, Overloaded
from fetching.pieces import CHUNK_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from upstream.client import Answer
    from upstream.reference import Reference
    from upstream.source import Source

# The longest range that is held in memory, and how many are at once.
MAX_RANGE_BYTES = 4 << 20
MAX_CONCURRENT_RANGES = 8
# How long the upstream may take for the head of an answer, and for all of a range: the front waits 14 s.
HEAD_TIMEOUT_SECONDS = 10.0
RANGE_SECONDS = 12.0
# How often the rest is requested after a connection broke.
MAX_RESPONSES = 3


class BlobRange(NamedTuple):
    """A part of a blob."""

    content: bytearray
    blob_size: int | None
    """The size of the whole blob, or None if the upstream does not say it."""


class Ranges:
    """The ranges that are being fetched."""

    def __init__(self, source: Source) -> None:
        """Fetch from `source`."""
        self._source = source
        self._slots = FairSlots(MAX_CONCURRENT_RANGES)

    @contextmanager
    def fetching(self, reference: Reference, first_byte: int, last_byte: int, client: str) -> Iterator[BlobRange]:
        """Fetch a range of `MAX_RANGE_BYTES` at most, and yield it; it counts as held until the context is left.

        Raises:
            Overloaded: Too many ranges are held.
            Unavailable, NotFound, Denied: The upstream does not send it.
        """
        if not self._slots.take(client):
            message = "too many ranges are being fetched"
            raise Overloaded(message)
        try:
            yield self._fetch(reference, first_byte, last_byte)
        finally:
            self._slots.release(client)

    def _fetch(self, reference: Reference, first_byte: int, last_byte: int) -> BlobRange:
        content = bytearray()
        deadline = time.monotonic() + RANGE_SECONDS
        for is_last in (False,) * (MAX_RESPONSES - 1) + (True,):
            offset = first_byte + len(content)
            timeout = min(HEAD_TIMEOUT_SECONDS, max(1.0, deadline - time.monotonic()))
            with self._source.open("GET", reference, offset=offset, last_byte=last_byte, timeout=timeout) as answer:
                try:
                    _append(answer, offset, last_byte, content, deadline)
                except Unavailable as problem:
                    if problem.kind != Kind.CUT or is_last:
                        raise
                else:
                    break
        return BlobRange(content, answer.total_size)


def _append(answer: Answer, offset: int, last_byte: int, content: bytearray, deadline: float) -> None:
    """Append the bytes of a range from `offset` on.

    Raises:
        Unavailable: The answer has another range, takes too long or breaks off.
    """
    if answer.offset != offset:
        message = "the upstream does not send ranges"
        raise Unavailable(Kind.MALFORMED, message)
    wanted = last_byte + 1 - offset if answer.length is None else min(last_byte + 1 - offset, answer.length)
    while wanted > 0 and (chunk := answer.read(min(CHUNK_BYTES, wanted))):
        content += memoryview(chunk)[:wanted]
        wanted -= len(chunk)
        if time.monotonic() > deadline:
            message = f"a range did not come within {RANGE_SECONDS:.0f} s"
            raise Unavailable(Kind.TIMEOUT, message)
