"""What a cache pod serves while its upstream is unavailable, slow or wrong, and how often it asks the upstream."""

from __future__ import annotations

import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, ClassVar

import pytest
from experiments.cache_client import HANG_SECONDS, blob_path, manifest_path, run_together, send_request
from experiments.pod_bench import UPSTREAM
from machine import own_network
from machine.processes import wait_for
from node.cache_pod_support import FAST_SECONDS, is_right, pull, sent_references
from upstreams import oci
from upstreams.plain_server import PlainServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cluster.cache_pod import CachePod
    from experiments.pod_bench import Bench

pytestmark = pytest.mark.usefixtures("faults_end")

AT_EACH_PULL = {"cachePods": {"tagCheckInterval": "0s"}}
LYING_PORT = 5050


@pytest.fixture(scope="module")
def image(bench: Bench) -> oci.Image:
    """An image that is cached before a fault begins."""
    return bench.push("known")


@pytest.fixture(scope="module")
def shared_pod(bench: Bench, image: oci.Image) -> Iterator[CachePod]:
    with bench.pod(values=AT_EACH_PULL) as running:
        pull(running, "known", image)
        yield running


def dns_gone(pod: CachePod, bench: Bench) -> None:
    pod.set_hosts("")


AWAY: dict[str, Callable[[CachePod, Bench], None]] = {
    "refusing": lambda _, bench: bench.upstream.stop(),
    "silent": lambda _, bench: bench.upstream.silent(UPSTREAM),
    "429": lambda _, bench: bench.upstream.too_many_requests(UPSTREAM, 30),
    "500": lambda _, bench: bench.upstream.fail(UPSTREAM, 500),
    "403": lambda _, bench: bench.upstream.deny(UPSTREAM),
    "no-dns": dns_gone,
    "expired": lambda _, bench: bench.upstream.expire(UPSTREAM),
}


@pytest.mark.parametrize("fault", AWAY)
def test_unavailable_upstream_costs_no_cached_image(bench: Bench, image: oci.Image, fault: str) -> None:
    with bench.pod(values=AT_EACH_PULL) as pod:
        pull(pod, "known", image)
        AWAY[fault](pod, bench)
        for restarted in (False, True) if fault in {"refusing", "silent"} else (False,):
            if restarted:
                pod.stop()
                begun = time.monotonic()
                pod.start()
                print(f"ready {time.monotonic() - begun:.1f} s after the start")
            seconds = [
                send_request(pod, manifest_path("known", reference)).head_seconds
                for reference in ("1", "1", image.digest)
            ]
            print(f"{fault}: a known tag's first byte after {seconds[0]:.3f} and {seconds[1]:.3f} s")
            assert max(seconds) < FAST_SECONDS
            pull(pod, "known", image)
            if restarted:
                continue
            for path in (manifest_path("unknown"), blob_path("unknown", oci.digest(fault.encode()))):
                got = send_request(pod, path)
                again = send_request(pod, path)
                print(f"what is not cached: {got.status} after {got.head_seconds:.3f}, {again.head_seconds:.3f} s")
                assert got.refused
                assert again.refused
                assert got.head_seconds < FAST_SECONDS
                assert again.head_seconds < FAST_SECONDS
        if fault == "refusing":
            bench.upstream.resume()
            new = bench.push("came-back")
            wait_for(
                "the upstream to be asked",
                lambda: send_request(pod, manifest_path("came-back")).status == 200,
                HANG_SECONDS,
            )
            pull(pod, "came-back", new)


def test_unavailable_token_server_costs_no_cached_image(bench: Bench) -> None:
    site = "lscr.example.com"
    image = bench.push("tokens-away", site=site)
    with bench.pod({"upstream": site, "remoteURL": f"https://{site}"}, values=AT_EACH_PULL) as pod:
        pull(pod, "tokens-away", image)
        bench.upstream.fail("auth.example.org", 503)
        pod.kill("gate")
        pod.start_container("gate")
        pod.wait_until_ready()
        pull(pod, "tokens-away", image)
        assert send_request(pod, manifest_path("other")).refused


def test_one_token_and_one_head_for_many_pulls(bench: Bench) -> None:
    site = "lscr.example.com"
    image = bench.push("counted", site=site)
    cache = {"upstream": site, "remoteURL": f"https://{site}"}
    with bench.pod(cache, values={"cachePods": {"tagCheckInterval": "3s"}}) as pod:
        mark = bench.upstream.mark()
        pull(pod, "counted", image)
        time.sleep(3)  # the tag check interval
        for _ in range(4):
            assert all(
                got.status == 200
                for got in run_together(lambda _: send_request(pod, manifest_path("counted")), range(50))
            )
        requests = bench.upstream.requests(mark)
    tokens = [each for each in requests if each.upstream == "auth.example.org"]
    heads = [each for each in requests if each.method == "HEAD"]
    assert len(tokens) == 1
    assert len(heads) == 1
    assert sent_references([each for each in requests if each.upstream == site and each.status == 200]) == sorted(["1"])
    assert [each.status for each in requests if each.upstream == site and not each.scheme] == [401]


