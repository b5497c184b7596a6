"""Volumes grow by an upgrade under the running cache, never shrink, and are deleted with their cache or kept."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from cluster import interface
from cluster.pulls import new_image, pull
from cluster.small_volumes import small_volume
from cluster_support import installed
from machine.processes import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.interface import Cluster
    from cluster.release import Release
    from cluster.small_volumes import SmallVolume

pytestmark = pytest.mark.cluster

MEBIBYTE = 2**20


@pytest.fixture
def in_memory(cluster: Cluster) -> Iterator[SmallVolume]:
    """A volume of 64 MiB that can really grow, which the provisioners of the test cluster do not support."""
    with small_volume(cluster, cluster.nodes[0], "in-memory", 64 * MEBIBYTE) as running:
        yield running


def grow(volume: SmallVolume, size: int, release: Release, claim: str) -> None:
    """Expand a volume as the resizer of a storage driver does."""
    volume.resize(size)
    patch = json.dumps({"spec": {"capacity": {"storage": str(size)}}})
    release.kubectl("patch", "persistentvolume", volume.name, "--patch", patch)
    patch = json.dumps({"status": {"capacity": {"storage": str(size)}}})
    release.kubectl("patch", "persistentvolumeclaim", claim, "--subresource=status", "--patch", patch)


def written(path: Path, *caches: dict[str, Any], **more: object) -> tuple[str, str]:
    """Write a values file with these caches, and return it as arguments of helm."""
    path.write_text(json.dumps({"caches": list(caches), **more}))
    return "--values", str(path)


def cache(upstream: str, **volume: str) -> dict[str, Any]:
    return {"upstream": upstream, "volume": volume}


def claims(release: Release) -> dict[str, Any]:
    """Return the claims that are not being deleted, by upstream."""
    found = release.get("persistentvolumeclaims")["items"]
    return {
        one["metadata"]["labels"]["upstream-host"]: one for one in found if "deletionTimestamp" not in one["metadata"]
    }


def running(release: Release, upstream: str) -> tuple[str, list[int]]:
    """Return the data of a cache pod that changes when it is replaced or a container restarts."""
    pod = release.pod(upstream)
    return pod["metadata"]["uid"], [one["restartCount"] for one in pod["status"]["containerStatuses"]]


def everything(release: Release) -> dict[str, str]:
    """Return the resource version of each object of the chart or of helm."""
    found = release.get("configmaps,secrets,services,statefulsets,daemonsets,persistentvolumeclaims")["items"]
    return {f"{one['kind']} {one['metadata']['name']}": one["metadata"]["resourceVersion"] for one in found}


def may_hold(release: Release, upstream: str) -> int:
    """Return the capacity of the volume, by the cache's metrics."""
    text = release.metrics_text(upstream)
    found = re.search(r"^registry_cache_capacity_bytes\{.*\} (\S+)$", text, re.MULTILINE)
    assert found is not None, text
    return int(float(found[1]))


