"""Clusters and nodes that do something nobody expects: nodes do without a cache then, and somebody is told why."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from cluster import interface
from cluster.containerd_configuration import REGISTRY_DIRECTORY
from cluster.pulls import new_image
from cluster.release import Release
from cluster.small_volumes import SmallVolume, offer
from cluster_support import installed, pull_at_first, values
from machine.paths import CHART
from machine.processes import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.native import NativeCluster
    from cluster.native_node import NativeNode

pytestmark = pytest.mark.cluster

UPSTREAM = "docker.io"
NODES = "app.kubernetes.io/component=node"
# The kubelet probes a pod of the node program every five seconds, and starts a container again after ten at most.
LIMIT_SECONDS = 300.0
DROP_IN = "/etc/systemd/system/containerd.service.d/http-proxy.conf"
# What helm says if it waits in vain.
FAILED_WAIT = "not ready|timed out|deadline"
# All except the one with objects of operators and with IPv6, which the test cluster does not have.
SCENARIOS = sorted({*(CHART / "ci").glob("*-values.yaml")} - {CHART / "ci" / "everything-values.yaml"})


@pytest.fixture(scope="module")
def release(native: NativeCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    path = values(tmp_path_factory.mktemp("odd") / "values.yaml", UPSTREAM)
    with installed(native, "odd", "--values", path) as running:
        yield running


def node_pod(release: Release, node: NativeNode) -> str:
    """Return the name of the node program's pod on a node."""
    found = release.get("pods", "--selector", NODES, "--field-selector", f"spec.nodeName={node.name}")
    (pod,) = [pod for pod in found["items"] if "deletionTimestamp" not in pod["metadata"]]
    return str(pod["metadata"]["name"])


def described(release: Release, pod: str) -> str:
    return " ".join(release.kubectl("describe", "pod", pod).split())


@contextmanager
def containerd_with_a_dead_proxy(native: NativeCluster, node: NativeNode) -> Iterator[None]:
    """Run containerd as its unit says, with a proxy that refuses connections, and the upstreams beside it."""
    assert native.upstream is not None
    environment = {"HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": f"localhost,{native.network.upstream}"}
    lines = "".join(f'Environment="{name}={value}"\n' for name, value in environment.items())
    node.run("sh", "-c", f"mkdir -p {DROP_IN.rpartition('/')[0]} && cat > {DROP_IN} << 'END'\n[Service]\n{lines}END")
    node.place.stop("containerd")
    try:
        node.start_containerd(environment)
        yield
    finally:
        node.run("rm", "-r", DROP_IN.rpartition("/")[0])
        node.place.stop("containerd")
        node.start_containerd()


def test_node_whose_containerd_uses_a_proxy_leaves_the_caches(native: NativeCluster, release: Release) -> None:
    first, second = native.nodes
    reference, _ = new_image(native, f"{UPSTREAM}/library/behind-a-proxy:1")
    with containerd_with_a_dead_proxy(native, second):
        pod = node_pod(release, second)
        release.kubectl("delete", "pod", pod, "--timeout=120s")
        wait_for("another pod", lambda: node_pod(release, second) != pod, LIMIT_SECONDS)
        reason = f"containerd would ask it through the proxy that {DROP_IN} sets"
        wait_for("the reason", lambda: reason in described(release, node_pod(release, second)), LIMIT_SECONDS)

        assert not release.uses_cache(second, UPSTREAM)
        assert release.uses_cache(first, UPSTREAM)
        assert pull_at_first(native, reference, first).served_by == "upstream through the cache"
        assert pull_at_first(native, reference, second).served_by == "upstream"

    pod = node_pod(release, second)
    release.kubectl("delete", "pod", pod, "--timeout=120s")
    release.wait_for_nodes(UPSTREAM, use=True)


def test_registry_directory_that_is_replaced_is_written_again(native: NativeCluster, release: Release) -> None:
    """As Bottlerocket does it."""
    node = native.nodes[0]
    old = f"{REGISTRY_DIRECTORY}.old"
    node.run("sh", "-c", f"mv {REGISTRY_DIRECTORY} {old} && mkdir {REGISTRY_DIRECTORY}")
    try:
        wait_for("the cache to be used again", lambda: release.uses_cache(node, UPSTREAM), LIMIT_SECONDS)
        reference, _ = new_image(native, f"{UPSTREAM}/library/new-directory:1")
        assert pull_at_first(native, reference, node).served_by == "upstream through the cache"
        assert node.run("find", old, "-name", "hosts.toml") == "", "the file in the old directory was withdrawn"
    finally:
        node.run("rm", "-rf", old)


