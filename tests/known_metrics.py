"""The names of all metrics that the programs tell, from their own mouths, and those of others that are asked for."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from typing import Any

from gate.metrics import Metrics as CacheMetrics
from gate.metrics import Now
from node_program.metrics import Metrics as NodeMetrics
from store.store import Statistics

OTHERS = {"up", "kube_pod_container_status_restarts_total"}


@cache
def known_metrics() -> set[str]:
    """All of them; a histogram's parts under their own names."""
    nodes = NodeMetrics(["docker.io"])
    nodes.containerd(reads=True)
    stored = Statistics(0, 0, 0, 0, 0, 0, 1.0, Counter(), 0, 0, 0.85)
    told = CacheMetrics("docker.io").text(Now(stored, True, False, 0, 0)) + nodes.text()  # noqa: FBT003 - a record
    return set(re.findall(r"^(\w+)(?=[{ ])", told, re.MULTILINE)) | OTHERS


def metrics_of(expression: Any) -> set[str]:
    """The names of all metrics in an expression."""
    if name := getattr(expression, "name", None):
        return {name}
    parts = [getattr(expression, key, None) for key in ("lhs", "rhs", "expr", "vector_selector")]
    parts += list(getattr(expression, "args", None) or [])
    return {name for part in parts if part is not None for name in metrics_of(part)}
