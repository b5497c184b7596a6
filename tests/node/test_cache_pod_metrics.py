"""The metrics of a cache pod are exactly right, by the upstream's access log and by what clients received."""

from __future__ import annotations

import http.client
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from experiments.pod_bench import UPSTREAM
from machine import tools
from machine.processes import wait_for
from node.cache_pod_support import get

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.cache_pod import CachePod
    from experiments.pod_bench import Bench

CLIENTS = 100
LIMIT_SECONDS = 30.0


@pytest.fixture
def pod(bench: Bench) -> Iterator[CachePod]:
    """A pod that fetches nothing ahead, because the first request for such a blob is a hit."""
    with bench.pod(values={"cachePods": {"fetchAhead": "Never"}}) as running:
        yield running


def settled(pod: CachePod, kind: str, pushed: int) -> dict[str, float]:
    """Return the metrics, once they include the last bytes that the front sent."""
    name = f'registry_proxy_pushed_bytes_total{{type="{kind}"}}'
    wait_for(f"{pushed} bytes to be counted", lambda: pod.metrics()[name] >= pushed, LIMIT_SECONDS, 0.05)
    return pod.metrics()


def test_bytes_and_requests_match_the_upstreams_log_and_the_clients(bench: Bench, pod: CachePod) -> None:
    image = bench.push("exact", layers=3)
    digests = list(image.blobs)
    mark = bench.upstream.mark()
    sent = 0
    for _ in range(2):
        assert get(pod, "/v2/library/exact/manifests/1")[0] == 200
        for digest in digests:
            sent += len(get(pod, f"/v2/library/exact/blobs/{digest}")[1])
    status, part = get(pod, f"/v2/library/exact/blobs/{digests[0]}", Range="bytes=10-99")
    assert (status, len(part)) == (206, 90)
    assert get(pod, f"/v2/library/exact/blobs/{digests[0]}", method="HEAD") == (200, b"")
    metrics = settled(pod, "blob", sent + len(part))
    asked = bench.upstream.requests(mark)
    assert metrics['registry_proxy_pushed_bytes_total{type="blob"}'] == sent + 90
    assert metrics['registry_proxy_pushed_bytes_total{type="manifest"}'] == 2 * len(image.manifest)
    assert metrics['registry_proxy_pulled_bytes_total{type="blob"}'] == sum(r.body_bytes for r in asked if r.is_blob)
    assert metrics['registry_proxy_pulled_bytes_total{type="manifest"}'] == len(image.manifest)
    assert metrics['registry_proxy_misses_total{type="blob"}'] == len(digests)
    assert metrics['registry_proxy_hits_total{type="blob"}'] == len(digests) + 2
    assert metrics['registry_proxy_requests_total{type="blob"}'] == 2 * len(digests) + 2
    assert metrics['registry_proxy_misses_total{type="manifest"}'] == 1
    assert metrics['registry_proxy_hits_total{type="manifest"}'] == 1
    by_method = {
        method: sum(v for k, v in metrics.items() if k.startswith("registry_cache_upstream_requests_total") and of in k)
        for method, of in (("GET", 'method="GET"'), ("HEAD", 'method="HEAD"'))
    }
    assert by_method == {method: sum(r.method == method for r in asked) for method in ("GET", "HEAD")}


def test_bytes_of_many_clients_at_once_are_all_counted(bench: Bench, pod: CachePod) -> None:
    image = bench.push("crowd", layers=2, size=20_000)
    paths = [f"/v2/library/crowd/blobs/{digest}" for digest in image.blobs] * 200
    with ThreadPoolExecutor(CLIENTS) as pool:
        sent = sum(len(body) for _, body in pool.map(lambda path: get(pod, path), paths))
    metrics = settled(pod, "blob", sent)
    assert metrics['registry_proxy_pushed_bytes_total{type="blob"}'] == sent
    assert metrics["registry_cache_uncounted_responses_total"] == 0
    assert metrics['registry_proxy_requests_total{type="blob"}'] == len(paths)


