"""What the cache did and is, for Prometheus (text format 0.0.4), each sample with the label `upstream_host`.

`registry_proxy_*` mean what they mean in distribution (registry/proxy/proxymetrics.go), so that dashboards made for it
work; hits are what did not leave the upstream again, requests that joined a fetch under way included. What the other
replica asks for is none of a client's requests, and what comes from it did not come from the upstream.

Every series is there from the start, at 0, so that a first refusal is an increase. There are about 200 of them, however
much is stored and whoever asks.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from store.store import DAMAGED, EVICTED, EXPIRED
from upstream.connections import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from store.store import Statistics

TYPES = ("blob", "manifest")
METHODS = ("GET", "HEAD", "token")
# What upstream_client tells of a request that went out, and what gate refuses for.
OUTCOMES = ("2xx", "3xx", "401", "403", "404", *Kind)
PUSH, NOT_FOUND, DENIED, NO_ROOM, VOLUME, CONTENT = "push", "not-found", "denied", "no-room", "volume", "content"
REASONS = (PUSH, NOT_FOUND, DENIED, NO_ROOM, VOLUME, CONTENT, *Kind)
# What manifests tells.
LOOKUPS = ("asked", "window", "stale", "gone")
BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[tuple[str, str], ...]
Sample = tuple[str, Labels, float]


class Now(NamedTuple):
    """What is looked at when somebody asks; `refused_credentials` is how often our credentials were not taken."""

    stored: Statistics
    ready: bool
    upstream_away: bool
    fetches: int
    refused_credentials: int


class Metrics:
    """Counters of one cache, safe for its threads."""

    def __init__(self, upstream: str, about: Mapping[str, str] | None = None, replicas: int = 1) -> None:
        """`upstream` is the host that images' names begin with, `about` what else is worth knowing, as labels."""
        self._begun = time.time()
        self._upstream_host = upstream
        self._about = dict(about or {})
        self._replicas = replicas
        self._version = ""
        self._ttl = 0.0
        self._lock = threading.Lock()
        self._requests = _zeros(TYPES)
        self._hits = _zeros(TYPES)
        self._misses = _zeros(TYPES)
        self._pulled = _zeros(TYPES)
        self._pushed = _zeros(TYPES)
        self._coalesced = self._from_replica = self._untold = 0
        self._refused = _zeros(REASONS)
        self._lookups = _zeros(LOOKUPS)
        self._upstream: Counter[tuple[str, str]] = Counter(
            {(method, outcome): 0 for method in METHODS for outcome in OUTCOMES}
        )
        self._buckets: Counter[tuple[str, float]] = Counter()
        self._seconds = dict.fromkeys(METHODS, 0.0)

    def configured(self, version: str, ttl: float) -> None:
        """Note the chart's version, and after how many seconds content goes."""
        self._version, self._ttl = version, ttl

    def requested(self, kind: str, *, hit: bool, joined: bool = False) -> None:
        """Note a request of a client that was or will be answered; `joined` a fetch that was under way."""
        with self._lock:
            self._requests[kind] += 1
            (self._hits if hit else self._misses)[kind] += 1
            self._coalesced += joined

    def pulled(self, kind: str, size: int) -> None:
        """Note bytes that came from the upstream."""
        with self._lock:
            self._pulled[kind] += size

    def from_replica(self, _kind: str, size: int) -> None:
        """Note bytes that came from the other replica."""
        with self._lock:
            self._from_replica += size

    def pushed(self, kind: str, size: int) -> None:
        """Note bytes that went to a client."""
        with self._lock:
            self._pushed[kind] += size

    def untold(self, answers: int) -> None:
        """Note answers whose bytes nobody could count."""
        with self._lock:
            self._untold += answers

    def refused(self, reason: str) -> None:
        """Note a request that was answered with an error, so that the client asks the upstream."""
        with self._lock:
            self._refused[reason] += 1

    def tag(self, how: str) -> None:
        """Note how it was found what a tag means (manifests.Manifests)."""
        with self._lock:
            self._lookups[how] += 1

    def upstream(self, method: str, outcome: str, seconds: float) -> None:
        """Note a request to the upstream, how it ended, and how long its head took."""
        with self._lock:
            self._upstream[method, outcome] += 1
            self._seconds[method] += seconds
            for bucket in BUCKETS:
                self._buckets[method, bucket] += seconds <= bucket

    def text(self, now: Now) -> str:
        """All of it."""
        with self._lock:
            return "".join(f"{line}\n" for line in self._lines(now))

    def _lines(self, now: Now) -> Iterator[str]:
        for name, kind, about, samples in (*self._counted(now), *self._state(now), *_process(self._begun)):
            yield f"# HELP {name} {about}"
            yield f"# TYPE {name} {kind}"
            for suffix, labels, value in samples:
                pairs = (("upstream_host", self._upstream_host), *labels)
                written = ",".join(f'{key}="{_escaped(text)}"' for key, text in pairs)
                yield f"{name}{suffix}{{{written}}} {value}"

    def _counted(self, now: Now) -> Iterator[tuple[str, str, str, Iterable[Sample]]]:
        for name, about, counts in (
            ("requests", "The number of total incoming proxy request received", self._requests),
            ("hits", "The number of total proxy request hits", self._hits),
            ("misses", "The number of total proxy request misses", self._misses),
            ("pulled_bytes", "The size of total bytes pulled from the upstream", self._pulled),
            ("pushed_bytes", "The size of total bytes pushed to the client", self._pushed),
        ):
            yield f"registry_proxy_{name}_total", "counter", about, _by("type", counts)
        for name, about, label, counts in (
            ("refused_requests", "Requests answered with an error, upon which clients ask the upstream.", "reason",
             self._refused),
            ("tag_lookups", "How it was found what a tag means.", "result", self._lookups),
            ("removed_blobs", "Blobs and manifests that went.", "reason",
             Counter({**_zeros((DAMAGED, EVICTED, EXPIRED)), **now.stored.removed})),
        ):  # fmt: skip
            yield f"registry_cache_{name}_total", "counter", about, _by(label, counts)
        for name, about, count in (
            ("coalesced_requests", "Requests for a blob that was being fetched for somebody else.", self._coalesced),
            ("replica_bytes", "Bytes that came from the other replica instead of the upstream.", self._from_replica),
            ("returned_bytes", "Bytes that were fetched again after being evicted.", now.stored.refetched_bytes),
            ("refused_credentials", "How often our credentials were not taken.", now.refused_credentials),
            ("untold_answers", "Answers whose bytes are missing in registry_proxy_pushed_bytes_total.", self._untold),
        ):
            yield f"registry_cache_{name}_total", "counter", about, _one(count)
        name = "registry_cache_upstream_requests_total"
        about = "Requests to the upstream and its token server, by how they ended."
        by_method = [
            ("", (("method", method), ("outcome", outcome)), float(count))
            for (method, outcome), count in sorted(self._upstream.items())
        ]
        yield name, "counter", about, by_method
        about = "How long the heads of the upstream's answers took, those that did not come included."
        yield "registry_cache_upstream_request_duration_seconds", "histogram", about, self._durations()

    def _durations(self) -> Iterator[Sample]:
        for method in METHODS:
            of = ("method", method)
            total = sum(count for (each, _), count in self._upstream.items() if each == method)
            for bucket in BUCKETS:
                yield "_bucket", (of, ("le", str(bucket))), self._buckets[method, bucket]
            yield "_bucket", (of, ("le", "+Inf")), total
            yield "_sum", (of,), round(self._seconds[method], 6)
            yield "_count", (of,), total

    def _state(self, now: Now) -> Iterator[tuple[str, str, str, Iterable[Sample]]]:
        stored = now.stored
        for name, about, value in (
            ("ready", "Whether whole bodies can be served now.", now.ready),
            ("replicas", "Pods that this cache is to have.", self._replicas),
            ("upstream_up", "Whether the upstream gave an answer of use when it was asked last.",
             not now.upstream_away),
            ("fetches", "Blobs that are coming from the upstream now.", now.fetches),
            ("stored_bytes", "Bytes that content takes on the volume.", stored.stored_bytes),
            ("capacity_bytes", "Bytes that content may take.", stored.usable_bytes),
            ("free_bytes", "Bytes that are free on the volume.", stored.free_bytes),
            ("high_water_ratio", "The share of what content may take from which on it is evicted.", stored.high_water),
            ("stored_blobs", "Blobs on the volume, manifests included.", stored.blobs),
            ("stored_manifests", "Manifests on the volume.", stored.manifests),
            ("stored_tags", "Tags on the volume.", stored.tags),
            ("stuck_files", "Files and folders that the disk refused to read or to remove.", stored.inaccessible_files),
            ("ttl_seconds", "Seconds from the last use of content to its removal, 0 for never.", self._ttl),
        ):  # fmt: skip
            yield f"registry_cache_{name}", "gauge", about, _one(value)
        if stored.least_recent_use is not None:
            name = "registry_cache_oldest_use_timestamp_seconds"
            yield name, "gauge", "Last use of the least recently used content.", _one(round(stored.least_recent_use))
        for name, about, labels in (
            ("build_info", "The chart's version; always 1.", {"version": self._version}),
            ("configuration_info", "Where and how the cache fetches; always 1.", self._about),
        ):
            yield f"registry_cache_{name}", "gauge", about, [("", tuple(labels.items()), 1)]


def _process(begun: float) -> Iterator[tuple[str, str, str, Iterable[Sample]]]:
    """What every program tells of itself (Prometheus, "Writing client libraries"), as far as it is of use here."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - at each scrape
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    yield "process_start_time_seconds", "gauge", "When the program began.", _one(round(begun, 2))
    yield "process_cpu_seconds_total", "counter", "CPU time that it took.", _one(round(time.process_time(), 2))
    yield "process_resident_memory_bytes", "gauge", "Memory that it takes.", _one(resident)


def _zeros(values: Iterable[str]) -> Counter[str]:
    return Counter(dict.fromkeys(values, 0))


def _one(value: float) -> list[Sample]:
    return [("", (), float(value) if isinstance(value, float) else int(value))]


def _by(label: str, counts: Counter[str]) -> list[Sample]:
    return [("", ((label, value),), count) for value, count in sorted(counts.items())]


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
