"""Each blob and manifest is fetched from the upstream once for all clients, whatever they do."""

from __future__ import annotations

import http.client
import socket
import struct
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from experiments.cache_client import (
    HANG_SECONDS,
    Response,
    blob_path,
    connect,
    manifest_path,
    run_together,
    send_request,
)
from experiments.pod_bench import UPSTREAM
from machine.processes import wait_for
from node.cache_pod_support import (
    FAST_SECONDS,
    assert_no_defect,
    data_file,
    is_right,
    pull,
    pull_together,
    sent_bytes,
    sent_references,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.cache_pod import CachePod
    from experiments.pod_bench import Bench
    from upstreams import oci

CLIENTS = 50
MIB = 1 << 20


@pytest.fixture(scope="module")
def shared_pod(bench: Bench) -> Iterator[CachePod]:
    with bench.pod() as running:
        yield running
        assert_no_defect(running)


@pytest.fixture
def pod(bench: Bench, shared_pod: CachePod) -> Iterator[CachePod]:
    """A pod whose upstream's faults end with the test."""
    yield shared_pod
    bench.upstream.resume()


@pytest.fixture(scope="module")
def hung(bench: Bench, shared_pod: CachePod) -> Iterator[tuple[oci.Image, dict[str, Future[Response]]]]:
    """Requests to a pod whose gate hangs; the front waits 14 s for it, and the other tests run in that time."""
    image = bench.push("hung")
    unseen = bench.push("hung-unseen")
    with bench.pod() as pod, ThreadPoolExecutor(CLIENTS) as pool:
        pull(pod, "hung", image)
        pod.hang("gate")
        paths = [manifest_path("hung"), manifest_path("hung", image.digest), manifest_path("hung-unseen")]
        paths += [blob_path("hung", digest) for digest in image.blobs]
        paths += [blob_path("hung-unseen", digest) for digest in unseen.blobs]
        yield image, {path: pool.submit(send_request, pod, path) for path in paths}


@pytest.fixture(autouse=True)
def _early(hung: object) -> None:
    """Begin with the first test."""


def hang_up(client: socket.socket) -> None:
    client.close()


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def stall(client: socket.socket) -> None:
    """Read nothing while the others read."""


@pytest.mark.parametrize("misbehave", [hang_up, reset, stall])
def test_misbehaving_first_client_costs_the_others_nothing(bench: Bench, pod: CachePod, misbehave: object) -> None:
    name = misbehave.__name__.replace("_", "-")  # type: ignore[attr-defined]
    image = bench.push(name, layers=9, size=100_000)
    assert len(image.layers) == 10
    mark = bench.upstream.mark()
    assert send_request(pod, manifest_path(name)).status == 200
    bench.upstream.bandwidth(UPSTREAM, 2 * MIB)
    first = []
    for digest in image.blobs:
        client = socket.create_connection((pod.address, 5000))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        client.sendall(f"GET {blob_path(name, digest)} HTTP/1.1\r\nHost: cache\r\n\r\n".encode())
        first.append(client)
    wait_for("the upstream to be asked", lambda: pod.metrics()["registry_cache_stored_manifests"] >= 1, HANG_SECONDS)
    with ThreadPoolExecutor(1) as pool:
        others = pool.submit(pull_together, pod, name, image, CLIENTS)
        time.sleep(0.3)  # in the middle of the transfers, which take about two seconds
        for client in first:
            misbehave(client)  # type: ignore[operator]
        others.result(HANG_SECONDS)
    requests = bench.upstream.requests(mark)
    for client in first:
        client.close()
    assert sent_references(requests) == sorted(["1", *image.blobs])
    assert sent_bytes(requests) <= 1.02 * image.size


def test_bodies_without_a_length_are_fetched_once_for_all(bench: Bench, pod: CachePod) -> None:
    image = bench.push("no-length", layers=9)
    bench.upstream.no_length(UPSTREAM)
    mark = bench.upstream.mark()
    begun = time.monotonic()
    pull_together(pod, "no-length", image, CLIENTS)
    print(f"{CLIENTS} clients pulled {image.size} bytes each in {time.monotonic() - begun:.1f} s")
    requests = bench.upstream.requests(mark)
    assert sent_references(requests) == sorted(["1", *image.blobs])
    assert sent_bytes(requests) <= 1.02 * image.size


@pytest.mark.parametrize("containers", [("gate",), ("front", "gate", "distribution")], ids=["gate", "pod"])
def test_restart_during_a_fetch_costs_at_most_one_more(
    bench: Bench, pod: CachePod, containers: tuple[str, ...]
) -> None:
    name = f"restart-{len(containers)}"
    image = bench.push(name, layers=2, size=2 * MIB)
    mark = bench.upstream.mark()
    assert send_request(pod, manifest_path(name)).status == 200
    bench.upstream.bandwidth(UPSTREAM, MIB)
    digest, content = next((each, layer) for each, layer in image.blobs.items() if len(layer) > 2 * MIB)
    parts = pod.volume_folder / "parts"
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(_is_complete, pod, blob_path(name, digest), content)
        wait_for("the blob to be under way", lambda: list(parts.iterdir()), HANG_SECONDS, 0.02)
        for container in containers:
            pod.kill(container)
        assert not under_way.result(HANG_SECONDS)
    for container in containers:
        pod.start_container(container)
    pod.wait_until_ready()
    assert list(parts.iterdir()) == []
    bench.upstream.resume()
    pull_together(pod, name, image, CLIENTS)
    requests = bench.upstream.requests(mark)
    assert sum(each.digest == digest for each in requests) <= 2
    assert sent_bytes(requests) <= 1.02 * image.size + len(content)


def _is_complete(pod: CachePod, path: str, content: bytes) -> bool:
    """Return whether all of the content came; otherwise the response must be an error, or the connection must end."""
    try:
        return is_right(send_request(pod, path), content)
    except (ConnectionError, http.client.HTTPException):
        return False


def test_long_blob_is_sent_while_it_is_fetched_and_breaks_off_with_the_fetch(bench: Bench, pod: CachePod) -> None:
    """The upstream's connections are cut while the first blob comes, and it is stopped while the second one does."""
    image = bench.push("long", layers=1, size=1)
    long = bench.push("long-ended", layers=2, size=4 * MIB)
    lost = bench.push("long-lost", layers=2, size=16 * MIB)
    (whole_digest, whole), (lost_digest, lost_content) = (
        max(each.blobs.items(), key=lambda blob: len(blob[1])) for each in (long, lost)
    )
    pull_together(pod, "long", image, 1)
    for name in ("long-ended", "long-lost"):
        assert send_request(pod, manifest_path(name)).status == 200
    bench.upstream.bandwidth(UPSTREAM, 800_000)
    mark = bench.upstream.mark()
    begun = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as pool:
        all_of_it = [pool.submit(send_request, pod, blob_path("long-ended", whole_digest)) for _ in range(20)]
        path = blob_path("long-ended", whole_digest)
        middle = pool.submit(send_request, pod, path, Range="bytes=1000000-1999999")
        rest = pool.submit(send_request, pod, path, Range="bytes=3000000-")
        resumed = pool.submit(_break_off_and_resume, pod, path, len(whole))
        time.sleep(4)
        bench.upstream.bandwidth(UPSTREAM, 800_000)  # cuts the responses
        assert resumed.result(HANG_SECONDS) == whole
        for each in all_of_it:
            assert is_right(each.result(HANG_SECONDS), whole)
        ended = time.monotonic() - begun
        first = max(each.result().head_seconds for each in all_of_it)
        print(f"a blob that takes {ended:.1f} s: the last client's head after {first:.1f} s")
        assert first < ended
        got = middle.result(HANG_SECONDS)
        assert (got.status, got.body) == (206, whole[1_000_000:2_000_000])
        assert got.headers["Content-Range"] == f"bytes 1000000-1999999/{len(whole)}"
        got = rest.result(HANG_SECONDS)
        assert (got.status, got.body) == (206, whole[3_000_000:])
        requests = [each for each in bench.upstream.requests(mark) if each.digest == whole_digest]
        # The range in the middle had not come yet when it was requested, so it was fetched on its own.
        assert sent_bytes(requests) <= 1.02 * len(whole) + 1_000_000
        # These are sent at once, since they resume; each takes 20 s.
        agent = {"User-Agent": "containerd/v2.4.2"}
        broken = [pool.submit(send_request, pod, blob_path("long-lost", lost_digest), **agent) for _ in range(3)]
        time.sleep(3)
        assert not any(each.done() for each in broken)
        bench.upstream.stop()
        stopped = time.monotonic()
        for each in broken:
            got = each.result(HANG_SECONDS)
            assert (got.status, got.whole, got.headers["Content-Length"]) == (200, False, str(len(lost_content)))
            assert got.body == lost_content[: len(got.body)]
        print(f"it broke off {time.monotonic() - stopped:.1f} s after the upstream went away")
    again = send_request(pod, blob_path("long-lost", lost_digest), Range=f"bytes={len(got.body)}-")
    print(f"and the rest was refused with {again.status} in {again.head_seconds:.3f} s")
    assert (again.status, again.refused) == (503, True)
    assert again.head_seconds < FAST_SECONDS
    assert not data_file(pod, lost_digest).exists()
    assert run_together(lambda each: send_request(pod, blob_path("long", each[0])).body == each[1], image.blobs.items())


def _break_off_and_resume(pod: CachePod, path: str, size: int) -> bytes:
    """Read a third, close the connection, and request the rest."""
    connection = connect(pod)
    connection.request("GET", path)
    response = connection.getresponse()
    assert response.status == 200
    begin = response.read(size // 3)
    connection.close()
    got = send_request(pod, path, Range=f"bytes={len(begin)}-")
    assert (got.status, got.whole) == (206, True)
    return begin + got.body


def test_hung_gate_costs_time_and_no_cached_content(
    hung: tuple[oci.Image, dict[str, Future[Response]]],
) -> None:
    """That is the state until the kubelet restarts it."""
    image, answers = hung
    known = {manifest_path("hung"): image.manifest, manifest_path("hung", image.digest): image.manifest}
    known |= {blob_path("hung", digest): content for digest, content in image.blobs.items()}
    for path, answer in answers.items():
        got = answer.result(HANG_SECONDS)
        if path in known:
            assert is_right(got, known[path])
        else:
            assert got.refused
        assert got.head_seconds < HANG_SECONDS / 2
    print(f"behind a gate that hangs: {max(each.result().head_seconds for each in answers.values()):.1f} s")