def test_abandoned_response_counts_the_bytes_that_were_sent(bench: Bench, pod: CachePod) -> None:
    image = bench.push("left", layers=1, size=40_000_000)
    digest = max(image.blobs, key=lambda each: len(image.blobs[each]))
    whole = len(get(pod, f"/v2/library/left/blobs/{digest}")[1])
    settled(pod, "blob", whole)
    connection = http.client.HTTPConnection(urlsplit(pod.url).netloc, timeout=60)
    connection.request("GET", f"/v2/library/left/blobs/{digest}?ns={UPSTREAM}")
    assert connection.getresponse().read(1000)
    connection.close()
    metrics = settled(pod, "blob", whole + 1000)
    assert whole + 1000 <= metrics['registry_proxy_pushed_bytes_total{type="blob"}'] < 2 * whole


def test_resumed_fetch_counts_each_received_byte(bench: Bench, pod: CachePod) -> None:
    image = bench.push("broken", size=900_000)
    digest = max(image.blobs, key=lambda each: len(image.blobs[each]))
    mark = bench.upstream.mark()
    bench.upstream.break_off(UPSTREAM, 300_000)
    try:
        status, body = get(pod, f"/v2/library/broken/blobs/{digest}")
    finally:
        bench.upstream.resume()
    assert (status, body) == (200, image.blobs[digest])
    asked = [request for request in bench.upstream.requests(mark) if request.is_blob]
    assert len(asked) > 1
    metrics = settled(pod, "blob", len(body))
    pulled = metrics['registry_proxy_pulled_bytes_total{type="blob"}']
    assert len(body) <= pulled <= sum(request.body_bytes for request in asked)


def test_unavailable_upstream_and_refused_requests_are_counted(bench: Bench, pod: CachePod) -> None:
    image = bench.push("away")
    digest = min(image.blobs)
    assert pod.metrics()["registry_cache_upstream_up"] == 1
    bench.upstream.too_many_requests(UPSTREAM, retry_after=5)
    try:
        assert get(pod, f"/v2/library/away/blobs/{digest}")[0] == 503
    finally:
        bench.upstream.resume()
    metrics = pod.metrics()
    # One repository that is limited says nothing about the upstream.
    assert metrics["registry_cache_upstream_up"] == 1
    assert metrics['registry_cache_upstream_requests_total{method="GET",outcome="429"}'] == 1
    assert metrics['registry_cache_refused_requests_total{reason="429"}'] == 1
    assert get(pod, "/v2/x/blobs/uploads/", method="POST")[0] == 405
    assert pod.metrics()['registry_cache_refused_requests_total{reason="push"}'] == 1


def test_requests_between_replicas_are_not_counted_as_clients_requests(bench: Bench) -> None:
    image = bench.push("replicas-told", layers=4)
    cache = {"upstream": UPSTREAM, "highAvailability": {"enabled": True}}
    pods = [bench.new_pod(cache, ordinal=ordinal) for ordinal in range(2)]
    mark = bench.upstream.mark()
    try:
        for pod in pods:
            pod.hosts += "".join(each.host_line for each in pods)
            pod.start()
        sent = sum(
            len(get(pod, f"/v2/library/replicas-told/blobs/{digest}")[1]) for pod in pods for digest in image.blobs
        )
        metrics = [settled(pod, "blob", sent // 2) for pod in pods]
    finally:
        for pod in pods:
            pod.close()

    def total(name: str) -> float:
        return sum(each[name] for each in metrics)

    assert total('registry_proxy_requests_total{type="blob"}') == 2 * len(image.blobs)
    assert total('registry_proxy_pushed_bytes_total{type="blob"}') == sent
    pulled = sum(request.body_bytes for request in bench.upstream.requests(mark))
    assert total('registry_proxy_pulled_bytes_total{type="blob"}') == pulled == sent // 2
    assert total("registry_cache_replica_fetched_bytes_total") == sent // 2


def test_promtool_accepts_the_metrics(pod: CachePod) -> None:
    text = pod.metrics_text()
    promtool = tools.debian_program("promtool")
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    assert len(samples) < 250
    assert all('{upstream_host="docker.io"' in line for line in samples)
