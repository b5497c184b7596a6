"""The names of all metrics that the programs export, as the programs render them, and of others that rules use."""

from __future__ import annotations

import functools
import re
from collections import Counter
from typing import Any

from gate.metrics import Metrics as CacheMetrics
from gate.metrics import Snapshot
from node_program.metrics import Metrics as NodeMetrics
from store.statistics import Statistics
from upstream.reference import MANIFEST, Reference

OTHERS = {"up", "kube_pod_container_status_restarts_total"}
EMPTY_CACHE = Snapshot(
    store=Statistics(
        stored_bytes=0,
        blobs=0,
        manifests=0,
        tags=0,
        usable_bytes=0,
        free_bytes=0,
        least_recent_use=1.0,
        removed=Counter(),
        refetched_bytes=0,
        inaccessible_files=0,
        high_water=0.85,
    ),
    is_ready=True,
    is_volume_usable=True,
    is_upstream_away=False,
    active_fetches=0,
    credentials_refused=0,
    upstream_connections=0,
    certificate_end=1.0,
    client_certificate_end=1.0,
)


@functools.cache
def known_metrics() -> set[str]:
    """Return all names, those of the parts of a histogram included."""
    nodes = NodeMetrics(["docker.io"])
    nodes.set_containerd_reads_directory(reads=True)
    nodes.set_uses_proxy("docker.io", uses_proxy=False)
    cache = CacheMetrics("docker.io")
    cache.count_pulled_bytes(Reference(MANIFEST, "library/nginx", "1"), 1)
    text = cache.render(EMPTY_CACHE) + nodes.render()
    return set(re.findall(r"^(\w+)(?=[{ ])", text, re.MULTILINE)) | OTHERS


def metrics_of(expression: Any) -> set[str]:
    """Return the names of all metrics in an expression."""
    if name := getattr(expression, "name", None):
        return {name}
    parts = [getattr(expression, key, None) for key in ("lhs", "rhs", "expr", "vector_selector")]
    parts += list(getattr(expression, "args", None) or [])
    return {name for part in parts if part is not None for name in metrics_of(part)}
