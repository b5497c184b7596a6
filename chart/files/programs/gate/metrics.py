"""Counts what the cache does, for Prometheus (text format 0.0.4); every sample has the label `upstream_host`.

`registry_proxy_*` mean what they mean in distribution (registry/proxy/proxymetrics.go), so that dashboards for it work.
A hit is a request that needed no fetch of its own, so a request that joins a fetch is one, and so is one for a blob
that was fetched ahead. Requests of other replicas are not counted, and bytes from them do not count as bytes from the
upstream.

Every series exists from the start, with the value 0, so that a first failure is an increase. There are about 200
series, whatever is stored and however many clients there are, and up to 51 more for prefixes of repositories.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from access.pullers import RESULTS
from common.prometheus_text import Histogram, Metric, Sample, format_metrics, process_metrics
from store.store import DAMAGED, EVICTED, EXPIRED
from upstream.errors import Kind
from upstream.reference import BLOB, MANIFEST

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from store.statistics import Statistics
    from upstream.reference import Reference

TYPES = (BLOB, MANIFEST)
# The results of a lookup of a tag: the upstream said what it means, it did so within the check interval, it could not
# be asked, or it said that the tag does not exist.
REVALIDATED, FRESH, STALE, GONE = "revalidated", "fresh", "stale", "gone"
# The reasons to refuse a request, besides the kinds of an unavailable upstream.
PUSH, NOT_FOUND, DENIED, NO_ROOM, VOLUME, CONTENT = "push", "not-found", "denied", "no-room", "volume", "content"
# There are too many requests; it is for another registry, or for a repository that is not allowed; it is no pull.
OVERLOAD, FOREIGN, UNKNOWN = "overload", "foreign", "unknown"
REASONS = (PUSH, NOT_FOUND, DENIED, NO_ROOM, VOLUME, CONTENT, OVERLOAD, FOREIGN, UNKNOWN, *Kind)
# Where something unexpected happened.
REQUEST, THREAD, PROCESS = "request", "thread", "process"
# The methods and outcomes of requests to the upstream, as its client reports them.
METHODS = ("GET", "HEAD", "token")
OUTCOMES = ("2xx", "3xx", "401", "403", "404", *Kind)
# Anyone who can reach the cache can make it fetch from any repository, so this many first parts of names get a series.
MAX_PREFIXES = 50
# No repository has this name.
OTHER_PREFIXES = "OTHER"
DURATION_BUCKETS_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Snapshot(NamedTuple):
    """The state that is read at each scrape."""

    store: Statistics
    is_ready: bool
    is_volume_usable: bool
    is_upstream_away: bool
    active_fetches: int
    credentials_refused: int
    """How often the upstream or its token server refused the credentials."""
    upstream_connections: int
    """How many connections to the upstream were opened."""
    certificate_end: float | None = None
    """When the certificate of a cache with TLS ends, in seconds since 1970."""
    client_certificate_end: float | None = None
    """When the nodes' certificate ends, if the cache serves only nodes."""


