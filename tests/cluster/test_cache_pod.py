"""Cache pods: what they are allowed to do, hung containers, and two replicas of which one is away."""

from __future__ import annotations

import json
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cluster import ask, interface
from cluster.containerd_configuration import REGISTRY_DIRECTORY
from cluster.pulls import new_image
from cluster.release import Release
from cluster_support import cached_image, installed, pod_states, pull_at_first, pull_at_once, values
from experiments.cluster_faults import UPSTREAM, Scene, node_lost, pod_processes, send
from experiments.faults import HEALTHY
from machine.processes import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.interface import Cluster, Node
    from cluster.native import NativeCluster
    from cluster.native_node import NativeNode
    from upstreams.oci import Image
    from upstreams.upstream import Upstream

pytestmark = pytest.mark.cluster

# The container that hangs, by cache.
HUNG = {"ghcr.io": "front", "quay.io": "gate", "registry.k8s.io": "distribution"}
REPLICAS = 2
# Ten times what the kubelet needs to restart a hung container, and Kubernetes to notice that a node is lost.
RESTART_SECONDS = 300.0
LOST_SECONDS = 500.0
# Ten times what a pull takes while nobody knows yet that a replica is lost. containerd gives up each
# connection after nodeProgram.dialTimeout, the other replica after sources.PEER_CONNECT_TIMEOUT.
UNKNOWN = 25.0


def test_namespace_that_enforces_restricted_accepts_the_caches(cluster: Cluster, tmp_path: Path) -> None:
    """Without the node program, which mounts a folder of the node; hosts.toml is written by hand."""
    release = Release(cluster, name="restricted", namespace="restricted")
    release.uninstall()
    release.secret("unused", "name", "password")
    levels = [f"pod-security.kubernetes.io/{mode}=restricted" for mode in ("enforce", "warn", "audit")]
    release.kubectl("label", "namespace", release.namespace, *levels)
    node, folder = cluster.nodes[0], f"{REGISTRY_DIRECTORY}/docker.io"
    try:
        document = values(tmp_path / "v.yaml", "docker.io")
        release.install("--values", document, "--set", "nodeProgram.enabled=false")
        address = f"http://{release.service_address('docker.io')}:5000"
        hosts = f'[host."{address}"]\n  capabilities = ["pull", "resolve"]\n'
        node.run("mkdir", folder)
        node.run("sh", "-c", f"cat > {folder}/hosts.toml << 'END'\n{hosts}END")
        wait_for("the node to reach the cache", lambda: _answers(release, "docker.io", node), RESTART_SECONDS)
        reference, _ = new_image(cluster, "docker.io/library/restricted:1")
        assert pull_at_first(cluster, reference, node).served_by == "upstream through the cache"

        name = f"{release.object_name('docker.io')}-0"
        for container in ("front", "gate", "distribution"):
            shell = ["exec", name, f"--container={container}", "--", "sh", "-c"]
            assert "none" in release.kubectl(*shell, "ls /var/run/secrets /run/secrets 2> /dev/null || echo none")
            assert "Read-only" in release.kubectl(*shell, "(echo > /new) 2>&1 || true")
    finally:
        node.run("rm", "-rf", folder)
        release.uninstall()


