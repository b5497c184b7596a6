"""What the tests of Argo CD share. `make test-argocd` builds it; without that, they are skipped."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from cluster.pulls import new_image, pull
from cluster.release import Release
from cluster_support import containerd_files
from machine import tools

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.argocd import ArgoCD

MARKS = [
    pytest.mark.cluster,
    pytest.mark.long,
    pytest.mark.skipif(not tools.argocd_is_built(), reason="Argo CD was not built: make test-argocd"),
]
PROBE = {"nodeProgram": {"probe": {"interval": "2s"}}}


@contextmanager
def synced(argocd: ArgoCD, name: str, source: dict[str, Any], *options: str) -> Iterator[Release]:
    """An Application that is synced and healthy; its deletion leaves nothing in the namespace and on the nodes."""
    release = Release(argocd.cluster, name=name, namespace=name)
    before = [containerd_files(node) for node in argocd.cluster.nodes]
    try:
        argocd.apply(name, source, *options)
        argocd.wait_until_synced(name)
        yield release
    finally:
        argocd.delete(name)
    assert release.get("all,configmaps", "--selector", f"app.kubernetes.io/instance={name}")["items"] == []
    assert [containerd_files(node) for node in argocd.cluster.nodes] == before, "deletion leaves nodes as they were"
    release.uninstall()


def serves(release: Release, upstream: str = "docker.io", tag: int = 1) -> None:
    """Pull an image through the cache of an upstream, and again on another node."""
    cluster = release.cluster
    reference, _ = new_image(cluster, f"{upstream}/library/{release.name}:{tag}")
    first, second = cluster.nodes
    assert pull(cluster, reference, first).served_by == "upstream through the cache"
    assert pull(cluster, reference, second).served_by == "cache"
