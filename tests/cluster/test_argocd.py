"""Argo CD installs the chart from git, finds no drift, repairs what was changed, and leaves nothing behind."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from cluster.argocd import ArgoCD
from cluster.containerd_configuration import REGISTRY_DIRECTORY
from cluster.pulls import new_image, pull
from cluster.release import Release
from cluster_support import containerd_files
from machine import tools
from machine.paths import CHART
from machine.processes import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.native import NativeCluster

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(not tools.argocd_is_built(), reason="Argo CD was not built: make test-argocd"),
]

CACHES = [{"upstream": "docker.io", "volume": {"size": "1Gi"}}, {"upstream": "ghcr.io", "volume": {"size": "1Gi"}}]
PROBE = {"nodeProgram": {"probe": {"interval": "2s"}}}
ONE_CACHE = {"caches": CACHES[:1], **PROBE}


@pytest.fixture(scope="module")
def argocd(native: NativeCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArgoCD]:
    """Argo CD, with the chart in its git repository."""
    running = ArgoCD(native, tmp_path_factory.mktemp("argocd"))
    running.commit(chart=CHART)
    try:
        running.start()
        yield running
    finally:
        for log in sorted(running.place.folder.glob("*.log")):
            print(f"--- {log.name}", *log.read_text(errors="replace").splitlines()[-20:], sep="\n")
        running.stop()


@contextmanager
def synced(argocd: ArgoCD, name: str, source: dict[str, Any], *options: str) -> Iterator[Release]:
    """An Application that is synced and healthy; its deletion leaves nothing in the namespace and on the nodes."""
    release = Release(argocd.cluster, name=name, namespace=name)
    before = [containerd_files(node) for node in argocd.cluster.nodes]
    argocd.apply(name, source, *options)
    argocd.wait_until_synced(name)
    yield release
    argocd.delete(name)
    assert release.get("all,configmaps", "--selector", f"app.kubernetes.io/instance={name}")["items"] == []
    assert [containerd_files(node) for node in argocd.cluster.nodes] == before, "deletion leaves nodes as they were"
    release.uninstall()


def serves(release: Release) -> None:
    """Pull an image through the cache of docker.io, and again on another node."""
    cluster = release.cluster
    reference, _ = new_image(cluster, f"docker.io/library/{release.name}:1")
    first, second = cluster.nodes
    assert pull(cluster, reference, first).served_by == "upstream through the cache"
    assert pull(cluster, reference, second).served_by == "cache"


@pytest.fixture(scope="module", params=["client", "server"])
def application(request: pytest.FixtureRequest, argocd: ArgoCD) -> Iterator[Release]:
    """An Application with two caches, which Argo CD applies on its own side or on that of the API server."""
    source = argocd.in_git(valuesObject={"caches": CACHES, **PROBE})
    options = ["ServerSideApply=true"] if request.param == "server" else []
    with synced(argocd, f"argo-{request.param}", source, *options) as release:
        yield release


def test_synced_caches_serve_pulls(application: Release) -> None:
    serves(application)


def test_nothing_drifts(application: Release, argocd: ArgoCD) -> None:
    """Every refresh compares all of it anew; a difference would be a new sync operation."""
    before = argocd.status(application.name)["history"]
    for _ in range(5):
        argocd.refresh(application.name)
        status = argocd.status(application.name)
        assert status["sync"]["status"] == "Synced"
        assert [one for one in status["resources"] if one.get("status") != "Synced"] == []
    assert argocd.diff(application.name) == ""
    assert argocd.status(application.name)["history"] == before


def test_pod_of_helm_test_is_not_created(application: Release) -> None:
    assert application.get("pods", "--selector=app.kubernetes.io/component=test")["items"] == []


def test_change_by_hand_is_undone(application: Release) -> None:
    name = application.object_name("docker.io")
    application.kubectl("scale", "statefulset", name, "--replicas=0")
    wait_for("Argo CD to scale it up", lambda: application.get("statefulset", name)["spec"]["replicas"] == 1, 120)
    application.kubectl("delete", "service", name)
    wait_for(
        "Argo CD to create the Service again",
        lambda: name in [one["metadata"]["name"] for one in application.get("services")["items"]],
        120,
    )


def test_removed_cache_is_pruned_and_withdrawn(application: Release, argocd: ArgoCD) -> None:
    """The last of the tests of this application, since it leaves one cache."""
    options = ["ServerSideApply=true"] if application.name.endswith("server") else []
    argocd.apply(application.name, argocd.in_git(valuesObject=ONE_CACHE), *options)
    wait_for(
        "Argo CD to prune the cache",
        lambda: len(application.get("statefulsets")["items"]) == 1,
        120,
    )
    argocd.wait_until_synced(application.name)
    for node in argocd.cluster.nodes:
        wait_for(
            "the node program to withdraw it",
            lambda node=node: node.run("ls", REGISTRY_DIRECTORY) == "docker.io\n",  # type: ignore[misc]
            60,
        )