def test_moved_tag_is_followed_and_deleted_tag_is_removed(bench: Bench) -> None:
    old = bench.push("moving")
    with bench.pod(values={"cachePods": {"tagCheckInterval": "2s"}}) as pod:
        pull(pod, "moving", old)
        new = bench.push("moving", layers=2)
        assert is_right(send_request(pod, manifest_path("moving")), old.manifest)
        time.sleep(2)  # the tag check interval
        pull(pod, "moving", new)
        tags = bench.upstream.folder / f"storage/{UPSTREAM}/docker/registry/v2/repositories/library/moving/_manifests"
        shutil.rmtree(tags / "tags" / "1")
        time.sleep(2)
        assert send_request(pod, manifest_path("moving")).status == 404
        for image in (old, new):
            assert is_right(send_request(pod, manifest_path("moving", image.digest)), image.manifest)
        bench.upstream.stop()
        assert send_request(pod, manifest_path("moving")).refused
        for image in (old, new):
            assert is_right(send_request(pod, manifest_path("moving", image.digest)), image.manifest)


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no-ranges"])
def test_bodies_that_break_off_are_resumed_or_refused(
    bench: Bench, shared_pod: CachePod, image: oci.Image, *, ranges: bool
) -> None:
    name = f"breaking-{ranges}".lower()
    new = bench.push(name, layers=3)
    bench.upstream.break_off(UPSTREAM, 150_000, ranges=ranges)
    begun = time.monotonic()
    for digest, content in new.blobs.items():
        got = send_request(shared_pod, blob_path(name, digest))
        if ranges or len(content) <= 150_000:
            assert is_right(got, content)
        else:
            assert got.refused
            again = send_request(shared_pod, blob_path(name, digest))
            assert again.refused
            assert again.head_seconds < FAST_SECONDS
    print(f"{len(new.blobs)} blobs, {'with' if ranges else 'without'} ranges: {time.monotonic() - begun:.1f} s")
    pull(shared_pod, "known", image)


def test_wrong_bodies_are_refused(bench: Bench, shared_pod: CachePod, image: oci.Image) -> None:
    new = bench.push("corrupt")
    bench.upstream.corrupt(UPSTREAM)
    of_content = 'registry_cache_refused_requests_total{reason="content"}'
    before = shared_pod.metrics()[of_content]
    for digest in new.blobs:
        assert send_request(shared_pod, blob_path("corrupt", digest)).refused
    assert shared_pod.metrics()[of_content] == before + len(new.blobs)
    pull(shared_pod, "known", image)


class LyingHandler(BaseHTTPRequestHandler):
    """A registry of one image that announces each blob as `more` bytes longer than it is."""

    image: ClassVar[oci.Image]
    more: ClassVar[int]

    def do_GET(self) -> None:
        content = self.image.blobs.get(self.path.rpartition("/")[2])
        more = self.more
        if content is None:
            content, more = self.image.manifest, 0
        self.send_response_only(200)
        self.send_header("Content-Type", oci.MANIFEST)
        self.send_header("Content-Length", str(len(content) + more))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.mark.parametrize("more", [-100, 100], ids=["short", "long"])
@pytest.mark.parametrize("known", [False, True], ids=["unknown", "known"])
def test_wrong_length_is_refused(bench: Bench, *, known: bool, more: int) -> None:
    lying = oci.Image(layers=(oci.random_layer(f"lying {more}", 100_000),))
    handler = type("Handler", (LyingHandler,), {"image": lying, "more": more})
    with PlainServer((own_network.ADDRESS, LYING_PORT), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        cache = {"upstream": UPSTREAM, "remoteURL": f"http://{own_network.ADDRESS}:{LYING_PORT}"}
        with bench.pod(cache) as pod:
            if known:
                assert is_right(send_request(pod, manifest_path("lying")), lying.manifest)
            for digest, content in lying.blobs.items():
                got = send_request(pod, blob_path("lying", digest))
                print(got.status, f"{got.head_seconds:.1f} s", got.body[:200])
                assert is_right(got, content) or got.refused
                assert got.head_seconds < HANG_SECONDS / 2
        server.shutdown()