class Metrics:
    """The counters of one cache; several threads may use them."""

    def __init__(self, upstream: str, configuration: Mapping[str, str] | None = None, replicas: int = 1) -> None:
        """Start all counters at 0.

        `upstream` is the host in image references, and `configuration` the labels of the metric about it.
        """
        self._started = time.time()
        self._upstream_host = upstream
        self._configuration = dict(configuration or {})
        self._replicas = replicas
        self._version = ""
        self._ttl_seconds = 0.0
        self._lock = threading.Lock()
        self._requests = _zeros(TYPES)
        self._hits = _zeros(TYPES)
        self._misses = _zeros(TYPES)
        self._pulled_bytes = _zeros(TYPES)
        self._pulled_bytes_by_prefix: Counter[str] = Counter()
        self._pushed_bytes = _zeros(TYPES)
        self._coalesced_requests = self._replica_fetched_bytes = self._uncounted_responses = 0
        self._defects = _zeros((REQUEST, THREAD, PROCESS))
        self._refused_requests = _zeros(REASONS)
        self._tag_lookups = _zeros((REVALIDATED, FRESH, STALE, GONE))
        self._puller_checks = _zeros(RESULTS)
        self._upstream_requests: Counter[tuple[str, str]] = Counter(
            {(method, outcome): 0 for method in METHODS for outcome in OUTCOMES}
        )
        self._durations = {method: Histogram(DURATION_BUCKETS_SECONDS) for method in METHODS}

    def set_configuration(self, version: str, ttl_seconds: float) -> None:
        """Set the settings that may change while the gate runs."""
        self._version, self._ttl_seconds = version, ttl_seconds

    def count_request(self, kind: str, *, hit: bool, joined: bool = False) -> None:
        """Count a request of a node; `joined` if it waited for a fetch that another request had started."""
        with self._lock:
            self._requests[kind] += 1
            (self._hits if hit else self._misses)[kind] += 1
            self._coalesced_requests += joined

    def count_pulled_bytes(self, reference: Reference, size: int) -> None:
        """Count bytes from the upstream."""
        prefix = reference.repository.partition("/")[0]
        with self._lock:
            self._pulled_bytes[reference.kind] += size
            known = self._pulled_bytes_by_prefix
            known[prefix if prefix in known or len(known) < MAX_PREFIXES else OTHER_PREFIXES] += size

    def count_replica_bytes(self, _reference: Reference, size: int) -> None:
        """Count bytes from other replicas."""
        with self._lock:
            self._replica_fetched_bytes += size

    def count_pushed_bytes(self, kind: str, size: int) -> None:
        """Count bytes to a node."""
        with self._lock:
            self._pushed_bytes[kind] += size

    def count_uncounted_responses(self, responses: int) -> None:
        """Count responses whose bytes are unknown."""
        with self._lock:
            self._uncounted_responses += responses

    def count_refused_request(self, reason: str) -> None:
        """Count a request that was answered with an error status."""
        with self._lock:
            self._refused_requests[reason] += 1

    def count_defect(self, where: str, count: int = 1) -> None:
        """Count what must never happen: an unexpected exception in a request or thread, or a crash of the gate."""
        with self._lock:
            self._defects[where] += count

    def count_tag_lookup(self, result: str) -> None:
        """Count a lookup of a tag by its result."""
        with self._lock:
            self._tag_lookups[result] += 1

    def count_puller_check(self, result: str) -> None:
        """Count a check of the credentials of a puller at the upstream, by its result."""
        with self._lock:
            self._puller_checks[result] += 1

    def observe_upstream_request(self, method: str, outcome: str, seconds: float) -> None:
        """Count a request to the upstream, and the time until the head of its response or its failure."""
        with self._lock:
            self._upstream_requests[method, outcome] += 1
            self._durations[method].observe(seconds)

    def render(self, snapshot: Snapshot) -> str:
        """Return all metrics in the text format."""
        with self._lock:
            metrics = (*self._counters(snapshot), *self._gauges(snapshot), *process_metrics(self._started))
            return format_metrics(metrics, {"upstream_host": self._upstream_host})

    def _counters(self, snapshot: Snapshot) -> Iterator[Metric]:
        for name, description, label, counts in (
            ("registry_proxy_requests", "Requests from nodes for blobs and manifests.", "type", self._requests),
            ("registry_proxy_hits", "Requests that needed no fetch of their own.", "type", self._hits),
            ("registry_proxy_misses", "Requests that needed a fetch from the upstream.", "type", self._misses),
            ("registry_proxy_pulled_bytes", "Bytes of bodies from the upstream.", "type",
             self._pulled_bytes),
            ("registry_cache_repository_pulled_bytes",
             "Bytes of bodies from the upstream, by the first part of the name of the repository.", "prefix",
             self._pulled_bytes_by_prefix),
            ("registry_proxy_pushed_bytes", "Bytes of bodies that were sent to nodes.", "type",
             self._pushed_bytes),
            ("registry_cache_refused_requests",
             "Requests that were answered with an error, so that containerd goes to the upstream.", "reason",
             self._refused_requests),
            ("registry_cache_tag_lookups", "Lookups of a tag, by how the cache found out what the tag means.",
             "result", self._tag_lookups),
            ("registry_cache_puller_checks",
             "Checks of the credentials of pullers at the upstream, by their result.", "result",
             self._puller_checks),
            ("registry_cache_defects",
             "Unexpected errors of the gate in a request or thread, and ends of its process that nobody asked for.",
             "where", self._defects),
            ("registry_cache_removed_blobs", "Blobs and manifests that were removed from the volume.", "reason",
             Counter({**_zeros((DAMAGED, EVICTED, EXPIRED)), **snapshot.store.removed})),
        ):  # fmt: skip
            samples = [Sample({label: value}, count) for value, count in sorted(counts.items())]
            yield Metric(f"{name}_total", "counter", description, samples)
        for name, description, count in (
            ("coalesced_requests", "Requests for a blob that another request was already fetching.",
             self._coalesced_requests),
            ("replica_fetched_bytes", "Bytes that were fetched from other replicas instead of the upstream.",
             self._replica_fetched_bytes),
            ("refetched_bytes", "Bytes that were fetched again after they had been evicted.",
             snapshot.store.refetched_bytes),
            ("upstream_credentials_refused",
             "Responses with status 401 from the upstream or its token server to requests with credentials.",
             snapshot.credentials_refused),
            ("upstream_connections",
             "Connections that were opened to the upstream, its token server and its CDN, directly or through a proxy.",
             snapshot.upstream_connections),
            ("uncounted_responses", "Responses whose bytes are missing from registry_proxy_pushed_bytes_total.",
             self._uncounted_responses),
        ):  # fmt: skip
            yield Metric(f"registry_cache_{name}_total", "counter", description, [Sample({}, count)])
        yield Metric(
            "registry_cache_upstream_requests_total",
            "counter",
            "Requests to the upstream and its token server, by their outcome.",
            [
                Sample({"method": method, "outcome": outcome}, count)
                for (method, outcome), count in sorted(self._upstream_requests.items())
            ],
        )
        yield Metric(
            "registry_cache_upstream_request_duration_seconds",
            "histogram",
            "Time until the head of the response of the upstream, or until the request failed.",
            [
                sample
                for method, histogram in self._durations.items()
                for sample in histogram.samples({"method": method})
            ],
        )

    def _gauges(self, snapshot: Snapshot) -> Iterator[Metric]:
        store = snapshot.store
        for name, description, value in (
            ("ready", "Whether the cache pod can serve requests.", snapshot.is_ready),
            ("volume_usable", "Whether the volume can take new content, apart from its room.",
             snapshot.is_volume_usable),
            ("configured_replicas", "Cache pods that this cache is configured to have.", self._replicas),
            ("upstream_up", "Whether the last request to the upstream got a usable response.",
             not snapshot.is_upstream_away),
            ("active_fetches", "Blobs that are being fetched from the upstream.", snapshot.active_fetches),
            ("stored_bytes", "Bytes that content takes on the volume.", store.stored_bytes),
            ("capacity_bytes", "Bytes that content may take on the volume.", store.usable_bytes),
            ("volume_free_bytes", "Bytes that are free on the file system of the volume.", store.free_bytes),
            ("high_water_ratio", "The share of the capacity above which content is evicted.", store.high_water),
            ("stored_blobs", "Blobs on the volume, including manifests.", store.blobs),
            ("stored_manifests", "Manifests on the volume.", store.manifests),
            ("stored_tags", "Tags on the volume.", store.tags),
            ("inaccessible_files", "Files and directories that the file system failed to read or to remove.",
             store.inaccessible_files),
            ("ttl_seconds", "How long content is kept after its last use, or 0 to keep it forever.",
             self._ttl_seconds),
        ):  # fmt: skip
            yield Metric(f"registry_cache_{name}", "gauge", description, [Sample({}, value)])
        if store.least_recent_use is not None:
            yield Metric(
                "registry_cache_least_recent_use_timestamp_seconds",
                "gauge",
                "When the least recently used content was used last.",
                [Sample({}, round(store.least_recent_use))],
            )
        for name, whose, end in (
            ("certificate", "the cache", snapshot.certificate_end),
            ("client_certificate", "the nodes", snapshot.client_certificate_end),
        ):
            if end is not None:
                yield Metric(
                    f"registry_cache_{name}_expiry_timestamp_seconds",
                    "gauge",
                    f"When the certificate of {whose} ends.",
                    [Sample({}, round(end))],
                )
        for name, description, labels in (
            ("build_info", "The version of the chart. The value is always 1.", {"version": self._version}),
            ("config_info", "The configuration of the cache. The value is always 1.", self._configuration),
        ):
            yield Metric(f"registry_cache_{name}", "gauge", description, [Sample(labels, 1)])


def _zeros(values: Iterable[str]) -> Counter[str]:
    return Counter(dict.fromkeys(values, 0))
