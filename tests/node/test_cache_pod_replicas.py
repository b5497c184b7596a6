"""Several replicas of a cache as processes, before an upstream with an access log."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from experiments.cache_client import blob_path, run_together, send_request
from experiments.pod_bench import UPSTREAM
from fetching.replica_first import rank_replicas
from node.cache_pod_support import assert_no_defect, get, is_right, pull, sent_bytes, sent_references

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cluster.cache_pod import CachePod
    from experiments.pod_bench import Bench

COUNT = 4
CLIENTS = 40
# More than an image's blobs once, which has room for what breaks off.
MOST = 1.05


@contextmanager
def replicas(bench: Bench, zones: Sequence[str] = ("",) * COUNT, **cache_pods: Any) -> Iterator[list[CachePod]]:
    values = {"cachePods": {"replicas": len(zones), **cache_pods}}
    pods = [bench.new_pod(values=values, ordinal=ordinal, zone=zone) for ordinal, zone in enumerate(zones)]
    hosts = "".join(pod.host_line for pod in pods)
    try:
        for pod in pods:
            pod.hosts += hosts
            pod.start(wait=False)
        for pod in pods:
            pod.wait_until_ready()
        yield pods
        for pod in pods:
            assert_no_defect(pod)
    finally:
        for pod in pods:
            pod.close()


def kill(pod: CachePod) -> None:
    """Take a replica away, as the loss of a pod does: connections to it are refused."""
    for container in pod.containers:
        pod.kill(container)


def test_many_clients_of_four_replicas_cost_the_upstream_one_pull(bench: Bench) -> None:
    image = bench.push("four", layers=10, size=2_000_000)
    with replicas(bench) as pods:
        mark = bench.upstream.mark()
        run_together(lambda number: pull(pods[number % COUNT], "four", image), range(CLIENTS))
        requests = bench.upstream.requests(mark)
        print(f"{sent_bytes(requests) / image.size:.3f} times the image for {CLIENTS} clients of {COUNT} replicas")
        assert sent_bytes(requests) <= MOST * image.size
        blobs = [request for request in requests if "/blobs/" in request.path]
        assert sent_references(blobs) == sorted(image.blobs)
        # Each replica that was asked has it now, so what many pull spreads by itself.
        total = sum(pod.metrics()["registry_cache_replica_fetched_bytes_total"] for pod in pods)
        assert total == (COUNT - 1) * image.size


def test_lost_replica_costs_no_pull_and_no_fetch_of_what_others_hold(bench: Bench) -> None:
    held, new = bench.push("held", layers=12), bench.push("new", layers=12)
    with replicas(bench) as pods:
        names = [pod.name for pod in pods]
        # Each blob is held by its owner and by one other replica.
        for digest, content in held.blobs.items():
            by_name = dict(zip(names, pods, strict=True))
            last = by_name[rank_replicas(names, f"blobs/{digest}")[-1]]
            assert get(last, blob_path("held", digest)) == (200, content)
        kill(pods[0])
        mark = bench.upstream.mark()
        left = pods[1:]
        for number, (digest, content) in enumerate(held.blobs.items()):
            for turn in range(len(left)):
                pod = left[(number + turn) % len(left)]
                assert get(pod, blob_path("held", digest)) == (200, content)
        assert [request for request in bench.upstream.requests(mark) if "/blobs/" in request.path] == []
        mark = bench.upstream.mark()
        run_together(lambda number: pull(left[number % len(left)], "new", new), range(CLIENTS))
        requests = bench.upstream.requests(mark)
        assert sent_references([request for request in requests if "/blobs/" in request.path]) == sorted(new.blobs)


def test_owner_that_is_lost_in_the_middle_of_a_blob_fails_no_pull(bench: Bench) -> None:
    image = bench.push("lost", size=20_000_000)
    digest, content = max(image.blobs.items(), key=lambda item: len(item[1]))
    with replicas(bench) as pods:
        ranking = rank_replicas([pod.name for pod in pods], f"blobs/{digest}")
        by_name = {pod.name: pod for pod in pods}
        owner, others = by_name[ranking[0]], [by_name[name] for name in ranking[1:]]
        bench.upstream.slow(UPSTREAM, 4_000_000)
        try:
            with ThreadPoolExecutor(len(others)) as pool:
                pulls = [pool.submit(send_request, pod, blob_path("lost", digest)) for pod in others]
                time.sleep(2)
                kill(owner)
                assert all(is_right(one.result(), content) for one in pulls)
        finally:
            bench.upstream.resume()


def test_request_with_the_header_of_a_replica_counts_only_from_its_address(bench: Bench) -> None:
    image = bench.push("claims", layers=2)
    with replicas(bench, zones=("", "")) as pods:
        name = pods[1].name
        for digest, content in image.blobs.items():
            assert get(pods[0], blob_path("claims", digest), **{"Registry-Cache-Replica": name}) == (200, content)
            assert get(pods[1], blob_path("claims", digest)) == (200, content)
        count = 'registry_proxy_requests_total{type="blob"}'
        assert sum(pod.metrics()[count] for pod in pods) == 2 * len(image.blobs)


def test_replicas_with_an_owner_in_each_zone_fetch_each_blob_once(bench: Bench) -> None:
    image = bench.push("zones", layers=10)
    with replicas(bench, zones=("a", "b", "a", "b"), ownerPerZone=True) as pods:
        mark = bench.upstream.mark()
        run_together(lambda number: pull(pods[number % COUNT], "zones", image), range(CLIENTS))
        blobs = [request for request in bench.upstream.requests(mark) if "/blobs/" in request.path]
        assert sent_references(blobs) == sorted(image.blobs)
        taken = sum(pod.metrics()["registry_cache_replica_fetched_bytes_total"] for pod in pods)
        assert taken == (COUNT - 1) * image.size
