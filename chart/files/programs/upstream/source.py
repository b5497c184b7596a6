"""What manifests and blobs can be fetched from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypedDict, Unpack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from upstream.client import Answer
    from upstream.credentials import PullerAuthorization
    from upstream.reference import Reference
    from upstream.urls import Url


class Options(TypedDict, total=False):
    """What a request can say besides what it is for; `Client.open` has the meanings and the defaults."""

    accept: Sequence[str]
    offset: int
    last_byte: int | None
    location: Url | None
    authorization: PullerAuthorization | None


class Source(Protocol):
    """The upstream, another replica, or a choice between them."""

    def open(self, method: str, reference: Reference, *, timeout: float, **options: Unpack[Options]) -> Answer:
        """Request a manifest or a blob, as `Client.open` does."""
