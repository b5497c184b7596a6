"""The chart's cache pod without Kubernetes, before upstream registries with an access log."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cluster.pod_volumes import Tmpfs
from experiments.cache_client import HANG_SECONDS, manifest_path, send_request
from experiments.pod_bench import UPSTREAM
from machine.processes import wait_for
from node.cache_pod_support import get, pull, sent_references

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cluster.cache_pod import CachePod
    from experiments.pod_bench import Bench

CLIENTS = 50
# The user of the chart's containers.
USER = 65532


@pytest.fixture(scope="module")
def pod(bench: Bench) -> Iterator[CachePod]:
    """A pod for several tests, each with its own images."""
    with bench.pod() as running:
        yield running


def test_cold_pull_returns_the_upstreams_bytes(bench: Bench, pod: CachePod) -> None:
    image = bench.push("cold")
    mark = bench.upstream.mark()
    pull(pod, "cold", image)
    assert sent_references(bench.upstream.requests(mark)) == sorted(["1", *image.blobs])


def test_second_pull_sends_no_request_to_the_upstream(bench: Bench, pod: CachePod) -> None:
    image = bench.push("second")
    pull(pod, "second", image)
    mark = bench.upstream.mark()
    pull(pod, "second", image)
    assert bench.upstream.requests(mark) == []


def test_many_clients_at_once_cost_the_upstream_one_pull(bench: Bench, pod: CachePod) -> None:
    image = bench.push("many", layers=9)
    assert len(image.layers) == 10
    mark = bench.upstream.mark()
    with ThreadPoolExecutor(CLIENTS) as pool:
        for done in [pool.submit(pull, pod, "many", image) for _ in range(CLIENTS)]:
            done.result()
    requests = bench.upstream.requests(mark)
    assert sent_references(requests) == sorted(["1", *image.blobs])
    assert sum(request.body_bytes for request in requests) == image.size


def test_bodies_without_a_length_are_cached(bench: Bench, pod: CachePod) -> None:
    image = bench.push("chunked")
    bench.upstream.no_length(UPSTREAM)
    try:
        pull(pod, "chunked", image)
    finally:
        bench.upstream.resume()
    bench.upstream.stop()
    try:
        for digest, content in image.blobs.items():
            assert get(pod, f"/v2/library/chunked/blobs/{digest}") == (200, content)
    finally:
        bench.upstream.resume()


def test_upstream_with_tokens_and_another_host_for_blobs(bench: Bench) -> None:
    site = "lscr.example.com"
    image = bench.push("tokens", site=site)
    with bench.pod({"upstream": site, "remoteURL": f"https://{site}"}) as pod:
        mark = bench.upstream.mark()
        pull(pod, "tokens", image)
        requests = bench.upstream.requests(mark)
    assert {request.upstream for request in requests} == {site, "auth.example.org", "cdn.example.org"}
    content = [request for request in requests if request.upstream == "cdn.example.org"]
    assert sent_references(content) == sorted(image.blobs)
    assert {request.scheme for request in content} == {""}


def test_replicas_fetch_from_each_other(bench: Bench) -> None:
    image = bench.push("replicas")
    cache = {"upstream": UPSTREAM, "highAvailability": {"enabled": True}}
    pods = [bench.new_pod(cache, ordinal=ordinal) for ordinal in range(2)]
    mark = bench.upstream.mark()
    try:
        for pod in pods:
            pod.hosts += "".join(each.host_line for each in pods)
            pod.start()
        for pod in pods:
            for digest, content in image.blobs.items():
                assert get(pod, f"/v2/library/replicas/blobs/{digest}") == (200, content)
    finally:
        for pod in pods:
            pod.close()
    assert sent_references(bench.upstream.requests(mark)) == sorted(image.blobs)


def test_replica_without_its_gate_does_not_answer_for_the_upstream(bench: Bench) -> None:
    """That is so at its start too: its front starts first, and knows only what is on its own volume."""
    known, new = (
        {name: bench.push(name) for name in (f"{kind}-{number}" for number in range(6))} for kind in ("a", "b")
    )
    cache = {"upstream": UPSTREAM, "highAvailability": {"enabled": True}}
    pods = [
        bench.new_pod(cache, values={"cachePods": {"tagCheckInterval": "0s"}}, ordinal=ordinal) for ordinal in range(2)
    ]
    try:
        for pod in pods:
            pod.hosts += "".join(each.host_line for each in pods)
        pods[0].start()
        for name, image in known.items():
            pull(pods[0], name, image)
        pods[1].start()
        # It was unavailable until now, and is not asked for a while.
        wait_for("the replica to be asked", lambda: _is_asked(pods[0], known), HANG_SECONDS, 0.5)
        pods[1].kill("gate")
        for name, image in {**known, **new}.items():
            pull(pods[0], name, image)
    finally:
        for pod in pods:
            pod.close()


def _is_asked(pod: CachePod, names: Iterable[str]) -> bool:
    for name in names:
        send_request(pod, manifest_path(name))
    return f"the replica {pod.name.removesuffix('0')}1 is available again" in pod.log("gate")


def test_containers_run_with_the_privileges_of_the_chart(pod: CachePod) -> None:
    for name, container in pod.containers.items():
        for process in pod.processes(name)[1:] or pod.processes(name):
            status = dict(
                line.split(":\t", 1)
                for line in Path(f"/proc/{process}/status").read_text().splitlines()
                if ":\t" in line
            )
            assert status["Uid"].split() == [str(USER)] * 4
            assert status["Gid"].split() == [str(USER)] * 4
            assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
            assert status["NoNewPrivs"] == "1"
        mounts = [line.split() for line in Path(f"/proc/{pod.process(name)}/mounts").read_text().splitlines()]
        options = {mount[1]: mount[3].split(",") for mount in mounts}
        assert "ro" in options["/"]
        for mount in container["volumeMounts"]:
            assert ("ro" if mount.get("readOnly") else "rw") in options[mount["mountPath"]]


def test_volume_is_kept_when_the_pod_is_restarted(bench: Bench) -> None:
    image = bench.push("again")
    with bench.pod(volume=Tmpfs("32m")) as pod:
        pull(pod, "again", image)
        pod.stop()
        pod.start()
        mark = bench.upstream.mark()
        for digest, content in image.blobs.items():
            assert get(pod, f"/v2/library/again/blobs/{digest}") == (200, content)
        assert bench.upstream.requests(mark) == []


def test_containers_can_be_killed_stopped_and_started(bench: Bench) -> None:
    with bench.pod() as pod:
        pod.hang("gate")
        assert not pod.lives()
        pod.resume("gate")
        assert pod.lives()
        pod.kill("gate")
        assert not pod.lives()
        with pytest.raises(ProcessLookupError, match="gate does not run"):
            pod.process("gate")
        pod.start_container("gate")
        pod.wait_until_ready()
        assert pod.lives()


def test_secret_is_updated_at_once(bench: Bench) -> None:
    cache = {"upstream": UPSTREAM, "secretReferenceName": "login"}
    with bench.pod(cache) as pod:
        folder = Path(f"/proc/{pod.process('gate')}/root/etc/registry-cache/credentials")
        assert [path.name for path in folder.iterdir() if not path.name.startswith("..")] == []
        pod.set_secret("login", {"username": "a", "password": "b"})
        assert (folder / "username").read_text() == "a"
        pod.set_secret("login", {"username": "c", "password": "d"})
        assert (folder / "username").read_text() == "c"
        assert (folder / "password").stat().st_gid == USER
        assert (folder / "password").stat().st_mode & 0o777 == 0o440


def test_volume_in_memory_can_be_full_and_read_only(bench: Bench) -> None:
    with bench.pod(volume=Tmpfs("8m", inodes=500)) as pod:
        there = os.statvfs(pod.volume_folder)
        assert (there.f_blocks * there.f_frsize, there.f_files) == (8 << 20, 500)
        pod.remount("size=16m")
        assert os.statvfs(pod.volume_folder).f_blocks * there.f_frsize == 16 << 20
        pod.remount("ro")
        with pytest.raises(OSError, match="Read-only file system"):
            (pod.volume_folder / "x").write_text("")
        pod.remount("rw")
        (pod.volume_folder / "x").write_text("")
