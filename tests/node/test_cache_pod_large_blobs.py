"""Layers of hundreds of megabytes: they resume after a restart of the pod, and take no memory of the gate."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cluster import images
from experiments.cache_client import HANG_SECONDS, blob_path, connect, manifest_path, send_request
from experiments.pod_bench import UPSTREAM
from machine.processes import wait_for
from node.cache_pod_support import assert_no_defect, is_right, sent_bytes
from store.layout import INTERRUPTED
from upstreams import oci

if TYPE_CHECKING:
    from cluster.cache_pod import CachePod
    from experiments.pod_bench import Bench

pytestmark = pytest.mark.usefixtures("faults_end")

MIB = 1 << 20
# Smaller layers do not resume. docs/decisions/0006-the-cache-pod.md has the memory for 2048 MiB.
LARGE_BYTES = 300 * MIB
MAX_GROWTH_BYTES = 20 * MIB


@pytest.fixture(scope="module")
def layer(bench: Bench) -> tuple[str, bytes]:
    """The digest and the content of a large layer of library/large:1."""
    files = {f"{n:04}": random.Random(n).randbytes(MIB) for n in range(LARGE_BYTES // MIB)}  # noqa: S311 - no secret
    content = oci.layer_of_files(files)
    bench.upstream.push(f"{UPSTREAM}/library/large:1", images.busybox(content))
    return oci.digest(content), content


def recorded_bytes(pod: CachePod) -> int:
    """Return how much of an incoming blob would survive now."""
    names = [INTERRUPTED.fullmatch(path.name) for path in (pod.volume_folder / "parts").iterdir()]
    return max((int(name[2]) for name in names if name), default=0)


def hash_blob(pod: CachePod, digest: str, has_begun: threading.Event) -> str:
    """Request the layer, and return the digest of what came, without keeping it; `has_begun` is set after a third."""
    connection = connect(pod)
    connection.request("GET", f"{blob_path('large', digest)}?ns={UPSTREAM}", headers={"User-Agent": "containerd/2.0"})
    response = connection.getresponse()
    assert response.status == 200
    received, size = hashlib.sha256(), 0
    while part := response.read(MIB):
        received.update(part)
        size += len(part)
        if size > LARGE_BYTES // 3:
            has_begun.set()
    connection.close()
    return f"sha256:{received.hexdigest()}"


def memory_bytes(pod: CachePod, kind: str) -> int:
    """Return the resident memory of the gate, `VmRSS` now or `VmHWM` at most."""
    sizes = []
    for process in pod.processes("gate"):
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        sizes += [int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{kind}:")]
    return max(sizes)


def test_large_blob_resumes_after_the_pod_was_killed(bench: Bench, layer: tuple[str, bytes]) -> None:
    digest, content = layer
    with bench.pod() as pod, ThreadPoolExecutor(1) as pool:
        mark = bench.upstream.mark()
        assert send_request(pod, manifest_path("large")).status == 200
        bench.upstream.bandwidth(UPSTREAM, 20 * MIB)
        headers = {"User-Agent": "containerd/2.0"}
        broken = pool.submit(send_request, pod, blob_path("large", digest), **headers)
        wait_for("a third to be recorded", lambda: recorded_bytes(pod) > len(content) // 3, HANG_SECONDS, 0.02)
        for container in pod.containers:
            pod.kill(container)
        got = broken.result(HANG_SECONDS)
        assert not got.whole
        assert content.startswith(got.body)
        bench.upstream.resume()
        kept = recorded_bytes(pod)
        for container in pod.containers:
            pod.start_container(container)
        pod.wait_until_ready()
        assert recorded_bytes(pod) == kept
        assert is_right(send_request(pod, blob_path("large", digest), **headers), content)
        assert list((pod.volume_folder / "parts").iterdir()) == []
        sent = sent_bytes([each for each in bench.upstream.requests(mark) if each.is_blob])
        print(f"killed after {kept} bytes; the upstream sent {sent} for {len(content)}")
        assert sent <= 1.1 * len(content)
        assert_no_defect(pod)


def test_large_blob_takes_no_memory_and_is_fetched_once(bench: Bench, layer: tuple[str, bytes]) -> None:
    digest, content = layer
    with bench.pod() as pod, ThreadPoolExecutor(2) as pool:
        mark = bench.upstream.mark()
        assert send_request(pod, manifest_path("large")).status == 200
        before = memory_bytes(pod, "VmRSS")
        begun, has_begun = time.monotonic(), threading.Event()
        first = pool.submit(hash_blob, pod, digest, has_begun)
        assert has_begun.wait(10 * HANG_SECONDS)
        second = pool.submit(hash_blob, pod, digest, has_begun)
        assert first.result(10 * HANG_SECONDS) == second.result(10 * HANG_SECONDS) == digest
        seconds, growth = time.monotonic() - begun, memory_bytes(pod, "VmHWM") - before
        print(f"{len(content)} bytes in {seconds:.1f} s: memory grew from {before} by {growth} bytes")
        assert growth < MAX_GROWTH_BYTES
        assert sent_bytes([each for each in bench.upstream.requests(mark) if each.is_blob]) <= 1.02 * len(content)
