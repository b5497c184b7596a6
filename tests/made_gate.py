"""The gate of tests: its parts around a source that does what a test says, and its server on a socket."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from common.endpoint import Endpoint
from fetching.fetches import Fetches
from fetching.ranges import Ranges
from gate.ahead import NEVER, Ahead
from gate.health import Health
from gate.manifests import Manifests
from gate.parts import Parts
from gate.refusals import RefusalLog
from gate.repeats import Repeats
from gate.replica_addresses import ReplicaAddresses
from gate.server import Server
from gate.verification import Verification

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fetching.replica_first import ReplicaFirst
    from gate.metrics import Metrics
    from store.store import Store
    from upstream.source import Source

SOCKET = "gate.sock"


def made_parts(  # noqa: PLR0913 - what tests choose
    folder: Path,
    store: Store,
    source: Source,
    replicas: ReplicaFirst,
    metrics: Metrics,
    *,
    tag_check_interval_seconds: float = 5.0,
    may_read: Callable[[str, str], bool] = lambda *_: True,
    log: Callable[[str], None] = print,
) -> Parts:
    """Return parts of a cache that anyone may pull from, and that is ready."""
    fetches = Fetches(store, source, log)
    parts = Parts(
        upstream="docker.io",
        allowed_repositories=frozenset(),
        store=store,
        source=source,
        replicas=replicas,
        replica_addresses=ReplicaAddresses([Endpoint("http", "localhost", 5000)]),
        fetches=fetches,
        ranges=Ranges(source),
        ahead=Ahead(NEVER, store, fetches, print, lambda: 1.0),
        manifests=Manifests(
            store,
            source,
            tag_check_interval_seconds=tag_check_interval_seconds,
            may_read=may_read,
            count_tag_lookup=metrics.count_tag_lookup,
            log=log,
        ),
        pullers=None,
        public=None,
        repeats=Repeats(),
        refusal_log=RefusalLog(log),
        verification=Verification(store),
        metrics=metrics,
        health=Health(folder / "volume", folder / "distribution.sock"),
        certificate=None,
        client_certificate=None,
        is_upstream_away=lambda: False,
        count_refused_credentials=lambda: 3,
        count_upstream_connections=lambda: 4,
    )
    parts.health.is_loaded = True
    return parts


@contextmanager
def serving(folder: Path, parts: Parts) -> Iterator[None]:
    """Answer on a socket in a folder."""
    with Server(folder / SOCKET, parts) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()