def test_claim_grows_by_an_upgrade_while_the_cache_runs(cluster: Cluster, expandable: str, tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    before = written(path, cache("docker.io", size="1Gi", storageClassName=expandable))
    with installed(cluster, "grown", *before) as release:
        reference, _ = new_image(cluster, "docker.io/library/grown:1")
        pull(cluster, reference, cluster.nodes[0])
        (claim,) = claims(release).values()
        was = running(release, "docker.io")
        assert claim["spec"]["resources"]["requests"]["storage"] == "1Gi"

        release.upgrade(*written(path, cache("docker.io", size="2Gi", storageClassName=expandable)))

        (grown,) = claims(release).values()
        assert grown["metadata"]["uid"] == claim["metadata"]["uid"]
        assert grown["spec"]["resources"]["requests"]["storage"] == "2Gi"
        assert running(release, "docker.io") == was
        assert pull(cluster, reference, cluster.nodes[1]).served_by == "cache"


def test_running_cache_uses_the_room_of_a_volume_that_has_grown(
    cluster: Cluster, in_memory: SmallVolume, tmp_path: Path
) -> None:
    path = tmp_path / "values.yaml"
    before = written(path, cache("docker.io", size=str(64 * MEBIBYTE), storageClassName=in_memory.name))
    with installed(cluster, "roomier", *before) as release:
        reference, _ = new_image(cluster, "docker.io/library/roomier:1")
        pull(cluster, reference, cluster.nodes[0])
        ((_, claim),) = claims(release).items()
        assert may_hold(release, "docker.io") <= 64 * MEBIBYTE
        was = running(release, "docker.io")

        release.upgrade(*written(path, cache("docker.io", size=str(192 * MEBIBYTE), storageClassName=in_memory.name)))
        grow(in_memory, 192 * MEBIBYTE, release, claim["metadata"]["name"])

        # The kubelet updates a changed ConfigMap in a pod within about a minute.
        more = "the cache to see the new room"
        wait_for(more, lambda: may_hold(release, "docker.io") > 128 * MEBIBYTE, timeout=150)
        assert running(release, "docker.io") == was
        assert pull(cluster, reference, cluster.nodes[1]).served_by == "cache"
        larger, _ = new_image(cluster, "docker.io/library/roomier:2", layers=1, layer_bytes=100_000_000)
        assert pull(cluster, larger, cluster.nodes[0]).served_by == "upstream through the cache"
        assert pull(cluster, larger, cluster.nodes[1]).served_by == "cache"


def test_impossible_changes_of_volumes_are_refused_before_anything_is_changed(
    cluster: Cluster, expandable: str, tmp_path: Path
) -> None:
    path = tmp_path / "values.yaml"
    docker, github = cache("docker.io", size="2Gi"), cache("ghcr.io", size="1Gi", storageClassName=expandable)
    with installed(cluster, "unshrunk", *written(path, docker, github)) as release:
        before = everything(release)
        smaller = cache("docker.io", size="1.5Gi")
        other = cache("ghcr.io", size="1Gi", storageClassName="local-path")
        unset = cache("ghcr.io", size="1Gi")
        # Together with another change, which must not be applied either.
        ttl = {"garbageCollection": {"ttl": "1h"}}
        name = "cache-volume-unshrunk-registry-cache-docker-io-0"
        shrinks = (
            'caches[0].volume.size: "1.5Gi" is less than the volume has, and a volume does not shrink; write "2Gi", or '
            f"remove the cache, wait until the claim {name} is gone, and add the cache again, empty"
        )
        another_class = (
            'caches[1].volume.storageClassName: "local-path" is not the class of the existing claim, which '
            'cannot change; write "expandable", or'
        )
        no_class = (
            "caches[1].volume.storageClassName: is missing, and the class of the existing claim cannot change; "
            'write "expandable", or'
        )
        for change, said in (
            ([{**smaller, **ttl}, github], shrinks),
            ([{**docker, **ttl}, other], another_class),
            ([{**docker, **ttl}, unset], no_class),
        ):
            with pytest.raises(RuntimeError, match=re.escape(said)):
                release.upgrade(*written(path, *change))
            assert everything(release) == before

        # The same size in another unit, and the default class by its name, are no change.
        was = {upstream: running(release, upstream) for upstream in ("docker.io", "ghcr.io")}
        same = cache("docker.io", size="2048Mi", storageClassName="local-path")
        release.upgrade(*written(path, same, github))
        assert {upstream: running(release, upstream) for upstream in was} == was

        # A claim that is being deleted cannot be used.
        release.kubectl("delete", "persistentvolumeclaim", name, "--wait=false")
        with pytest.raises(RuntimeError, match=f"caches.0.: the claim {name} is being deleted"):
            release.upgrade(*written(path, same, github))


def test_volume_is_deleted_with_its_cache_or_kept(cluster: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    docker, github, quay = (cache(upstream, size="1Gi") for upstream in ("docker.io", "ghcr.io", "quay.io"))
    retain = {"cachePods": {"volumeClaims": {"retentionPolicy": "Retain"}}}
    with installed(cluster, "retained", *written(path, docker, github, quay)) as release:
        reference, _ = new_image(cluster, "ghcr.io/tests/retained:1")
        pull(cluster, reference, cluster.nodes[0])

        release.upgrade(*written(path, docker, github))
        wait_for("the volume of quay.io to go", lambda: gone(release, "quay.io"), timeout=60)

        release.upgrade(*written(path, docker, github, **retain))
        kept = claims(release)["ghcr.io"]["metadata"]["uid"]
        release.upgrade(*written(path, docker, **retain))
        wait_for("the pod of ghcr.io to go", lambda: not pods(release, "ghcr.io"), timeout=60)
        assert claims(release)["ghcr.io"]["metadata"]["uid"] == kept

        release.upgrade(*written(path, docker, github, **retain))
        assert claims(release)["ghcr.io"]["metadata"]["uid"] == kept
        assert pull(cluster, reference, cluster.nodes[1]).served_by == "cache"

        uninstall(release)
        assert claims(release)["ghcr.io"]["metadata"]["uid"] == kept
        assert set(claims(release)) == {"docker.io", "ghcr.io"}

        release.install(*written(path, docker, github))
        assert claims(release)["ghcr.io"]["metadata"]["uid"] == kept
        uninstall(release)
        wait_for("both volumes to go", lambda: gone(release, "docker.io") and gone(release, "ghcr.io"), timeout=60)


def gone(release: Release, upstream: str) -> bool:
    return not release.get("persistentvolumeclaims", "--selector", f"upstream-host={upstream}")["items"]


def pods(release: Release, upstream: str) -> list[Any]:
    found: list[Any] = release.get("pods", "--selector", f"upstream-host={upstream}")["items"]
    return found


def uninstall(release: Release) -> None:
    """Uninstall the release, but keep its namespace."""
    interface.helm(
        release.cluster.kubeconfig,
        "uninstall",
        release.name,
        "--namespace",
        release.namespace,
        "--wait",
        "--timeout=120s",
    )
    wait_for("its pods to end", lambda: not release.get("pods")["items"], timeout=120)
