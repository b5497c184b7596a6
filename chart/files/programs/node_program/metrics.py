"""What the node program tells Prometheus."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

from common.http_status import StatusServer
from common.log import ProblemLog, describe_oserror, log
from common.prometheus_text import Histogram, Metric, Sample, format_metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

# What can be wrong with a probe (cache_probe.ProbeFailed), and why a cache is withdrawn (keeper.Keeper).
PROBE_FAILURES = ("no_address", "no_connection", "timeout", "certificate", "status", "wrong_answer")
WITHDRAWAL_REASONS = (
    *PROBE_FAILURES,
    "program_ends",
    "foreign_file",
    "other_release",
    "not_writable",
    "proxy",
    "program_error",
)
BUCKETS_SECONDS = (0.005, 0.025, 0.1, 0.5, 2.0)


class Metrics:
    """Counters and gauges of the program, safe for its threads."""

    def __init__(self, upstreams: list[str]) -> None:
        """Have every series from the start, so that the first withdrawal is an increase."""
        self._lock = threading.Lock()
        self._active = dict.fromkeys(upstreams, False)
        self._probes = Counter({(upstream, result): 0 for upstream in upstreams for result in ("ok", *PROBE_FAILURES)})
        self._durations = {upstream: Histogram(BUCKETS_SECONDS) for upstream in upstreams}
        self._withdrawals = Counter({(upstream, reason): 0 for upstream in upstreams for reason in WITHDRAWAL_REASONS})
        self._containerd_reads_directory: bool | None = None
        self._uses_proxy: dict[str, bool] = {}
        self._defects = 0

    def count_defect(self) -> None:
        """Count a thread that ended by a defect."""
        with self._lock:
            self._defects += 1

    def count_probe(self, upstream: str, result: str, seconds: float) -> None:
        """Count a probe, how long it took, and its result: `ok`, or one of PROBE_FAILURES."""
        with self._lock:
            self._probes[upstream, result] += 1
            self._durations[upstream].observe(seconds)

    def set_active(self, upstream: str, *, active: bool) -> None:
        """Note whether containerd is pointed to the cache."""
        with self._lock:
            self._active[upstream] = active

    def count_withdrawal(self, upstream: str, reason: str) -> None:
        """Count that a cache in use was withdrawn, for one of WITHDRAWAL_REASONS."""
        with self._lock:
            self._withdrawals[upstream, reason] += 1

    def set_containerd_reads_directory(self, reads: bool | None) -> None:  # noqa: FBT001 - a value
        """Note whether containerd reads the registry directory; None if that is not known."""
        with self._lock:
            self._containerd_reads_directory = reads

    def set_uses_proxy(self, upstream: str, *, uses_proxy: bool) -> None:
        """Note whether containerd would ask the cache through a proxy."""
        with self._lock:
            self._uses_proxy[upstream] = uses_proxy

    def render(self) -> str:
        """Return all metrics in Prometheus' text format."""
        with self._lock:
            return format_metrics(self._metrics())

    def _metrics(self) -> Iterator[Metric]:
        yield Metric(
            "registry_cache_node_mirror_active",
            "gauge",
            "Whether containerd on this node asks the cache before the upstream.",
            [Sample({"upstream_host": upstream}, active) for upstream, active in self._active.items()],
        )
        yield Metric(
            "registry_cache_node_probes_total",
            "counter",
            "Probes of the cache by result: ok, or what was wrong.",
            _by_label("result", self._probes),
        )
        yield Metric(
            "registry_cache_node_probe_duration_seconds",
            "histogram",
            "How long probes of the cache took, including failed ones.",
            [
                sample
                for upstream, histogram in self._durations.items()
                for sample in histogram.samples({"upstream_host": upstream})
            ],
        )
        yield Metric(
            "registry_cache_node_withdrawals_total",
            "counter",
            "How often a cache that was in use was withdrawn, by reason.",
            _by_label("reason", self._withdrawals),
        )
        yield Metric(
            "registry_cache_node_defects_total",
            "counter",
            "Threads of the program that ended by a defect; the log has the tracebacks.",
            [Sample({}, self._defects)],
        )
        if self._containerd_reads_directory is not None:
            yield Metric(
                "registry_cache_node_containerd_reads_registry_directory",
                "gauge",
                "Whether containerd's configuration names the registry directory; absent if unknown.",
                [Sample({}, self._containerd_reads_directory)],
            )
        if self._uses_proxy:
            yield Metric(
                "registry_cache_node_containerd_uses_proxy",
                "gauge",
                "Whether containerd would ask the cache through an HTTP proxy; absent if unknown.",
                [Sample({"upstream_host": upstream}, uses) for upstream, uses in self._uses_proxy.items()],
            )


class MetricsServer:
    """Serves the metrics on the node's network. A port that is taken is logged and tried again, and stops nothing."""

    def __init__(self, metrics: Metrics, port: int, address: str) -> None:
        """Serve nothing before `ensure_listening`, and nothing at all on port 0. No address means all of them."""
        self._port = port
        self._server = StatusServer(port, metrics.render, address=address)
        self._problems = ProblemLog(log)

    def ensure_listening(self) -> None:
        """Start to serve, unless the server does already."""
        if self._port == 0:
            return
        try:
            self._server.listen()
        except OSError as error:
            problem = describe_oserror(error)
            self._problems.note(f"metrics are not served: cannot listen on port {self._port}: {problem}")


def _by_label(label: str, counts: Counter[tuple[str, str]]) -> list[Sample]:
    return [
        Sample({"upstream_host": upstream, label: value}, count) for (upstream, value), count in sorted(counts.items())
    ]
