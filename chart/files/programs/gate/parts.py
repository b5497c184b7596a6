"""Builds the parts that requests, housekeeping and the status server share."""

from __future__ import annotations

import os
import socket
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from access.public import RECORD_NAME, PublicRepositories
from access.pullers import Pullers
from access.rights import ForPullers, Rights, WatchedUpstream
from common.log import log
from fetching.fetches import Fetches
from fetching.ranges import Ranges
from fetching.replica_first import CONNECT_TIMEOUT_SECONDS, HOLDINGS_TYPE, REPLICA_HEADER, ZONE_HEADER, ReplicaFirst
from store.store import Store
from upstream.availability_guard import AvailabilityGuard
from upstream.client import Client, Settings

from gate.ahead import Ahead
from gate.certificate import Certificate
from gate.configuration import PULLER
from gate.health import Health
from gate.manifests import Manifests, ask_for
from gate.metrics import Metrics, Snapshot
from gate.refusals import RefusalLog
from gate.repeats import Repeats
from gate.replica_addresses import ReplicaAddresses, pod_name
from gate.verification import Verification

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from common.endpoint import Endpoint
    from upstream.source import Source

    from gate.configuration import Configuration, Limits

DISTRIBUTION_SOCKET = "distribution.sock"
# The chart sets it to a label of the pod, if the replicas of a zone have owners of their own.
ZONE_VARIABLE = "REGISTRY_CACHE_ZONE"


class Parts(NamedTuple):
    """The parts of the gate of one cache pod."""

    upstream: str
    """The host in image references."""
    allowed_repositories: frozenset[str]
    """What `pull_request.is_allowed` accepts."""
    store: Store
    source: Source
    """What manifests and blobs are requested from."""
    replicas: ReplicaFirst
    replica_addresses: ReplicaAddresses
    fetches: Fetches
    ranges: Ranges
    ahead: Ahead
    manifests: Manifests
    pullers: Pullers | None
    """None if everybody may pull everything."""
    public: PublicRepositories | None
    repeats: Repeats
    refusal_log: RefusalLog
    verification: Verification
    metrics: Metrics
    health: Health
    certificate: Certificate | None
    client_certificate: Certificate | None
    is_upstream_away: Callable[[], bool]
    count_refused_credentials: Callable[[], int]
    count_upstream_connections: Callable[[], int]


def build_parts(configuration: Configuration, limits: Limits, volume: Path, sockets: Path) -> Parts:
    """Build all parts; nothing is read from the volume yet.

    Raises:
        ValueError: A URL in the configuration is malformed.
    """
    settings = configuration.settings
    metrics = Metrics(configuration.upstream, _describe(configuration), max(1, len(configuration.replicas)))
    metrics.set_configuration(limits.version, limits.ttl_seconds)
    for_pullers = configuration.access == PULLER
    store = Store(volume, limits.capacity_bytes, high_water=limits.high_water, links_need_proof=for_pullers)
    client = Client(settings, observe=metrics.observe_upstream_request, log=log, received=metrics.count_pulled_bytes)
    guard = AvailabilityGuard(client, settings.remote_url, log)
    upstream: Source = guard
    public = PublicRepositories(volume / RECORD_NAME, log) if for_pullers else None
    rights = pullers = None
    if public is not None:
        check_seconds, grace_seconds = configuration.access_check_seconds, configuration.access_grace_seconds
        rights = Rights(public, check_seconds=check_seconds, grace_seconds=grace_seconds)
        upstream = WatchedUpstream(guard, rights)
        ask = partial(ask_for, upstream)
        has_tls = configuration.certificates is not None
        count = metrics.count_puller_check
        pullers = Pullers(ask, store, rights, find_terms=client.find_terms, has_tls=has_tls, count_check=count)
    name, zone = socket.gethostname(), os.environ.get(ZONE_VARIABLE, "")
    headers = {REPLICA_HEADER: name, **({ZONE_HEADER: zone} if zone else {})}
    others = {pod_name(endpoint): _other_replica(endpoint, headers, metrics) for endpoint in configuration.replicas}
    others.pop(name, None)
    replicas = ReplicaFirst(upstream, others, name, zone)
    source: Source = replicas if rights is None else ForPullers(replicas, rights)
    fetches = Fetches(store, source, log)
    return Parts(
        upstream=configuration.upstream,
        allowed_repositories=frozenset(configuration.allowed_repositories),
        store=store,
        source=source,
        replicas=replicas,
        replica_addresses=ReplicaAddresses(configuration.replicas),
        fetches=fetches,
        ranges=Ranges(source),
        ahead=Ahead(configuration.fetch_ahead, store, fetches, client.prepare_connections, lambda: client.blob_wait),
        manifests=Manifests(
            store,
            source,
            tag_check_interval_seconds=configuration.tag_check_interval_seconds,
            may_read=pullers.may_read if pullers else lambda *_: True,
            count_tag_lookup=metrics.count_tag_lookup,
            log=log,
        ),
        pullers=pullers,
        public=public,
        repeats=Repeats(),
        refusal_log=RefusalLog(log),
        verification=Verification(store),
        metrics=metrics,
        health=Health(volume, sockets / DISTRIBUTION_SOCKET, client.find_problem),
        certificate=_certificate_in(configuration.certificates),
        client_certificate=_certificate_in(configuration.client_certificate),
        is_upstream_away=lambda: guard.is_away,
        count_refused_credentials=lambda: client.credentials_refused,
        count_upstream_connections=lambda: client.connections_opened,
    )


def render_metrics(parts: Parts) -> str:
    """Return all metrics in the text format of Prometheus."""
    return parts.metrics.render(
        Snapshot(
            store=parts.store.statistics(),
            is_ready=parts.health.problem is None,
            is_volume_usable=parts.health.is_volume_usable,
            is_upstream_away=parts.is_upstream_away(),
            active_fetches=parts.fetches.count(),
            credentials_refused=parts.count_refused_credentials(),
            upstream_connections=parts.count_upstream_connections(),
            certificate_end=parts.certificate.read_end() if parts.certificate else None,
            client_certificate_end=parts.client_certificate.read_end() if parts.client_certificate else None,
        )
    )


def _certificate_in(folder: Path | None) -> Certificate | None:
    return Certificate(folder) if folder else None


def _other_replica(endpoint: Endpoint, headers: Mapping[str, str], metrics: Metrics) -> AvailabilityGuard:
    # It is in the same cluster, so it is asked without a proxy.
    settings = Settings(
        endpoint.url,
        no_proxy=("*",),
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        headers=headers,
        ca_file=endpoint.ca,
        ca_source="the Secret with the certificate of the cache",
        client_certificate=endpoint.client,
    )
    client = Client(settings, observe=lambda *_: None, log=log, received=metrics.count_replica_bytes)
    return AvailabilityGuard(client, f"the replica {pod_name(endpoint)}", log, HOLDINGS_TYPE)


def _describe(configuration: Configuration) -> dict[str, str]:
    """Return the labels of the metric about the configuration, without any secret."""
    settings = configuration.settings
    return {
        "remote_url": settings.remote_url,
        "tag_check_interval": f"{configuration.tag_check_interval_seconds:g}s",
        "credentials": str(settings.credentials is not None).lower(),
        "proxy": str(bool(settings.http_proxy or settings.https_proxy)).lower(),
        "ca": str(settings.ca_file is not None).lower(),
    }