@pytest.fixture(scope="module")
def release(native: NativeCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """A cache with two replicas, and one cache for each container that hangs."""
    path = tmp_path_factory.mktemp("pod") / "values.yaml"
    twice = {"upstream": UPSTREAM, "volume": {"size": "1Gi"}, "highAvailability": {"enabled": True}}
    once = [{"upstream": name, "volume": {"size": "1Gi"}} for name in HUNG]
    path.write_text(json.dumps({"caches": [twice, *once], "nodeProgram": {"probe": {"maxBackoff": "0s"}}}))
    with installed(native, "pods", "--values", str(path)) as running:
        yield running


@pytest.fixture
def replicas(release: Release) -> list[Any]:
    """The pods of the cache with two replicas."""
    name = release.object_name(UPSTREAM)
    return [release.get("pod", f"{name}-{number}") for number in range(REPLICAS)]


def test_replicas_are_on_two_nodes_and_fetch_an_image_once(native: NativeCluster, replicas: list[Any]) -> None:
    assert {pod["spec"]["nodeName"] for pod in replicas} == {node.name for node in native.nodes}
    reference, image = new_image(native, f"{UPSTREAM}/library/shared:1", layers=6)
    mark = native.upstream.mark()

    pulled = pull_at_once(native, *((reference, node) for node in native.nodes))

    print(f"two nodes, two replicas: {[each.seconds for each in pulled]} s")
    asked = native.upstream.requests(mark)
    assert {each.client for each in asked} <= {pod["status"]["podIP"] for pod in replicas}
    assert sorted(each.digest for each in asked if each.is_blob) == sorted(image.blobs)
    # By tag and by digest, each of which may be fetched by either replica.
    assert sum(each.method == "GET" and "/manifests/" in each.path for each in asked) <= REPLICAS


def test_hung_container_is_restarted_and_pulls_succeed_until_then(
    native: NativeCluster, release: Release, replicas: list[Any], healthy_upstream: Upstream
) -> None:
    """Caches with a hung front, gate and distribution; an upstream that hangs is not a hung container."""
    cached = {name: _cached(native, [release.pod(name)], name, f"hung-{HUNG[name]}") for name in HUNG}
    silent, _ = _cached(native, replicas, UPSTREAM, "silent")
    before = pod_states(release)
    healthy_upstream.silent(UPSTREAM)
    for name, container in HUNG.items():
        _signal(native, release.pod(name), container, signal.SIGSTOP)
    begun = time.monotonic()

    pulled = pull_at_once(
        native, *((reference, native.nodes[0]) for reference, _ in [*cached.values(), (silent, None)])
    )

    for name, each in zip([*HUNG.values(), "upstream"], pulled, strict=True):
        print(f"hung {name}: pulled in {each.seconds:.2f} s from {each.served_by}")
    assert pulled[-1].served_by == "cache"
    for name, container in HUNG.items():
        wait_for(f"{container} to be restarted", partial(_was_restarted, release, name, container), RESTART_SECONDS)
        print(f"{container} was restarted {time.monotonic() - begun:.0f} s after it hung, or sooner")
        release.wait_for_nodes(name, use=True)
    after = pod_states(release)
    for pod in replicas:
        assert after[pod["metadata"]["name"]] == before[pod["metadata"]["name"]]


def test_one_replica_serves_while_the_other_is_replaced(
    native: NativeCluster, release: Release, replicas: list[Any]
) -> None:
    first, second = (_cached(native, replicas, UPSTREAM, name)[0] for name in ("replaced-1", "replaced-2"))

    release.kubectl("delete", "pod", replicas[1]["metadata"]["name"], "--wait=false")
    _wait_until_left(release, replicas[1], *native.nodes)
    pulled = pull_at_once(native, (first, native.nodes[0]), (second, native.nodes[1]))

    assert [each.served_by for each in pulled] == ["cache", "cache"]
    _wait_for_replicas(release)


def test_unhealthy_replica_can_be_drained(native: NativeCluster, release: Release, replicas: list[Any]) -> None:
    reference, _ = _cached(native, replicas, UPSTREAM, "drained")
    drained = replicas[1]["spec"]["nodeName"]
    (other,) = (node for node in native.nodes if node.name != drained)
    _signal(native, replicas[1], "front", signal.SIGSTOP)
    wait_for("the replica to be unhealthy", lambda: not _ready(release, replicas[1]), RESTART_SECONDS)
    begun = time.monotonic()
    try:
        selector = f"--pod-selector=upstream-host={UPSTREAM}"
        options = ["--ignore-daemonsets", "--delete-emptydir-data", "--grace-period=1", "--timeout=60s"]
        release.kubectl("drain", drained, selector, *options)
        print(f"drained of a replica that is unhealthy in {time.monotonic() - begun:.1f} s")
        assert pull_at_first(native, reference, other).served_by == "cache"
    finally:
        release.kubectl("uncordon", drained)
    _wait_for_replicas(release)


def test_node_of_a_replica_that_is_lost_costs_little(
    native: NativeCluster, release: Release, replicas: list[Any]
) -> None:
    at_once, known = (_cached(native, replicas, UPSTREAM, name)[0] for name in ("lost-1", "lost-2"))
    new, newer = (new_image(native, f"{UPSTREAM}/library/lost-{name}:1", layers=6)[0] for name in ("new", "newer"))
    scene = Scene(native, release)
    # The cluster's DNS has only one pod, whose loss is not the subject.
    scene.node, scene.cache_node = sorted(native.nodes, key=lambda node: node.name != _node_of_dns(native))
    with node_lost(scene):
        begun = time.monotonic()
        for reference in (at_once, new):
            first = pull_at_first(native, reference, scene.node)
            print(f"node lost: {reference} came in {first.seconds:.2f} s from {first.served_by}")
            assert first.seconds < UNKNOWN
        lost = next(pod for pod in replicas if pod["spec"]["nodeName"] == scene.cache_node.name)
        _wait_until_left(release, lost, scene.node)
        print(f"the Service left the lost replica after {time.monotonic() - begun:.0f} s")
        later = [pull_at_first(native, reference, scene.node) for reference in (known, newer)]
        print(f"then {[f'{each.seconds:.2f} s from {each.served_by}' for each in later]}")
        assert [each.served_by for each in later] == ["cache", "upstream through the cache"]
    _wait_for_replicas(release)


def _node_of_dns(native: NativeCluster) -> str:
    (pod,) = interface.get(native.kubeconfig, "pods", "--namespace=kube-system", "--selector=k8s-app=kube-dns")["items"]
    return str(pod["spec"]["nodeName"])


def _cached(native: NativeCluster, pods: list[Any], registry: str, name: str) -> tuple[str, Image]:
    return cached_image(native, f"{registry}/library/{name}:1", *pods, layer_bytes=300_000)


def _signal(native: NativeCluster, pod: Any, container: str, number: signal.Signals) -> None:
    """Send a signal to every process of one container."""
    statuses = [each for each in pod["status"]["containerStatuses"] if each["name"] == container]
    one = {"metadata": pod["metadata"], "status": {"containerStatuses": statuses}}
    (node,) = (node for node in native.nodes if node.name == pod["spec"]["nodeName"])
    for process in pod_processes(node, one):
        send(process, number)


def _was_restarted(release: Release, name: str, container: str) -> bool:
    """Return whether this container of a cache was restarted once, and no other one.

    The kubelet probes distribution through the front, so it also restarts distribution if the front hangs.
    """
    statuses = release.pod(name)["status"]["containerStatuses"]
    restarts = {each["name"]: each["restartCount"] for each in statuses if each["restartCount"]}
    may_restart = {container, "distribution"} if container == "front" else {container}
    assert set(restarts) <= may_restart
    assert set(restarts.values()) <= {1}
    return container in restarts


def _ready(release: Release, pod: Any) -> bool:
    conditions = release.get("pod", pod["metadata"]["name"])["status"]["conditions"]
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _endpoints(release: Release) -> list[str]:
    """Return the addresses of the Service's endpoints."""
    selector = f"--selector=upstream-host={UPSTREAM}"
    (service,) = (each for each in release.get("services", selector)["items"] if each["spec"]["clusterIP"] != "None")
    slices = release.get("endpointslices", f"--selector=kubernetes.io/service-name={service['metadata']['name']}")
    endpoints = [each for piece in slices["items"] for each in piece["endpoints"] or [] if each["conditions"]["ready"]]
    return [address for each in endpoints for address in each["addresses"]]


def _answers(release: Release, name: str, node: Node) -> bool:
    """Return whether a node gets a response at the address of a cache's Service."""
    question = [sys.executable, str(Path(ask.__file__)), release.service_address(name), "5000", "/v2/"]
    return node.run(*question).strip() == HEALTHY


def _wait_until_left(release: Release, pod: Any, *nodes: NativeNode) -> None:
    """Wait until a pod is not an endpoint of the Service any more, and these nodes know it."""
    wait_for("the Service to leave it", lambda: pod["status"]["podIP"] not in _endpoints(release), LOST_SECONDS)

    def known() -> bool:
        # kube-proxy chooses one of two at random, so eight responses are enough.
        return all(_answers(release, UPSTREAM, node) for node in nodes for _ in range(8))

    wait_for("the nodes to know", known, LOST_SECONDS)
    # A node whose probes went to the missing pod twice in a row has withdrawn the cache, and will use it again.
    wait_for("the nodes to use it", lambda: all(release.uses_cache(node, UPSTREAM) for node in nodes), LOST_SECONDS)


def _wait_for_replicas(release: Release) -> None:
    release.kubectl("rollout", "status", f"statefulset/{release.object_name(UPSTREAM)}", "--timeout=240s")
    wait_for("the Service to lead to both replicas", lambda: len(_endpoints(release)) == REPLICAS, RESTART_SECONDS)
    release.wait_for_nodes(UPSTREAM, use=True)
