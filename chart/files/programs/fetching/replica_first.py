"""The replicas of a cache, which together fetch everything from the upstream only once.

Each digest, and each repository for its manifests, has an owner among the replicas. A replica takes from another one
what that one holds, and otherwise asks the owner to fetch it. Rendezvous hashing ranks the replicas for each digest: if
the owner is away, the next in the order takes its place, and nothing else changes. Every replica has the same order and
asks only those that come before it, so requests between replicas never run in a circle.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from hashlib import sha256
from typing import TYPE_CHECKING

from upstream.errors import Denied, Kind, NotFound, Unavailable
from upstream.reference import BLOB

from fetching.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Unpack

    from upstream.client import Answer
    from upstream.reference import Reference
    from upstream.source import Options, Source

# How long other replicas have for the head of an answer, or for its first byte if one has to fetch the blob itself.
BLOB_TIMEOUT_SECONDS = 12.0
# The same for a manifest, which leaves the rest of its time to the upstream.
MANIFEST_TIMEOUT_SECONDS = 4.0
# How long connecting to one may take. It is in the same cluster, and nobody answers for it if its node is lost.
CONNECT_TIMEOUT_SECONDS = 1.0
# How long a replica may take to say what it holds. One that takes longer is not asked for anything.
HOLDINGS_TIMEOUT_SECONDS = 2.0
# A HEAD request that accepts this type asks how much of a blob or manifest the replica holds.
HOLDINGS_TYPE = "application/vnd.registry-cache.holdings"
# In the answer: the number of bytes that the replica has so far, or ALL.
HOLDINGS_HEADER = "Registry-Cache-Holdings"
ALL = "all"
# The name and the zone of the replica that asks; the zone is also in the answer about holdings.
REPLICA_HEADER = "Registry-Cache-Replica"
ZONE_HEADER = "Registry-Cache-Zone"
# The rest of a broken blob is taken from a replica that is fetching it too and is at most this far behind. One that is
# further behind would send nothing until the connection counts as broken.
MAX_BEHIND_BYTES = 16 << 20
# The replica answered, so it has asked the upstream already, and another replica would only ask it once more.
ANSWER_KINDS = frozenset({Kind.CLIENT_ERROR, Kind.SERVER_ERROR, Kind.TOO_MANY, Kind.MALFORMED, Kind.REDIRECTS})


def rank_replicas(names: Iterable[str], key: str) -> list[str]:
    """Return the names of replicas in the order in which they own a key (rendezvous hashing).

    Without one of the names, the order of the others is the same.
    """
    return sorted(names, key=lambda name: sha256(f"{name} {key}".encode()).digest())


class ReplicaFirst:
    """Asks the other replicas first for what they hold or own, and the upstream for the rest."""

    def __init__(self, upstream: Source, others: Mapping[str, Source], name: str, zone: str = "") -> None:
        """Take the other replicas by their names, and the name and zone of this one.

        The replicas of a zone have an owner of their own for each digest, so that a blob crosses to a zone once. An
        unknown zone, "", counts as a zone.
        """
        self._upstream = upstream
        self._others = dict(others)
        self._name = name
        self.zone = zone
        self._lock = threading.Lock()
        # The zones of other replicas, which they tell with their holdings.
        self._zones: dict[str, str] = {}
        # What other replicas wait for from this one, and their zones.
        self._awaited: Counter[tuple[str, str]] = Counter()

    def open(self, method: str, reference: Reference, *, timeout: float, **options: Unpack[Options]) -> Answer:
        """Request as `Client.open` does; the upstream is asked if no other replica can help."""
        is_blob = reference.kind == BLOB
        deadline = time.monotonic() + min(timeout, BLOB_TIMEOUT_SECONDS if is_blob else MANIFEST_TIMEOUT_SECONDS)
        # A location is always one of the upstream, since replicas do not redirect.
        is_elsewhere = options.get("location") is not None
        for name in () if is_elsewhere else self._choose_replicas(reference, options.get("offset", 0)):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            try:
                return self._others[name].open(method, reference, timeout=left, **options)
            except Denied:
                break
            except Unavailable as problem:
                if problem.kind in ANSWER_KINDS:
                    break
        return self._upstream.open(method, reference, timeout=timeout, **options)

    @contextmanager
    def answering(self, reference: Reference, zone: str | None) -> Iterator[None]:
        """Note for the time of an answer that it is for a replica in `zone`, or for a node if that is None.

        What a replica waits for is not asked of a further one, except by the owner of a zone in the other zones.
        """
        if zone is None:
            yield
            return
        entry = (_key_of(reference), zone)
        with self._lock:
            self._awaited[entry] += 1
        try:
            yield
        finally:
            with self._lock:
                self._awaited[entry] -= 1
                if not self._awaited[entry]:
                    del self._awaited[entry]

    def _choose_replicas(self, reference: Reference, offset: int) -> list[str]:
        """Return the replicas to ask, in this order.

        These are those of this zone that hold the content, then those of it that come before this one and so have to
        fetch it, then the same of the other zones.
        """
        key = _key_of(reference)
        ranking = rank_replicas([*self._others, self._name], key)
        with self._lock:
            awaiting_zones = {zone for awaited, zone in self._awaited if awaited == key}
        if awaiting_zones and (awaiting_zones != {self.zone} or not self.zone):
            return []
        near_counts = not awaiting_zones
        others = [
            name for name in ranking if name != self._name and (near_counts or self._zones.get(name) != self.zone)
        ]
        owners = {name for name in ranking[: ranking.index(self._name)] if name in others}
        if not reference.is_digest:
            # The upstream alone knows what a tag means now, and the owner asks it for all.
            return [name for name in others if name in owners]
        held = self._find_holdings(others, reference)
        chosen: list[str] = []
        for is_near in (True, False) if near_counts else (False,):
            group = [name for name in others if name in held and (self._zones.get(name) == self.zone) is is_near]
            chosen += [name for name in group if held[name] == math.inf]
            chosen += [
                name
                for name in group
                if name in owners and held[name] < math.inf and (not offset or held[name] + MAX_BEHIND_BYTES >= offset)
            ]
        return chosen

    def _find_holdings(self, names: Sequence[str], reference: Reference) -> dict[str, float]:
        """Ask all of these replicas at once how many bytes they hold; those that do not answer are left out."""
        held: dict[str, float] = {}

        def ask(name: str) -> None:
            try:
                with self._others[name].open(
                    "HEAD", reference, accept=(HOLDINGS_TYPE,), timeout=HOLDINGS_TIMEOUT_SECONDS
                ) as answer:
                    holdings = answer.headers.get(HOLDINGS_HEADER, "")
                    zone = answer.headers.get(ZONE_HEADER, "")
            except (Unavailable, NotFound, Denied):
                return
            self._zones[name] = zone
            held[name] = math.inf if holdings == ALL else int(holdings) if holdings.isdecimal() else 0

        threads = []
        for name in names[1:]:
            # If the container already has as many threads as it is allowed to have, this replica is left out.
            with suppress(Unavailable):
                threads.append(start_thread(ask, name))
        if names:
            ask(names[0])
        for thread in threads:
            thread.join()
        return held


def _key_of(reference: Reference) -> str:
    """Return what decides who owns the content: the tag and the digest of a manifest must have the same owner."""
    return reference.path if reference.kind == BLOB else reference.repository
