"""A source of manifests and blobs that a test controls."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from email.message import Message
from typing import TYPE_CHECKING, NamedTuple, Self

from upstream.errors import Kind, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from upstream.credentials import PullerAuthorization
    from upstream.reference import Reference


class Asked(NamedTuple):
    """One request."""

    method: str
    reference: Reference
    offset: int
    last_byte: int | None = None
    location: object = None
    authorization: PullerAuthorization | None = None


@dataclass
class MadeAnswer:
    """What upstream.client.Answer has. The body comes in one piece for each entry of `body`.

    An exception among them is raised, an event among them is waited for.
    """

    body: list[bytes | Exception | threading.Event]
    length: int | None = None
    offset: int = 0
    headers: Message = field(default_factory=Message)
    location: object = "where the blob is"
    total_size: int | None = None

    def close(self) -> None:
        self.body.clear()

    def read(self, _size: int) -> bytes:
        while self.body:
            part = self.body.pop(0)
            if isinstance(part, bytes):
                return part
            if isinstance(part, Exception):
                raise part
            assert part.wait(30)
        return b""

    def __enter__(self) -> Self:
        """The answer itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""


class MadeSource:
    """Returns or raises what `answer` does, and remembers the requests."""

    def __init__(self, answer: Callable[[Asked], MadeAnswer]) -> None:
        """Start without requests."""
        self.answer = answer
        self.asked: list[Asked] = []
        self._lock = threading.Lock()

    def open(  # noqa: PLR0913 - as upstream.source.Source
        self,
        method: str,
        reference: Reference,
        *,
        accept: Sequence[str] = (),  # noqa: ARG002 - no test depends on it
        offset: int = 0,
        last_byte: int | None = None,
        location: object = None,
        authorization: PullerAuthorization | None = None,
        timeout: float,  # noqa: ARG002 - the test says how long it takes
    ) -> MadeAnswer:
        asked = Asked(method, reference, offset, last_byte, location, authorization)
        with self._lock:
            self.asked.append(asked)
        return self.answer(asked)


def whole(content: bytes) -> MadeAnswer:
    return MadeAnswer([content], len(content))


def cut() -> Unavailable:
    return Unavailable(Kind.CUT, "the upstream breaks off")
