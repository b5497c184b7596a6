"""The front of a cache pod: without its gate, before it is ready, for requests that are not pulls, and at its end."""

from __future__ import annotations

import resource
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from experiments.cache_client import HANG_SECONDS, blob_path, connect, manifest_path, run_together, send_request
from experiments.pod_bench import UPSTREAM
from machine.processes import wait_for
from made_stores import DOCKER_LIST, DOCKER_MANIFEST, index_of, manifest_of
from node.cache_pod_support import FAST_SECONDS, assert_no_defect, is_right, pull
from store.store import Store
from upstreams import oci

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.cache_pod import CachePod
    from experiments.pod_bench import Bench

pytestmark = pytest.mark.usefixtures("faults_end")

MIB = 1 << 20


@pytest.fixture(scope="module")
def image(bench: Bench) -> oci.Image:
    return bench.push("known")


@pytest.fixture(scope="module")
def pod(bench: Bench, image: oci.Image) -> Iterator[CachePod]:
    """A pod that has an image."""
    begun = time.monotonic()
    with bench.pod() as running:
        seconds = time.monotonic() - begun
        print(f"ready {seconds:.1f} s after the start")
        assert seconds < FAST_SECONDS
        pull(running, "known", image)
        yield running
        assert_no_defect(running)


def test_without_gate_only_cached_images_are_served(bench: Bench, pod: CachePod, image: oci.Image) -> None:
    new = bench.push("unseen")
    pod.kill("gate")
    try:
        pull(pod, "known", image)
        for digest, content in image.blobs.items():
            got = send_request(pod, blob_path("known", digest), Range="bytes=10-")
            assert (got.status, got.body) == (206, content[10:])
        for path in (manifest_path("unseen"), manifest_path("unseen", new.digest), *_blob_paths("unseen", new)):
            got = send_request(pod, path)
            assert got.refused
            assert got.head_seconds < FAST_SECONDS
        assert send_request(pod, "/v2/library/known/blobs/uploads/", method="POST").status == 405
    finally:
        pod.start_container("gate")
        pod.wait_until_ready()
    pull(pod, "unseen", new)


def _blob_paths(name: str, image: oci.Image) -> list[str]:
    return [blob_path(name, digest) for digest in image.blobs]


def test_pushes_are_refused(pod: CachePod, image: oci.Image) -> None:
    for method, path, body in (
        ("POST", "/v2/library/known/blobs/uploads/", None),
        ("PUT", manifest_path("known"), image.manifest),
        ("PUT", manifest_path("known", "new"), b"{}"),
        ("PATCH", "/v2/library/known/blobs/uploads/1", b"x"),
        ("DELETE", manifest_path("known", image.digest), None),
        ("DELETE", blob_path("known", next(iter(image.blobs))), None),
    ):
        assert send_request(pod, path, method, body).status == 405, path
    got = send_request(pod, manifest_path("known"), "PUT", bytes(10_000))
    assert got.status in {405, 413}
    pull(pod, "known", image)


@pytest.mark.parametrize("action", ["kill", "hang"])
def test_pod_is_not_ready_while_distribution_is_away(pod: CachePod, image: oci.Image, action: str) -> None:
    getattr(pod, action)("distribution")
    wait_for("the pod to be unready", lambda: send_request(pod, "/v2/").status == 503, HANG_SECONDS)
    assert not pod.is_ready()
    for reference in ("1", image.digest):
        assert is_right(send_request(pod, manifest_path("known", reference)), image.manifest)
    for digest, content in image.blobs.items():
        assert is_right(send_request(pod, blob_path("known", digest)), content)
    if action == "kill":
        pod.start_container("distribution")
    else:
        pod.resume("distribution")
    pod.wait_until_ready()
    pull(pod, "known", image)


def test_head_requests_describe_the_content(bench: Bench, pod: CachePod) -> None:
    image = bench.push("heads")
    content = dict(image.blobs)
    for known in (False, True):
        for digest, blob in content.items():
            got = send_request(pod, blob_path("heads", digest), method="HEAD")
            assert (got.status, got.headers["Content-Length"], got.body) == (200, str(len(blob)), b"")
            assert got.headers["Docker-Content-Digest"] == digest
        for reference in ("1", image.digest):
            got = send_request(pod, manifest_path("heads", reference), method="HEAD")
            assert (got.status, got.headers["Content-Length"], got.body) == (200, str(len(image.manifest)), b"")
            assert got.headers["Docker-Content-Digest"] == image.digest
            assert got.headers["Content-Type"] == oci.MANIFEST
        if not known:
            pull(pod, "heads", image)
    assert send_request(pod, manifest_path("heads", "no-such-tag"), method="HEAD").status == 404


