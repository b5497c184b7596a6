"""Where a cache fetches from: the upstream, and with two replicas the other one first for half of all content."""

from __future__ import annotations

import threading
import time
from hashlib import sha256
from typing import TYPE_CHECKING, Protocol

from upstream.client import Denied, Kind, NotFound, Unavailable
from upstream.reference import BLOB

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from upstream.client import Answer
    from upstream.reference import Reference

# Seconds for which a source that is away is not asked again.
AWAY = 5.0
LONGEST_AWAY = 60.0
# What is wrong with one answer says nothing of the others.
OF_ONE = frozenset({Kind.CLIENT_ERROR, Kind.SERVER_ERROR, Kind.MALFORMED, Kind.REDIRECTS})
# Seconds that the other replica has for the head of its answer, or, where it fetches itself, for its first byte.
PEER_TIMEOUT = 12.0
# Of a manifest's: the rest of the time that it may take is the upstream's.
PEER_MANIFEST_TIMEOUT = 4.0
# Seconds that connecting to it may take: it is in the same cluster, and if its node is lost nobody says so.
PEER_CONNECT_TIMEOUT = 1.0


class Source(Protocol):
    """What can be asked for manifests and blobs."""

    def open(
        self, method: str, reference: Reference, *, accept: Sequence[str] = (), offset: int = 0, timeout: float
    ) -> Answer:
        """As upstream_client.Client.open."""


class Watched:
    """A source that, once it was seen to be away, is not asked for a while: nobody waits for what is known to fail."""

    def __init__(self, source: Source, name: str, log: Callable[[str], None]) -> None:
        """`name` is what the log calls it."""
        self._source = source
        self._name = name
        self._log = log
        self._lock = threading.Lock()
        self._problem: Unavailable | None = None
        self._until = 0.0

    def open(
        self, method: str, reference: Reference, *, accept: Sequence[str] = (), offset: int = 0, timeout: float
    ) -> Answer:
        """As upstream_client.Client.open; raises at once what was raised a few seconds ago."""
        with self._lock:
            if self._problem is not None and time.monotonic() < self._until:
                raise Unavailable(self._problem.kind, str(self._problem))
        try:
            answer = self._source.open(method, reference, accept=accept, offset=offset, timeout=timeout)
        except Unavailable as problem:
            if problem.kind not in OF_ONE or problem.retry_after is not None:
                self._away(problem)
            else:
                self._back()
            raise
        except (NotFound, Denied):
            self._back()
            raise
        self._back()
        return answer

    @property
    def is_away(self) -> bool:
        """Whether it gave no answer of use when it was asked last."""
        with self._lock:
            return self._problem is not None

    def _away(self, problem: Unavailable) -> None:
        seconds = AWAY if problem.retry_after is None else min(max(problem.retry_after, AWAY), LONGEST_AWAY)
        with self._lock:
            new = self._problem is None
            self._problem, self._until = problem, time.monotonic() + seconds
        if new:
            self._log(f"{self._name} is away, what is cached is served: {problem}")

    def _back(self) -> None:
        with self._lock:
            was, self._problem = self._problem, None
        if was is not None:
            self._log(f"{self._name} answers again")


class PeerFirst:
    """Two replicas fetch each thing from the upstream once: each asks the other for the half that is the other's."""

    def __init__(self, own: Source, peer: Source, ordinal: int) -> None:
        """`ordinal` is this replica's number, 0 or 1."""
        self._own = own
        self._peer = peer
        self._ordinal = ordinal

    def open(
        self, method: str, reference: Reference, *, accept: Sequence[str] = (), offset: int = 0, timeout: float
    ) -> Answer:
        """As upstream_client.Client.open; a replica that is away, or cannot, is left out."""
        # A manifest's tag and its digest are the same replica's.
        is_blob = reference.kind == BLOB
        key = reference.path if is_blob else reference.repository
        if sha256(key.encode()).digest()[0] % 2 != self._ordinal:
            try:
                patience = min(timeout, PEER_TIMEOUT if is_blob else PEER_MANIFEST_TIMEOUT)
                return self._peer.open(method, reference, accept=accept, offset=offset, timeout=patience)
            except (Unavailable, Denied):
                pass
        return self._own.open(method, reference, accept=accept, offset=offset, timeout=timeout)
