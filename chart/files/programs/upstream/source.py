"""What manifests and blobs can be fetched from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from upstream.client import Answer
    from upstream.reference import Reference
    from upstream.urls import Url


class Source(Protocol):
    """The upstream, another replica, or a choice between them."""

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
        """Request a manifest or a blob, as `Client.open` does."""