def test_gate_sends_manifests_as_distribution_does(bench: Bench, tmp_path: Path) -> None:
    manifests = [manifest_of(b"{}", [b"layer"], media_type) for media_type in (oci.MANIFEST, DOCKER_MANIFEST, None)]
    manifests += [index_of(manifests[:1], media_type) for media_type in (oci.INDEX, DOCKER_LIST, None)]
    store = Store(tmp_path, 64 * MIB)
    store.load()
    digests = [store.put_manifest("library/types", content) for content in manifests]

    def responses(pod: CachePod) -> list[tuple[int, bytes, dict[str, str]]]:
        return [
            (got.status, got.body, {name.lower(): value for name, value in got.headers.items() if name != "Date"})
            for digest in digests
            for method, headers in (("GET", {}), ("HEAD", {}), ("GET", {"If-None-Match": f'"{digest}"'}))
            for got in [send_request(pod, manifest_path("types", digest), method, **headers)]
        ]

    with bench.pod(volume=tmp_path) as pod:
        from_gate = responses(pod)
        pod.kill("gate")
        assert from_gate == responses(pod)
    assert [(status, body) for status, body, _ in from_gate] == [
        expected for content in manifests for expected in ((200, content), (200, b""), (304, b""))
    ]


def test_ranges_of_blobs_are_sent_as_requested(pod: CachePod, image: oci.Image) -> None:
    digest, content = max(image.blobs.items(), key=lambda blob: len(blob[1]))
    size = len(content)
    for asked, begin, end in (
        ("bytes=0-0", 0, 1),
        ("bytes=5-9", 5, 10),
        (f"bytes={size - 1}-", size - 1, size),
        ("bytes=-7", size - 7, size),
        (f"bytes=3-{size * 2}", 3, size),
    ):
        got = send_request(pod, blob_path("known", digest), Range=asked)
        assert (got.status, got.body) == (206, content[begin:end])
        assert got.headers["Content-Range"] == f"bytes {begin}-{end - 1}/{size}"
    assert send_request(pod, blob_path("known", digest), Range=f"bytes={size}-").status == 416


def test_only_pulls_of_the_upstream_are_answered(pod: CachePod, image: oci.Image) -> None:
    """Also while the gate does not run, when distribution answers what the front passes on."""
    blob = next(iter(image.blobs))
    refused = (
        *("/v2/_catalog", "/v2/library/known/tags/list", "/debug/pprof/", "/debug/health", "/metrics", "/healthz"),
        *("/v2/library%2Fknown/manifests/1", "/v2/library/known/manifests/%31", f"/v2/library%2Fknown/blobs/{blob}"),
        *("/v2//library/known/manifests/1", "/v2/library/./known/manifests/1", "/v2/x/../library/known/manifests/1"),
    )
    for path in refused:
        assert send_request(pod, path).status == 404, path
    other = "/v2/library/known/manifests/1?ns=quay.io"
    assert send_request(pod, other).status == 404
    assert send_request(pod, f"/v2/library/known/manifests/1?ns={pod.cache['upstream']}").status == 200
    assert send_request(pod, "/-/distribution").status == 200
    pod.kill("gate")
    try:
        for path in refused:
            assert send_request(pod, path).status == 404, path
    finally:
        pod.start_container("gate")
        pod.wait_until_ready()
    for port in (5002, 5003):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((pod.address, port), timeout=HANG_SECONDS)


def test_headers_of_a_request_are_bounded(pod: CachePod) -> None:
    assert send_request(pod, "/v2/", **{"X-Filler": "x" * 1900}).status == 200
    assert send_request(pod, "/v2/", **{"X-Filler": "x" * 3000}).status == 400
    assert send_request(pod, f"/v2/{'a' * 8000}/manifests/1").status == 414


def test_invalid_names_and_paths_are_refused(pod: CachePod) -> None:
    for path in (
        *("/v2", "/v1/", "/v2/UPPER/manifests/1", "/v2/library/known/manifests/", "/v2/library/known/blobs/x"),
        *("/v2/../../etc/passwd", "/blobs/sha256/00", "/registry/v2/", "/v2/library/known/manifests/%2e%2e"),
        *(f"/v2/{'a' * 300}/manifests/1", f"/v2/library/known/blobs/sha512:{'0' * 128}", "/v2/%00/manifests/1"),
    ):
        got = send_request(pod, path)
        assert got.status in {301, 400, 404, 405, 500} or got.refused, (path, got.status)
        assert b"root:" not in got.body


