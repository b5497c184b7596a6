"""The two replicas of a highly available cache: where they run, how they find each other, and disruptions."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from cluster_support import installed
from machine.processes import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.interface import Cluster
    from cluster.release import Release

pytestmark = pytest.mark.cluster

DOCKER_HUB = {"upstream": "docker.io", "volume": {"size": "1Gi"}, "highAvailability": {"enabled": True}}


def written(path: Path, **more: object) -> tuple[str, str]:
    """Write a values file with one cache, and return it as arguments of helm."""
    path.write_text(json.dumps({"caches": [DOCKER_HUB], **more}))
    return "--values", str(path)


def replicas(release: Release) -> dict[str, Any]:
    """Return the pods of the cache that are not being deleted, by name."""
    found = release.get("pods", "--selector", "upstream-host=docker.io")["items"]
    return {one["metadata"]["name"]: one for one in found if "deletionTimestamp" not in one["metadata"]}


def ready(release: Release) -> list[str]:
    """Return the names of the replicas that are ready."""
    return [
        name
        for name, pod in replicas(release).items()
        if any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", ()))
    ]


def evict(release: Release, name: str) -> None:
    """Evict a pod as a drain of its node does."""
    path = f"/api/v1/namespaces/{release.namespace}/pods/{name}/eviction"
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    release.kubectl("create", "--raw", path, "--filename", "-", text=json.dumps(eviction))


def test_two_replicas_are_on_two_nodes_and_one_is_always_ready(cluster: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    with installed(cluster, "doubled", *written(path)) as release:
        first, second = sorted(replicas(release))
        assert {pod["spec"]["nodeName"] for pod in replicas(release).values()} == {node.name for node in cluster.nodes}

        # Each one finds the other one by its name.
        name = release.object_name("docker.io")
        for one, other in ((first, second), (second, first)):
            ask = f"import socket; print(socket.gethostbyname('{other}.{name}--peers'))"
            found = release.kubectl("exec", one, "--container=gate", "--", "python3", "-c", ask)
            assert found.strip() == replicas(release)[other]["status"]["podIP"]

        # A drain evicts one of them, and the other one only when the first one is back.
        evict(release, first)
        with pytest.raises(RuntimeError, match="would violate the pod's disruption budget"):
            evict(release, second)
        wait_for("both replicas to be ready", lambda: len(ready(release)) == 2, timeout=120)
        evict(release, second)
        wait_for("both replicas to be ready again", lambda: len(ready(release)) == 2, timeout=120)

        # An upgrade restarts one after the other.
        before = {pod["metadata"]["uid"] for pod in replicas(release).values()}
        release.upgrade(*written(path, cachePods={"podAnnotations": {"example.com/a": "b"}}), "--wait=hookOnly")
        deadline = time.monotonic() + 180
        while before & {pod["metadata"]["uid"] for pod in replicas(release).values()} or len(ready(release)) < 2:
            assert time.monotonic() < deadline, "the replicas were not replaced"
            assert ready(release), "both were not ready at once"
            time.sleep(0.2)
