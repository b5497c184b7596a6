"""Pulls succeed when a cache's volume is full, too small, out of inodes or read-only, and old content expires."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cluster.pulls import new_image
from cluster.small_volumes import SmallVolume, small_volume
from cluster_support import by_digest, cached_image, fill_cache, installed, pull_at_first, pull_at_once
from experiments.cluster_faults import pod_processes
from machine.processes import wait_for
from upstreams.oci import blob_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from cluster.native import NativeCluster
    from cluster.release import Release
    from upstreams.oci import Image

pytestmark = pytest.mark.cluster

SMALL = "docker.io"
SIZE = 64 << 20
KEPT = "ghcr.io"
# Seconds.
TTL = 20.0
# Ten times what the kubelet needs to update a changed ConfigMap in a pod.
REFRESH = 900.0


@pytest.fixture(scope="module")
def volume(native: NativeCluster) -> Iterator[SmallVolume]:
    with small_volume(native, native.nodes[0], "small-volume", SIZE) as running:
        yield running


@pytest.fixture(scope="module")
def release(native: NativeCluster, volume: SmallVolume, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """A cache on a small volume, and one on an ordinary volume; each pull revalidates its tag."""
    path = tmp_path_factory.mktemp("volumes") / "values.yaml"
    path.write_text(json.dumps(_values(volume, ttl="168h")))
    with installed(native, "volumes", "--values", str(path)) as running:
        yield running


@pytest.mark.usefixtures("undisturbed")
def test_images_of_several_times_the_volume_are_pulled_and_the_last_ones_are_cached(
    native: NativeCluster, release: Release, volume: SmallVolume
) -> None:
    images = [
        new_image(native, f"{SMALL}/library/many-{number}:1", layers=1, layer_bytes=20_000_000) for number in range(8)
    ]
    begun = time.monotonic()
    for first, second in zip(images[::2], images[1::2], strict=True):
        pull_at_once(native, (first[0], native.nodes[0]), (second[0], native.nodes[1]))
    seconds = time.monotonic() - begun

    total = sum(image.size for _, image in images)
    print(f"{total / SIZE:.1f} times the volume in {seconds:.1f} s")
    assert total > 2 * SIZE
    assert not volume.blobs & set(images[0][1].blobs)
    again = pull_at_once(native, (images[-1][0], native.nodes[0]), (images[-2][0], native.nodes[1]))
    assert [each.served_by for each in again] == ["cache", "cache"]


@pytest.mark.usefixtures("undisturbed")
def test_layer_larger_than_the_volume_comes_from_the_upstream_and_nothing_is_evicted(
    native: NativeCluster, release: Release
) -> None:
    cached = _cached(native, release, "beside-large")
    large, _ = new_image(native, f"{SMALL}/library/large:1", layers=1, layer_bytes=SIZE + 1)

    assert pull_at_first(native, large, native.nodes[1]).served_by == "upstream"
    assert pull_at_first(native, cached[0], native.nodes[1]).served_by == "cache"


STATES: dict[str, Callable[[SmallVolume], AbstractContextManager[None]]] = {
    "full": lambda volume: volume.filled(),
    "nearly full": lambda volume: volume.filled(free=200_000),
    "without inodes": lambda volume: volume.without_inodes(),
    "read-only": lambda volume: volume.read_only(),
    "as it was again": lambda _: nullcontext(),
}


@pytest.mark.usefixtures("undisturbed")
@pytest.mark.parametrize("state", STATES)
def test_volume_that_cannot_be_written_costs_no_pull(
    native: NativeCluster, release: Release, volume: SmallVolume, state: str
) -> None:
    name = state.replace(" ", "-")
    # The first one may be evicted to make room for the last one.
    _, by_tag, named = (_cached(native, release, f"{name}-{which}") for which in ("old", "tag", "digest"))
    fresh, _ = new_image(native, f"{SMALL}/library/{name}-new:1", layer_bytes=100_000)

    with STATES[state](volume):
        cached = pull_at_once(native, (by_tag[0], native.nodes[0]), (by_digest(*named), native.nodes[1]))
        new = pull_at_first(native, fresh, native.nodes[0])

    print(f"{state}: new {new.seconds:.2f} s from {new.served_by}, cached {[each.seconds for each in cached]} s")
    assert [each.served_by for each in cached] == ["cache", "cache"]
    if state == "as it was again":
        assert new.served_by == "upstream through the cache"


@pytest.mark.usefixtures("undisturbed")
def test_changed_time_to_live_expires_unused_content_and_nothing_else(
    native: NativeCluster, release: Release, volume: SmallVolume, tmp_path: Path
) -> None:
    """The kubelet updates the changed ConfigMap in the running pod."""
    unused = new_image(native, f"{KEPT}/tests/unused:1")
    hot = new_image(native, f"{KEPT}/tests/hot:1")
    pull_at_once(native, (unused[0], native.nodes[0]), (hot[0], native.nodes[0]))
    folder = _volume(native, release, KEPT)
    assert _holds(folder, unused[1])
    path = tmp_path / "values.yaml"
    path.write_text(json.dumps(_values(volume, ttl=f"{TTL:.0f}s")))
    with _used(release, *hot):
        begun = time.monotonic()
        release.upgrade("--values", str(path), "--set", "nodeProgram.probe.interval=2s")
        wait_for("the unused image to go", lambda: not _holds(folder, unused[1]), REFRESH, interval=0.5)
        print(f"gone {time.monotonic() - begun:.0f} s after the upgrade")

    left = {path.name for path in (folder / "docker/registry/v2").rglob("*")}
    assert not left & {"unused", *(digest.partition(":")[2] for digest in (unused[1].digest, *unused[1].blobs))}
    assert pull_at_first(native, hot[0], native.nodes[1]).served_by == "cache"


@pytest.mark.usefixtures("undisturbed")
def _values(volume: SmallVolume, ttl: str) -> dict[str, object]:
    small = {"upstream": SMALL, "volume": {"size": f"{SIZE >> 20}Mi", "storageClassName": volume.name}}
    kept = {"upstream": KEPT, "volume": {"size": "1Gi"}, "garbageCollection": {"ttl": ttl}}
    return {"caches": [small, kept], "cachePods": {"tagCheckInterval": "0s"}}


def _cached(native: NativeCluster, release: Release, name: str) -> tuple[str, Image]:
    return cached_image(native, f"{SMALL}/library/{name}:1", release.pod(SMALL), layer_bytes=300_000)


def _volume(native: NativeCluster, release: Release, upstream: str) -> Path:
    """Return the path of a cache's volume on this machine, while its pod runs."""
    pod = release.pod(upstream)
    (node,) = [node for node in native.nodes if node.name == pod["spec"]["nodeName"]]
    return Path(f"/proc/{pod_processes(node, pod)[0]}/root/var/lib/registry")


def _holds(volume: Path, image: Image) -> bool:
    """Return whether any part of an image is stored."""
    return any(blob_file(volume, digest).parent.exists() for digest in (image.digest, *image.blobs))


@contextmanager
def _used(release: Release, reference: str, image: Image) -> Iterator[None]:
    """Request an image repeatedly."""
    pod, over = release.pod(KEPT), threading.Event()

    def use() -> None:
        while not over.wait(1):
            fill_cache(pod, reference, image)

    with ThreadPoolExecutor() as pool:
        using = pool.submit(use)
        try:
            yield
        finally:
            over.set()
            using.result()
