"""Three replicas of a cache on two nodes: one fetch for all, one that is lost, zones, and fewer of them."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from cluster.pulls import new_image
from cluster.release import Release
from cluster_support import installed, pull_at_once
from machine.processes import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.interface import Cluster

pytestmark = pytest.mark.cluster

UPSTREAM = "docker.io"
COUNT = 3
ZONE = "topology.kubernetes.io/zone"
READY_SECONDS = 240.0
# Every blob of the image once, and both manifests of a tag and its digest.
MOST = 1.05


@contextmanager
def in_zones(cluster: Cluster) -> Iterator[None]:
    """Make each node a zone of its own for the time."""
    anywhere = Release(cluster, name="tripled", namespace="tripled")
    try:
        for node in cluster.nodes:
            anywhere.kubectl("label", "node", node.name, f"{ZONE}=zone-of-{node.name}", "--overwrite")
        yield
    finally:
        for node in cluster.nodes:
            anywhere.kubectl("label", "node", node.name, f"{ZONE}-")


def written(path: Path, replicas: int) -> tuple[str, str]:
    """Write a values file with one cache, and return it as arguments of helm."""
    content = {
        "caches": [{"upstream": UPSTREAM, "volume": {"size": "1Gi"}}],
        "cachePods": {"replicas": replicas, "ownerPerZone": True},
        "nodeProgram": {"probe": {"maxBackoff": "0s"}},
    }
    path.write_text(json.dumps(content))
    return "--values", str(path)


def pods(release: Release) -> dict[str, Any]:
    """Return the pods of the cache that are ready, by name."""
    items = release.get("pods", "--selector", f"upstream-host={UPSTREAM}")["items"]
    return {
        pod["metadata"]["name"]: pod
        for pod in items
        if "deletionTimestamp" not in pod["metadata"]
        and any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", ()))
    }


def blob_path(name: str, digest: str) -> str:
    return f"/v2/library/{name}/blobs/{digest}"


def get_size(release: Release, pod: str, path: str) -> int:
    """Request a blob of one replica, from its own gate's container, and return the size of the body."""
    url = f"http://127.0.0.1:5000{path}"
    script = f"import urllib.request; print(len(urllib.request.urlopen('{url}', timeout=60).read()))"
    return int(release.kubectl("exec", pod, "--container=gate", "--", "python3", "-c", script))


def zone_of(release: Release, pod: str) -> str:
    """Return the zone that a gate knows."""
    script = "import os; print(os.environ['REGISTRY_CACHE_ZONE'])"
    return release.kubectl("exec", pod, "--container=gate", "--", "python3", "-c", script).strip()


def test_three_replicas_fetch_once_and_survive_the_loss_of_one(cluster: Cluster, tmp_path: Path) -> None:
    assert cluster.upstream is not None
    path = tmp_path / "values.yaml"
    with in_zones(cluster), installed(cluster, "tripled", *written(path, COUNT)) as release:
        wait_for("all replicas to be ready", lambda: len(pods(release)) == COUNT, READY_SECONDS)
        assert {pod["spec"]["nodeName"] for pod in pods(release).values()} == {node.name for node in cluster.nodes}
        for name, pod in pods(release).items():
            assert zone_of(release, name) == f"zone-of-{pod['spec']['nodeName']}"

        reference, image = new_image(cluster, f"{UPSTREAM}/library/tripled:1", layers=6)
        mark = cluster.upstream.mark()
        pull_at_once(cluster, *((reference, node) for node in cluster.nodes))
        for name in pods(release):
            for digest, content in image.blobs.items():
                assert get_size(release, name, blob_path("tripled", digest)) == len(content)
        requests = cluster.upstream.requests(mark)
        assert sorted(one.digest for one in requests if one.is_blob) == sorted(image.blobs)
        assert sum(one.body_bytes for one in requests) <= MOST * image.size

        # A lost replica comes back with its volume. Until then, the others have what they hold and fetch the rest once.
        held, held_image = new_image(cluster, f"{UPSTREAM}/library/held:1", layers=6)
        first, second, third = sorted(pods(release))
        for digest in held_image.blobs:
            get_size(release, second, blob_path("held", digest))
        mark = cluster.upstream.mark()
        release.kubectl("delete", "pod", first, "--wait=false", "--grace-period=0", "--force")
        for digest, content in held_image.blobs.items():
            assert get_size(release, third, blob_path("held", digest)) == len(content)
        pull_at_once(cluster, *((held, node) for node in cluster.nodes))
        assert [one for one in cluster.upstream.requests(mark) if one.is_blob] == []
        wait_for("all replicas to be ready again", lambda: len(pods(release)) == COUNT, READY_SECONDS)

        # Fewer replicas: the volume of the last one goes with it.
        release.upgrade(*written(path, COUNT - 1))
        wait_for("two replicas to be left", lambda: sorted(pods(release)) == [first, second], READY_SECONDS)
        claim = f"cache-volume-{third}"

        def claims() -> list[str]:
            return [one["metadata"]["name"] for one in release.get("persistentvolumeclaims")["items"]]

        wait_for("the claim to be gone", lambda: claim not in claims(), READY_SECONDS)
        mark = cluster.upstream.mark()
        for name in (first, second):
            for digest, content in held_image.blobs.items():
                assert get_size(release, name, blob_path("held", digest)) == len(content)
        assert [one for one in cluster.upstream.requests(mark) if one.is_blob] == []