def test_responses_are_completed_before_the_pod_ends(bench: Bench) -> None:
    """Some blobs are still being fetched from the upstream, and one client reads slowly."""
    image = bench.push("draining", layers=2, size=2 * MIB)
    slow = bench.push("draining-slowly", layers=2, size=12 * MIB)
    large, content = max(slow.blobs.items(), key=lambda blob: len(blob[1]))
    with bench.pod() as pod:
        pull(pod, "draining-slowly", slow)
        bench.upstream.bandwidth(UPSTREAM, 2 * MIB)
        with ThreadPoolExecutor(20) as pool:
            connection = connect(pod)
            connection.request("GET", blob_path("draining-slowly", large))
            response = connection.getresponse()
            pulls = [
                (pool.submit(send_request, pod, blob_path("draining", digest)), blob)
                for digest, blob in image.blobs.items()
                for _ in range(5)
            ]
            wait_for("a fetch", lambda: list((pod.volume_folder / "parts").iterdir()), HANG_SECONDS, 0.02)
            stopping = pool.submit(pod.stop)
            time.sleep(0.5)  # in the middle of the transfers
            assert response.read() == content
            connection.close()
            for got, blob in pulls:
                assert is_right(got.result(HANG_SECONDS), blob)
            ended = stopping.result(HANG_SECONDS)
        print({name: f"{seconds:.1f} s" for name, seconds in ended.items()})
        assert max(ended.values()) < pod.spec["terminationGracePeriodSeconds"]
        assert_no_defect(pod)


def test_idle_pod_ends_at_once(bench: Bench, image: oci.Image) -> None:
    with bench.pod() as pod:
        pull(pod, "known", image)
        idle = connect(pod)
        idle.request("GET", "/v2/")
        idle.getresponse().read()
        # containerd opens one connection more than it needs when several requests begin at once.
        spare = connect(pod)
        spare.connect()
        ended = pod.stop()
        spare.close()
        idle.close()
        print({name: f"{seconds:.1f} s" for name, seconds in ended.items()})
        assert max(ended.values()) < FAST_SECONDS


def test_closed_connections_are_not_logged(pod: CachePod, image: oci.Image) -> None:
    def close_early(digest: str) -> None:
        connection = connect(pod)
        connection.request("GET", blob_path("known", digest))
        connection.close()

    before = pod.log("gate")
    run_together(close_early, list(image.blobs) * 5)
    pull(pod, "known", image)
    assert pod.log("gate") == before


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_body_of_a_request_is_never_taken_for_the_next_request(
    bench: Bench, pod: CachePod, image: oci.Image, framing: str
) -> None:
    """Otherwise one client could choose the response to another one, which shares its connection to the gate."""
    other = f"other-{framing}"
    bench.push(other)
    inner = f"GET {manifest_path(other)} HTTP/1.1\r\nHost: x\r\n\r\n"
    head = f"Content-Length: {len(inner)}" if framing == "length" else "Transfer-Encoding: chunked"
    body = inner if framing == "length" else f"{len(inner):x}\r\n{inner}\r\n0\r\n\r\n"
    mark = bench.upstream.mark()
    for path in ("/v2/", manifest_path("known"), blob_path("known", next(iter(image.blobs)))):
        for method in ("GET", "HEAD"):
            with socket.create_connection((urlsplit(pod.url).hostname, 5000), timeout=HANG_SECONDS) as connection:
                lines = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}\r\n\r\n"
                connection.sendall((lines + body).encode())
                while connection.recv(1 << 16):
                    pass
    run_together(lambda _: pull(pod, "known", image), range(20))
    assert not [request for request in bench.upstream.requests(mark) if f"/{other}/" in request.path]


def test_idle_connections_block_no_pulls(bench: Bench, image: oci.Image) -> None:
    """The container runtime allows 1024 descriptors and lets programs raise that, as many do."""
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, usual[1]))
    try:
        running = bench.pod()
        pod = running.__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (usual[1], usual[1]))
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, usual)
        stack.push(running)
        address = (urlsplit(pod.url).hostname, 5000)
        for _ in range(5000):
            connection = stack.enter_context(socket.create_connection(address, timeout=HANG_SECONDS))
            connection.sendall(b"GET /-/front HTTP/1.1\r\nHost: x\r\n\r\n")
        begun = time.monotonic()
        pull(pod, "known", image)
        assert time.monotonic() - begun < FAST_SECONDS
        assert pod.is_ready()