def test_server_that_limits_priority_classes_needs_the_quota_of_the_chart(
    native: NativeCluster, tmp_path: Path, release: Release
) -> None:
    """The API server of the test cluster does this, as that of GKE does; all other tests have the quota."""
    (quota,) = release.get("resourcequotas")["items"]
    assert int(quota["status"]["used"]["pods"]) >= len(native.nodes)
    path = values(tmp_path / "v.yaml", "ghcr.io")
    without = ("--set", "nodeProgram.priorityQuota=false", "--set", "nodeProgram.metrics.enabled=false")
    other = Release(native, name="unlimited", namespace="unlimited")
    try:
        with pytest.raises(RuntimeError, match=FAILED_WAIT):
            other.install("--values", path, *without, timeout=20)
        (daemon_set,) = other.get("daemonsets")["items"]
        assert daemon_set["status"]["currentNumberScheduled"] == 0
        events = other.kubectl("describe", "daemonset", daemon_set["metadata"]["name"])
        assert "insufficient quota to match these scopes" in events
        # What NOTES and the guide tell.
        other.upgrade("--values", path, *without, "--set", "nodeProgram.priorityClassName=")
    finally:
        other.uninstall()


def test_volume_of_root_is_named_and_used_once_it_belongs_to_the_pod(native: NativeCluster, tmp_path: Path) -> None:
    """A hostPath volume, on which fsGroup has no effect: no pull fails, and a person learns what to do."""
    node = native.nodes[0]
    volume = SmallVolume(node, "of-root", 1 << 30)
    node.run("install", "-d", "-m", "0755", "-o", "root", volume.path)
    path = tmp_path / "values.yaml"
    cache = {"upstream": "quay.io", "volume": {"size": "1Gi", "storageClassName": volume.name}}
    path.write_text(json.dumps({"caches": [cache], "nodeProgram": {"metrics": {"enabled": False}}}))
    reference, _ = new_image(native, "quay.io/tests/volume-of-root:1")
    try:
        with offer(native, volume, kind="hostPath"), not_ready(native, "rooted", path) as release:
            pod = release.pod("quay.io")["metadata"]["name"]
            log = release.kubectl("logs", pod, "--container=gate")
            assert re.search(r"not ready: the volume cannot be written to: its folder \S+ belongs to 0:0", log)
            with pytest.raises(RuntimeError, match="the log of the container gate says why"):
                release.test()
            assert pull_at_first(native, reference, node).served_by == "upstream"

            node.run("chown", "65532:65532", volume.path)
            release.wait_for_nodes("quay.io", use=True)
            again, _ = new_image(native, "quay.io/tests/volume-of-the-pod:1")
            assert pull_at_first(native, again, node).served_by == "upstream through the cache"
            assert volume.blobs
    finally:
        node.run("rm", "-r", volume.path)


@contextmanager
def not_ready(native: NativeCluster, name: str, path: Path) -> Iterator[Release]:
    """Install a release whose cache cannot become ready, so that `helm install --wait` fails."""
    release = Release(native, name=name, namespace=name)
    try:
        with pytest.raises(RuntimeError, match=FAILED_WAIT):
            release.install("--values", str(path), "--set", "nodeProgram.probe.interval=2s", timeout=40)
        yield release
    finally:
        release.uninstall()


def known_kinds(native: NativeCluster) -> set[tuple[str, str]]:
    """Return the versions and kinds that the server knows; those of operators are not among them."""
    lines = interface.kubectl(native.kubeconfig, "api-resources", "--no-headers").splitlines()
    return {(fields[-3], fields[-1]) for fields in map(str.split, lines)}


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.name.removesuffix("-values.yaml"))
def test_what_is_applied_is_what_the_server_returns(native: NativeCluster, release: Release, path: Path) -> None:
    """A field that the server drops or changes keeps a GitOps tool from ever being in sync."""
    space = release.namespace
    dry_run = ["install", "dry", str(CHART), "--namespace", space, "--dry-run=server", "--output=json"]
    made = interface.helm(native.kubeconfig, *dry_run, "--values", str(path), f"--set=namespaceOverride={space}")
    known = known_kinds(native)
    objects = [one for one in yaml.safe_load_all(json.loads(made)["manifest"]) if one]
    applied = [one for one in objects if (one["apiVersion"], one["kind"]) in known]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": applied})
    apply = ["apply", "--server-side", "--dry-run=server", "--output=json", "--filename=-"]
    returned = json.loads(interface.kubectl(native.kubeconfig, *apply, text=text))["items"]
    assert len(returned) == len(applied)
    differences = [
        f"{one['kind']} {one['metadata']['name']}{difference}"
        for one, other in zip(applied, returned, strict=True)
        for difference in find_differences(one, other)
    ]
    assert differences == []


def find_differences(applied: Any, returned: Any, place: str = "") -> Iterator[str]:
    """Return where what comes back lacks something, or has another value; it may have more fields."""
    if isinstance(applied, dict) and isinstance(returned, dict):
        for key, value in applied.items():
            yield from find_differences(value, returned.get(key), f"{place}.{key}")
    elif isinstance(applied, list) and isinstance(returned, list) and len(applied) == len(returned):
        for number, value in enumerate(applied):
            yield from find_differences(value, returned[number], f"{place}[{number}]")
    elif applied != returned:
        yield f"{place}: {applied!r} became {returned!r}"


def test_release_that_helm_installed_is_in_sync(native: NativeCluster, release: Release) -> None:
    manifest = interface.helm(native.kubeconfig, "get", "manifest", release.name, "--namespace", release.namespace)
    # It fails if there is a difference, and its message shows it.
    interface.kubectl(native.kubeconfig, "diff", "--server-side", "--force-conflicts", "--filename=-", text=manifest)
