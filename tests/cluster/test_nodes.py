"""What the node program reports, and that it leaves no trace however the chart is removed."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from typing import TYPE_CHECKING

import pytest
from cluster import interface
from cluster_support import containerd_files, installed, values
from machine import tools
from machine.paths import CHART
from machine.processes import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.interface import Cluster, Node
    from cluster.release import Release

pytestmark = pytest.mark.cluster

CONFIGURATION = "/etc/containerd/config.toml"
NODES = "app.kubernetes.io/component=node"
# The program reads containerd's configuration once a minute, and the kubelet probes it every five seconds.
LIMIT_SECONDS = 300.0


@pytest.fixture
def release(cluster: Cluster, tmp_path: Path) -> Iterator[Release]:
    # Without the release, a list in a file of version 3 is unknown, since containerd 2.0 reads lists.
    release = tools.go_tools()["containerd"].version
    version = f"nodeProgram.containerdVersion={release}"
    path = values(tmp_path / "v.yaml", "docker.io", "ghcr.io")
    with installed(cluster, "noded", "--values", path, "--set", version) as running:
        yield running


@pytest.fixture
def node_that_reads_a_list(cluster: Cluster) -> Iterator[Node]:
    """A node whose configuration has containerd's default since 2.2, which the running containerd has not read."""
    node = cluster.nodes[0]
    before = node.run("cat", CONFIGURATION)
    assert "config_path = '/etc/containerd/certs.d'" in before
    changed = before.replace("certs.d'", "certs.d:/etc/docker/certs.d'")
    node.run("sh", "-c", f"cat > {CONFIGURATION} << 'END'\n{changed}END")
    yield node
    node.run("sh", "-c", f"cat > {CONFIGURATION} << 'END'\n{before}END")


def ready(release: Release) -> str:
    (daemon_set,) = release.get("daemonsets")["items"]
    status = daemon_set["status"]
    return f"{status.get('numberReady', 0)}/{status['desiredNumberScheduled']}"


def test_containerd_that_does_not_read_the_registry_directory_is_reported(
    release: Release, cluster: Cluster, node_that_reads_a_list: Node
) -> None:
    """`kubectl get daemonset`, `kubectl describe pod` and the log say what is wrong and which line to write."""
    (pod,) = release.get(
        "pods", "--selector", NODES, "--field-selector", f"spec.nodeName={node_that_reads_a_list.name}"
    )["items"]
    name = pod["metadata"]["name"]
    wait_for("one node to be not ready", lambda: ready(release) == "1/2", LIMIT_SECONDS)

    def described() -> str:
        return " ".join(release.kubectl("describe", "pod", name).split())

    instruction = (
        f"{CONFIGURATION}: config_path is /etc/containerd/certs.d:/etc/docker/certs.d, a list, which containerd 2.1 to "
        "2.4 takes for one directory (its issue 12808): write "
        'config_path = "/etc/containerd/certs.d" under [plugins."io.containerd.cri.v1.images".registry] in '
        f"{CONFIGURATION}, and restart containerd"
    )
    wait_for("the event", lambda: instruction in described(), LIMIT_SECONDS)
    log = release.kubectl("logs", name)
    assert log.count("config_path is /etc/containerd/certs.d:/etc/docker/certs.d") == 1, "a line for each change"


@pytest.mark.parametrize(
    "taken",
    [
        pytest.param("namespace", id="kubectl-delete-namespace"),
        pytest.param("objects", id="each-object-as-argo-cd-does"),
    ],
)
def test_nodes_are_as_they_were_however_the_chart_is_removed(cluster: Cluster, tmp_path: Path, taken: str) -> None:
    before = [containerd_files(node) for node in cluster.nodes]
    with installed(cluster, "taken", "--values", values(tmp_path / "v.yaml", "docker.io")) as release:
        assert [containerd_files(node) for node in cluster.nodes] != before
        if taken == "namespace":
            interface.kubectl(cluster.kubeconfig, "delete", "namespace", release.namespace, "--timeout=180s")
        else:
            kinds = "daemonsets,statefulsets,services,configmaps"
            selector = f"--selector=app.kubernetes.io/instance={release.name}"
            release.kubectl("delete", kinds, selector, "--cascade=foreground", "--timeout=180s")
        assert [containerd_files(node) for node in cluster.nodes] == before


def test_metrics_of_each_node_show_the_caches_it_uses(release: Release, cluster: Cluster) -> None:
    for node in cluster.nodes:
        with urllib.request.urlopen(f"http://{node.address}:9253/metrics", timeout=30) as answer:
            text = answer.read().decode()
        for upstream in ("docker.io", "ghcr.io"):
            assert f'registry_cache_node_mirror_active{{upstream_host="{upstream}"}} 1\n' in text
        assert "registry_cache_node_containerd_reads_registry_directory 1\n" in text
        promtool = tools.debian_program("promtool")
        checked = subprocess.run(
            [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_programs_of_two_releases_run_on_the_same_nodes(cluster: Cluster, release: Release, tmp_path: Path) -> None:
    """Each has its own upstreams. The second one has no port for its metrics, and works nevertheless."""
    with installed(cluster, "second", "--values", values(tmp_path / "second.yaml", "quay.io")) as second:
        assert ready(release) == ready(second) == "2/2"
        (pod, *_) = second.get("pods", "--selector", NODES)["items"]
        assert "cannot listen on port 9253: Address already in use" in second.kubectl("logs", pod["metadata"]["name"])


def test_new_version_of_the_program_is_rolled_out_node_by_node(
    cluster: Cluster, release: Release, tmp_path: Path
) -> None:
    """Ten percent of two nodes is one: while one has no file, the other one does."""
    missing = 0
    document = json.loads((tmp_path / "v.yaml").read_text())
    document["nodeProgram"] = {"dialTimeout": "600ms"}
    path = tmp_path / "changed.yaml"
    path.write_text(json.dumps(document))
    command = ["upgrade", release.name, str(CHART), "--namespace", release.namespace]
    interface.helm(cluster.kubeconfig, *command, "--values", str(path))

    def everywhere() -> bool:
        nonlocal missing
        files = [node.run("cat", "/etc/containerd/certs.d/docker.io/hosts.toml", check=False) for node in cluster.nodes]
        missing = max(missing, sum("dial_timeout" not in text for text in files))
        return all('"600ms"' in text for text in files)

    wait_for("every node to have the new file", everywhere, LIMIT_SECONDS)
    assert missing <= 1
