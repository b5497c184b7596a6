"""A failing disk under a cache: unreadable content is fetched again, and pulls succeed."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from cluster.failing_disks import FailingDisk, failing_disk
from cluster.pulls import Pod, new_image
from cluster_support import by_digest, cached_image, installed, pull_at_first, pull_at_once
from upstreams.oci import blob_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.native import NativeCluster
    from cluster.release import Release
    from upstreams.oci import Image

pytestmark = pytest.mark.cluster

UPSTREAM = "docker.io"
SIZE = 256 << 20
LAYER = 8_000_000


@pytest.fixture(scope="module")
def disk(native: NativeCluster) -> Iterator[FailingDisk]:
    with failing_disk(native, native.nodes[0], "failing-disk", SIZE) as running:
        yield running


@pytest.fixture(scope="module")
def release(native: NativeCluster, disk: FailingDisk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    path = tmp_path_factory.mktemp("disk") / "values.yaml"
    cache = {"upstream": UPSTREAM, "volume": {"size": str(SIZE), "storageClassName": disk.name}}
    path.write_text(json.dumps({"caches": [cache]}))
    with installed(native, "disk", "--values", str(path)) as running:
        yield running


@pytest.mark.usefixtures("undisturbed")
@pytest.mark.parametrize("offset", [0, 4096, LAYER // 2, LAYER - 1], ids=["begin", "second-sector", "middle", "end"])
def test_unreadable_layer_is_fetched_from_the_upstream_again(
    native: NativeCluster, release: Release, disk: FailingDisk, offset: int
) -> None:
    reference, image = _cached(native, release, f"sector-{offset}")
    disk.spoil(_largest(image), offset)

    first = pull_at_first(native, reference, native.nodes[0])
    second = pull_at_first(native, reference, native.nodes[1])

    print(f"byte {offset}: {first.seconds:.2f} s, then {second.seconds:.2f} s")
    assert first.blobs == [_largest(image)]
    assert first.served_by == "upstream through the cache"
    assert second.served_by == "cache"


@pytest.mark.usefixtures("undisturbed")
def test_silently_changed_layer_costs_one_try(native: NativeCluster, release: Release, disk: FailingDisk) -> None:
    reference, image = _cached(native, release, "changed")
    with blob_file(disk.files, _largest(image)).open("r+b") as blob:
        blob.write(bytes(100))

    with Pod(native.kubeconfig, reference, native.nodes[0]) as pod:
        pod.wait_until_pulled(120)
        failed = pod.failed_tries()
    assert len(failed) == 1
    assert "unexpected commit digest" in failed[0]
    assert pull_at_first(native, reference, native.nodes[1]).served_by == "cache"


@pytest.mark.usefixtures("undisturbed")
def test_disk_that_cannot_be_written_costs_no_pull(native: NativeCluster, release: Release, disk: FailingDisk) -> None:
    """The last test of the file, since the disk stays like this."""
    by_tag, named = (_cached(native, release, f"stopped-{which}") for which in ("tag", "digest"))
    fresh = [
        new_image(native, f"{UPSTREAM}/library/stopped-new-{number}:1", layers=1, layer_bytes=LAYER)[0]
        for number in range(3)
    ]
    disk.take_no_more()

    new = [pull_at_first(native, reference, native.nodes[1]) for reference in fresh]
    cached = pull_at_once(native, (by_tag[0], native.nodes[0]), (by_digest(*named), native.nodes[1]))

    for pull in (*new, *cached):
        print(f"{pull.image}: {pull.seconds:.2f} s from {pull.served_by}")
    assert [each.served_by for each in cached] == ["cache", "cache"]
    # The disk reports the error when the blob is flushed, and by then the node has it.
    assert {each.served_by for each in new} <= {"upstream", "upstream through the cache"}
    text = release.metrics_text(UPSTREAM)
    failing = re.search(r"^registry_cache_inaccessible_files\{[^}]*\} (\d+)", text, re.MULTILINE)
    assert failing is not None
    assert int(failing[1]) >= 1, "which is what the alert looks at"


def _cached(native: NativeCluster, release: Release, name: str) -> tuple[str, Image]:
    return cached_image(native, f"{UPSTREAM}/library/{name}:1", release.pod(UPSTREAM), layers=1, layer_bytes=LAYER)


def _largest(image: Image) -> str:
    return max(image.blobs, key=lambda digest: len(image.blobs[digest]))
