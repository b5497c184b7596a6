"""Metrics in Prometheus' text format."""

from __future__ import annotations

import time

from common.prometheus_text import Histogram, Metric, Sample, format_metrics, process_metrics


def test_metric_has_its_help_its_type_and_its_samples() -> None:
    samples = [Sample({"result": "ok"}, 3), Sample({}, 0.5)]
    assert format_metrics([Metric("probes_total", "counter", "Probes by result.", samples)]) == (
        "# HELP probes_total Probes by result.\n"
        "# TYPE probes_total counter\n"
        'probes_total{result="ok"} 3\n'
        "probes_total 0.5\n"
    )


def test_common_labels_come_first_and_truth_is_a_number() -> None:
    metrics = [Metric("ready", "gauge", "Whether.", [Sample({"pod": "a"}, True), Sample({}, False)])]  # noqa: FBT003
    assert format_metrics(metrics, {"upstream_host": "docker.io"}).splitlines()[2:] == [
        'ready{upstream_host="docker.io",pod="a"} 1',
        'ready{upstream_host="docker.io"} 0',
    ]


def test_values_of_labels_are_escaped() -> None:
    metric = Metric("info", "gauge", "About.", [Sample({"url": 'a\\b"c\nd'}, 1)])
    assert format_metrics([metric]).splitlines()[-1] == r'info{url="a\\b\"c\nd"} 1'


def test_histogram_counts_up_to_each_bound() -> None:
    histogram = Histogram((0.1, 1.0))
    for seconds in (0.05, 0.1, 0.5, 2.0):
        histogram.observe(seconds)
    metric = Metric("duration_seconds", "histogram", "How long.", histogram.samples({"method": "GET"}))
    assert format_metrics([metric]).splitlines()[2:] == [
        'duration_seconds_bucket{method="GET",le="0.1"} 2',
        'duration_seconds_bucket{method="GET",le="1.0"} 3',
        'duration_seconds_bucket{method="GET",le="+Inf"} 4',
        'duration_seconds_sum{method="GET"} 2.65',
        'duration_seconds_count{method="GET"} 4',
    ]


def test_metrics_of_the_process_have_its_start_cpu_time_and_memory() -> None:
    start = time.time()
    values = {metric.name: next(iter(metric.samples)).value for metric in process_metrics(start)}
    assert values["process_start_time_seconds"] == round(start, 2)
    assert values["process_cpu_seconds_total"] > 0
    assert values["process_resident_memory_bytes"] > 1 << 20
