"""Keeps the volume within the limits of the configuration, and records how far large incoming blobs are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.log import ProblemLog, log

from gate.configuration import read_limits

if TYPE_CHECKING:
    import threading
    from pathlib import Path

    from access.public import PublicRepositories
    from store.store import Store

    from gate.configuration import Limits
    from gate.metrics import Metrics

INTERVAL_SECONDS = 5.0


def keep_house(
    store: Store,
    metrics: Metrics,
    configuration_folder: Path,
    stop: threading.Event,
    public: PublicRepositories | None = None,
) -> None:
    """Record incoming blobs and public repositories, and expire and evict content, until `stop` is set.

    The limits are read again each time, since the kubelet updates the file while the gate runs.
    """
    problems = ProblemLog(log)
    while not stop.wait(INTERVAL_SECONDS):
        problem = ""
        store.record_incoming_blobs()
        if public is not None:
            public.record()
        try:
            _clean_up(store, metrics, read_limits(configuration_folder))
        except (OSError, ValueError) as error:
            problem = f"nothing is removed from the volume: {error}"
        problems.note(problem)


def _clean_up(store: Store, metrics: Metrics, limits: Limits) -> None:
    metrics.set_configuration(limits.version, limits.ttl_seconds)
    if store.set_limits(limits.capacity_bytes, limits.high_water):
        log(f"using the volume up to {limits.high_water:.0%} of {limits.capacity_bytes} bytes")
    for reason, removed in (
        ("not used for longer than the TTL", store.expire(limits.ttl_seconds)),
        ("to make room", store.evict_above_high_water()),
    ):
        if removed:
            log(f"removed {len(removed)} blobs: {reason}")
