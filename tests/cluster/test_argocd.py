"""Argo CD installs the chart from git, finds no drift, repairs what was changed, and leaves nothing behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from argocd_support import MARKS, PROBE, serves, synced
from cluster.containerd_configuration import REGISTRY_DIRECTORY
from machine.processes import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.argocd import ArgoCD
    from cluster.release import Release

pytestmark = MARKS

CACHES = [{"upstream": "docker.io", "volume": {"size": "1Gi"}}, {"upstream": "ghcr.io", "volume": {"size": "1Gi"}}]
ONE_CACHE = {"caches": CACHES[:1], **PROBE}


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
