"""What layers that are fetched ahead cost, by the bytes that the upstream sent, and what they save."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from experiments.cache_client import HANG_SECONDS, blob_path, manifest_path, send_request
from machine.processes import wait_for
from node.cache_pod_support import is_right, sent_bytes, sent_references

if TYPE_CHECKING:
    from cluster.cache_pod import CachePod
    from experiments.pod_bench import Bench

LAYERS = 10
LAYER_BYTES = 4 << 20
AGENT = {"User-Agent": "containerd/v2.4.2"}


def wait_until_idle(pod: CachePod) -> None:
    wait_for("all fetches to end", lambda: pod.metrics()["registry_cache_active_fetches"] == 0, HANG_SECONDS)


@pytest.mark.parametrize(
    ("mode", "wasted_layers"), [("Never", 0.0), ("Adaptive", 0.0), ("Always", 3.1)], ids=["never", "adaptive", "always"]
)
def test_node_that_has_nine_of_ten_layers_costs_the_tenth_one(bench: Bench, mode: str, wasted_layers: float) -> None:
    """With Always, the beginnings of three layers come in vain. Layers of this size fit into the buffers on the way."""
    image = bench.push(f"nine-of-ten-{mode.lower()}", layers=LAYERS - 1, size=LAYER_BYTES)
    last = image.layers[-1]
    with bench.pod(values={"cachePods": {"fetchAhead": mode}}) as pod:
        mark = bench.upstream.mark()
        assert send_request(pod, manifest_path(f"nine-of-ten-{mode.lower()}"), **AGENT).status == 200
        digest = next(digest for digest, content in image.blobs.items() if content == last)
        for wanted in (next(iter(image.blobs)), digest):
            response = send_request(pod, blob_path(f"nine-of-ten-{mode.lower()}", wanted), **AGENT)
            assert is_right(response, image.blobs[wanted])
        wait_until_idle(pod)
        sent = sent_bytes(bench.upstream.requests(mark))
    needed = len(image.manifest) + len(last) + len(next(iter(image.blobs.values())))
    print(
        f"{mode}: {sent} bytes came, of which {needed} were needed: {(sent - needed) / LAYER_BYTES:.2f} layers in vain"
    )
    assert sent - needed <= wasted_layers * LAYER_BYTES


def test_node_that_requests_layers_in_their_order_gets_each_byte_once(bench: Bench) -> None:
    """The upstream is too near for Adaptive to help, so this takes Always."""
    image = bench.push("in-order", layers=LAYERS - 1, size=LAYER_BYTES)
    with bench.pod(values={"cachePods": {"fetchAhead": "Always"}}) as pod:
        mark = bench.upstream.mark()
        assert send_request(pod, manifest_path("in-order"), **AGENT).status == 200
        for digest, content in image.blobs.items():
            assert is_right(send_request(pod, blob_path("in-order", digest), **AGENT), content)
        wait_until_idle(pod)
        requests = bench.upstream.requests(mark)
        # Most layers were there, or on their way, when they were requested.
        assert pod.metrics()['registry_proxy_hits_total{type="blob"}'] >= LAYERS - 3, (
            "most layers were there when they were requested"
        )
    assert sent_references(requests) == sorted(["1", *image.blobs])
    assert sent_bytes(requests) <= 1.02 * image.size
