"""Tests that need only the API of a cluster; with --kubeconfig they run on yours."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from cluster_support import installed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.interface import Cluster
    from cluster.release import Release

pytestmark = [pytest.mark.cluster, pytest.mark.portable]


@pytest.fixture(scope="module")
def release(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """Two caches without images; since they are installed, every node uses them."""
    path = tmp_path_factory.mktemp("any") / "values.yaml"
    caches = [{"upstream": name, "volume": {"size": "1Gi"}} for name in ("docker.io", "europe-docker.pkg.dev")]
    images = {"docker.io": "", "europe-docker.pkg.dev": ""}
    path.write_text(json.dumps({"caches": caches, "helmTest": {"images": images}}))
    with installed(cluster, "anywhere", "--values", str(path)) as running:
        yield running


def test_volume_is_found_by_its_upstream(release: Release) -> None:
    (claim,) = release.get("persistentvolumeclaims", "--selector=upstream-host=docker.io")["items"]
    assert claim["status"]["phase"] == "Bound"


def test_every_pod_runs_and_none_was_restarted(release: Release) -> None:
    pods = release.get("pods")["items"]
    assert len(pods) >= 3
    for pod in pods:
        for container in pod["status"]["containerStatuses"]:
            assert container["ready"], pod["metadata"]["name"]
            assert container["restartCount"] == 0, pod["metadata"]["name"]


def test_helm_test_reaches_the_caches(release: Release) -> None:
    log = release.test()
    assert "docker.io: the cache answers" in log
    assert "europe-docker.pkg.dev: the cache answers" in log
