"""Prometheus' text format (version 0.0.4, prometheus/docs, "Exposition formats")."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Sample(NamedTuple):
    """A value with its labels; `suffix` follows the name of the metric, as the samples of a histogram have it."""

    labels: Mapping[str, str]
    value: float
    suffix: str = ""


class Metric(NamedTuple):
    """A counter, gauge or histogram with what it means and its samples."""

    name: str
    kind: str
    description: str
    samples: Iterable[Sample]


class Histogram:
    """Counts durations by upper bounds in seconds. Threads that share one must hold a lock."""

    def __init__(self, bounds: Iterable[float]) -> None:
        """Count nothing yet."""
        self._counts = dict.fromkeys(bounds, 0)
        self._total = 0
        self._seconds = 0.0

    def observe(self, seconds: float) -> None:
        """Count a duration."""
        self._total += 1
        self._seconds += seconds
        for bound in self._counts:
            self._counts[bound] += seconds <= bound

    def samples(self, labels: Mapping[str, str]) -> Iterator[Sample]:
        """Yield the samples of a metric of kind `histogram`."""
        for bound, count in self._counts.items():
            yield Sample({**labels, "le": str(bound)}, count, "_bucket")
        yield Sample({**labels, "le": "+Inf"}, self._total, "_bucket")
        yield Sample(labels, round(self._seconds, 6), "_sum")
        yield Sample(labels, self._total, "_count")


def format_metrics(metrics: Iterable[Metric], labels: Mapping[str, str] | None = None) -> str:
    """Return metrics as text; `labels` are added to each sample."""
    return "".join(f"{line}\n" for metric in metrics for line in _lines(metric, labels or {}))


def process_metrics(start_time: float) -> Iterator[Metric]:
    """Yield the metrics that every process should have (Prometheus, "Writing client libraries"), if they are useful."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - at each scrape
        resident_bytes = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    for name, kind, description, value in (
        ("start_time_seconds", "gauge", "When the program started.", round(start_time, 2)),
        ("cpu_seconds_total", "counter", "CPU time that the program used.", round(time.process_time(), 2)),
        ("resident_memory_bytes", "gauge", "Memory that the program uses.", resident_bytes),
    ):
        yield Metric(f"process_{name}", kind, description, [Sample({}, value)])


def _lines(metric: Metric, common_labels: Mapping[str, str]) -> Iterator[str]:
    yield f"# HELP {metric.name} {metric.description}"
    yield f"# TYPE {metric.name} {metric.kind}"
    for sample in metric.samples:
        pairs = {**common_labels, **sample.labels}.items()
        labels = ",".join(f'{name}="{_escape(value)}"' for name, value in pairs)
        value = int(sample.value) if isinstance(sample.value, bool) else sample.value
        yield f"{metric.name}{sample.suffix}{f'{{{labels}}}' if labels else ''} {value}"


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
