"""Two replicas of a cache, which together fetch everything from the upstream only once."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from upstream.errors import Denied, Unavailable
from upstream.reference import BLOB

if TYPE_CHECKING:
    from collections.abc import Sequence

    from upstream.client import Answer
    from upstream.reference import Reference
    from upstream.source import Source
    from upstream.urls import Url

# How long the other replica has for the head of its answer, or for its first byte if it has to fetch the blob itself.
BLOB_TIMEOUT_SECONDS = 12.0
# The same for a manifest, which leaves the rest of its time to the upstream.
MANIFEST_TIMEOUT_SECONDS = 4.0
# How long connecting to it may take. It is in the same cluster, and nobody answers for it if its node is lost.
CONNECT_TIMEOUT_SECONDS = 1.0


class ReplicaFirst:
    """Asks the other replica first for the half of all content that is its half, and the upstream for the rest."""

    def __init__(self, upstream: Source, replica: Source, ordinal: int) -> None:
        """`ordinal` is the number of this replica, 0 or 1."""
        self._upstream = upstream
        self._replica = replica
        self._ordinal = ordinal

    def open(  # noqa: PLR0913 - whatever a request can say
        self,
        method: str,
        reference: Reference,
        *,
        accept: Sequence[str] = (),
        offset: int = 0,
        last_byte: int | None = None,
        location: Url | None = None,
        timeout: float,
    ) -> Answer:
        """Request as `Client.open` does; the upstream is asked if the other replica is unavailable or refuses."""
        # The tag and the digest of a manifest have to belong to the same replica.
        is_blob = reference.kind == BLOB
        key = reference.path if is_blob else reference.repository
        if sha256(key.encode()).digest()[0] % 2 != self._ordinal:
            try:
                limit = min(timeout, BLOB_TIMEOUT_SECONDS if is_blob else MANIFEST_TIMEOUT_SECONDS)
                # A location is always one of the upstream, since replicas do not redirect.
                return self._replica.open(
                    method, reference, accept=accept, offset=offset, last_byte=last_byte, timeout=limit
                )
            except (Unavailable, Denied):
                pass
        return self._upstream.open(
            method,
            reference,
            accept=accept,
            offset=offset,
            last_byte=last_byte,
            location=location,
            timeout=timeout,
        )
