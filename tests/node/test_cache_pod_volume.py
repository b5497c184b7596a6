"""A cache pod with a volume that is full, small, read-only or damaged, and what is evicted, expired or discarded."""

from __future__ import annotations

import json
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest
from cluster.pod_volumes import Tmpfs
from experiments.cache_client import HANG_SECONDS, Response, blob_path, manifest_path, run_together, send_request
from experiments.pod_bench import UPSTREAM
from machine.processes import wait_for
from node.cache_pod_support import (
    FAST_SECONDS,
    assert_no_defect,
    data_file,
    fill,
    is_right,
    list_files,
    pull,
    sent_references,
)
from store.volume import LOCK_NAME

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.cache_pod import CachePod
    from experiments.pod_bench import Bench
    from upstreams import oci

pytestmark = pytest.mark.usefixtures("faults_end")

MIB = 1 << 20


@pytest.fixture(scope="module")
def image(bench: Bench) -> oci.Image:
    """An image that is cached before a fault begins."""
    return bench.push("known")


def refused(got: Response) -> bool:
    print(f"refused with {got.status} in {got.head_seconds:.3f} s: {got.body.decode()}")
    assert got.head_seconds < FAST_SECONDS
    return got.refused


def layer(image: oci.Image) -> tuple[str, bytes]:
    """Return the digest and the content of the largest blob."""
    return max(image.blobs.items(), key=lambda blob: len(blob[1]))


def test_volume_full_of_foreign_files_refuses_new_content(bench: Bench, image: oci.Image) -> None:
    new = bench.push("too-much", layers=2, size=6 * MIB)
    digest, _ = layer(new)
    with bench.pod(volume=Tmpfs("8m")) as pod:
        pull(pod, "known", image)
        fill(pod)
        mark = bench.upstream.mark()
        assert refused(send_request(pod, blob_path("too-much", digest)))
        assert pod.is_ready()
        pull(pod, "known", image)
        bench.upstream.stop()
        pull(pod, "known", image)
        bench.upstream.resume()
        assert [each.digest for each in bench.upstream.requests(mark) if each.is_blob] == [digest]
        # What fits after an eviction is served, and the rest is refused; nothing is wrong or incomplete.
        for _ in range(2):
            for each, content in (*new.blobs.items(), *image.blobs.items()):
                is_right(send_request(pod, blob_path("too-much", each)), content)
        (pod.volume_folder / "foreign").unlink()
        pull(pod, "known", image)
        assert pod.metrics()['registry_cache_refused_requests_total{reason="no-room"}'] >= 1


def test_least_recently_used_content_is_evicted_from_a_nearly_full_volume(bench: Bench, image: oci.Image) -> None:
    new = bench.push("fits", layers=2, size=2 * MIB)
    with bench.pod(volume=Tmpfs("8m")) as pod:
        pull(pod, "known", image)
        fill(pod, leave=2 * MIB + MIB // 2)
        for digest, content in new.blobs.items():
            assert is_right(send_request(pod, blob_path("fits", digest)), content)
        assert pod.metrics()['registry_cache_removed_blobs_total{reason="evicted"}'] >= 1


def test_layer_larger_than_the_volume_is_never_fetched(bench: Bench, image: oci.Image) -> None:
    new = bench.push("larger", layers=2, size=9 * MIB)
    digest, _ = layer(new)
    with bench.pod(volume=Tmpfs("8m")) as pod:
        pull(pod, "known", image)
        assert is_right(send_request(pod, manifest_path("larger")), new.manifest)
        mark = bench.upstream.mark()
        for _ in range(2):
            assert refused(send_request(pod, blob_path("larger", digest)))
        assert bench.upstream.requests(mark) == []
        pull(pod, "known", image)
        assert bench.upstream.requests(mark) == []


def test_volume_without_inodes_serves_cached_content(bench: Bench, image: oci.Image) -> None:
    new = bench.push("no-inodes")
    with bench.pod(volume=Tmpfs("32m", inodes=200)) as pod:
        pull(pod, "known", image)
        foreign = pod.volume_folder / "foreign"
        foreign.mkdir()
        status = os.statvfs(pod.volume_folder)
        for number in range(status.f_favail):
            (foreign / str(number)).touch()
        with pytest.raises(OSError, match="No space left"):
            (foreign / "one more").touch()
        mark = bench.upstream.mark()
        pull(pod, "known", image)
        assert [each for each in bench.upstream.requests(mark) if each.is_blob] == []
        for reference in ("1", new.digest):
            got = send_request(pod, manifest_path("no-inodes", reference))
            assert is_right(got, new.manifest) or refused(got)
        for digest, content in new.blobs.items():
            got = send_request(pod, blob_path("no-inodes", digest))
            assert is_right(got, content) or refused(got)
        for digest, content in image.blobs.items():
            got = send_request(pod, blob_path("known", digest))
            assert is_right(got, content) or refused(got)


def test_read_only_volume_serves_cached_content_also_after_a_restart(bench: Bench, image: oci.Image) -> None:
    new, later = bench.push("unwritable"), bench.push("writable-again")
    with bench.pod(volume=Tmpfs("16m")) as pod:
        pull(pod, "known", image)
        for restarted in (False, True):
            pod.remount("ro")
            if restarted:
                pod.kill("gate")
                pod.start_container("gate")
                pod.wait_until_ready()
            mark = bench.upstream.mark()
            pull(pod, "known", image)
            assert [each for each in bench.upstream.requests(mark) if each.is_blob] == []
            assert is_right(send_request(pod, manifest_path("unwritable")), new.manifest)
            for digest in new.blobs:
                assert refused(send_request(pod, blob_path("unwritable", digest)))
            bench.upstream.stop()
            pull(pod, "known", image)
            bench.upstream.resume()
            if restarted:
                # As `helm test` and the alert tell it.
                assert b"the volume is read-only; what it has is served" in send_request(pod, "/v2/").body
                assert pod.metrics()["registry_cache_volume_usable"] == 0
            else:
                pod.remount("rw")
                pull(pod, "writable-again", later)


@pytest.mark.parametrize("spoil", ["truncate", "empty", "lengthen", "remove"])
def test_file_of_another_size_is_fetched_again_or_refused(bench: Bench, spoil: str) -> None:
    name = f"spoilt-{spoil}"
    image = bench.push(name)
    digest, content = layer(image)
    with bench.pod(volume=Tmpfs("16m")) as pod:
        for away in (False, True):
            pull(pod, name, image)
            file = data_file(pod, digest)
            if spoil == "remove":
                file.unlink()
            else:
                file.write_bytes({"truncate": content[:-1], "empty": b"", "lengthen": content + b"?"}[spoil])
            if away:
                bench.upstream.stop()
                assert refused(send_request(pod, blob_path(name, digest)))
            else:
                assert is_right(send_request(pod, blob_path(name, digest)), content)
        assert pod.metrics()['registry_cache_removed_blobs_total{reason="damaged"}'] == 2


@pytest.mark.parametrize("headers", [{}, {"Range": "bytes=500-"}], ids=["again", "rest"])
def test_flipped_bit_costs_one_client_one_try(bench: Bench, headers: dict[str, str]) -> None:
    """A blob of the right size is sent without a check; the client that notices tries again."""
    name = f"flipped-{len(headers)}"
    image = bench.push(name)
    digest, content = layer(image)
    with bench.pod(volume=Tmpfs("16m")) as pod:
        pull(pod, name, image)
        # So that it knows neither the blob's content nor which client requested it.
        pod.kill("gate")
        pod.start_container("gate")
        pod.wait_until_ready()
        with data_file(pod, digest).open("r+b") as file:
            file.seek(1000)
            file.write(bytes([content[1000] ^ 1]))
        got = send_request(pod, blob_path(name, digest))
        assert (got.status, got.whole, len(got.body)) == (200, True, len(content))
        assert got.body != content
        got = send_request(pod, blob_path(name, digest), **headers)
        assert (got.status, got.whole) == (206 if headers else 200, True)
        assert got.body == content[500 if headers else 0 :]
        assert is_right(send_request(pod, blob_path(name, digest)), content)


def test_changed_manifest_is_fetched_again(bench: Bench) -> None:
    image = bench.push("changed")
    with bench.pod(volume=Tmpfs("16m")) as pod:
        pull(pod, "changed", image)
        data_file(pod, image.digest).write_bytes(image.manifest.replace(b"linux", b"linuz"))
        data_file(pod, image.digest).write_bytes(b" " + image.manifest[1:])
        pull(pod, "changed", image)


def test_cold_blobs_at_once_share_a_small_volume(bench: Bench) -> None:
    """Eight clients pull two images that do not fit together: some are refused, and nothing is wrong."""
    images = {name: bench.push(name, layers=5, size=2 * MIB) for name in ("share-1", "share-2")}
    with bench.pod(volume=Tmpfs("15m")) as pod:
        for name in images:
            assert send_request(pod, manifest_path(name)).status == 200
        asked = [(name, digest) for name, each in images.items() for digest in each.blobs] * 8
        answers = run_together(lambda each: send_request(pod, blob_path(*each)), asked)
        right = [is_right(got, images[name].blobs[digest]) for (name, digest), got in zip(asked, answers, strict=True)]
        print(f"{sum(right)} of {len(right)} were served, and the others refused")
        assert sum(right) >= len(right) / 4
        for got, came in zip(answers, right, strict=True):
            assert came or got.refused
            assert got.head_seconds < HANG_SECONDS / 2
        wait_for("what is under way to end", lambda: not list((pod.volume_folder / "parts").iterdir()), HANG_SECONDS)
        assert_no_defect(pod)


def set_room(pod: CachePod, **changes: object) -> None:
    """Change room.json, as an upgrade of the release does."""
    ((name, data),) = [(name, data) for name, data in pod.config_maps.items() if "room.json" in data]
    pod.set_config_map(name, {**data, "room.json": json.dumps({**json.loads(data["room.json"]), **changes})})


def test_changed_limits_apply_to_stored_content(bench: Bench) -> None:
    """Content is kept for ever, then with less room, then for a short time since the use of its manifest."""
    names = ("filler", "cold", "hot")
    images = {name: bench.push(f"kept-{name}", layers=2, size=MIB) for name in names}
    cache = {"upstream": UPSTREAM, "garbageCollection": {"ttl": "0s"}}
    with bench.pod(cache, volume=Tmpfs("32m")) as pod:
        for name in names:
            pull(pod, f"kept-{name}", images[name])
        stored = pod.metrics()["registry_cache_stored_bytes"]
        begun = time.monotonic()
        # All but about the first layer of the least recently used image.
        set_room(pod, capacity=int(stored), highWaterMarkPercent=90)
        wait_for("the volume to be used less", lambda: _evicted(pod) > 0, HANG_SECONDS)
        print(f"a smaller size applied after {time.monotonic() - begun:.1f} s")
        mark = bench.upstream.mark()
        for name in ("cold", "hot"):
            pull(pod, f"kept-{name}", images[name])
        assert [each for each in bench.upstream.requests(mark) if each.is_blob] == []
        assert pod.metrics()["registry_cache_stored_bytes"] <= 0.9 * stored
        stop = threading.Event()

        def use() -> None:
            while not stop.wait(0.3):
                send_request(pod, manifest_path("kept-hot", images["hot"].digest), method="HEAD")

        user = threading.Thread(target=use)
        user.start()
        set_room(pod, capacity=int(stored), highWaterMarkPercent=90, ttl="2s")
        kept = {*images["hot"].blobs, images["hot"].digest}
        gone = {*images["cold"].blobs, images["cold"].digest} - kept
        wait_for("the cold image to go", lambda: not any(data_file(pod, each).exists() for each in gone), HANG_SECONDS)
        assert all(data_file(pod, each).exists() for each in kept)
        stop.set()
        user.join(HANG_SECONDS)
        wait_for("the hot image to go", lambda: not any(data_file(pod, each).exists() for each in kept), HANG_SECONDS)
        wait_for("its links to go", lambda: list_files(pod) == [LOCK_NAME], HANG_SECONDS)
        folders = sorted(str(path.relative_to(pod.volume_folder)) for path in pod.volume_folder.rglob("*"))
        roots = "docker/registry/v2"
        expected = {"docker", "docker/registry", roots, f"{roots}/blobs", f"{roots}/repositories", "parts", LOCK_NAME}
        assert set(folders) <= {*expected, f"{roots}/blobs/sha256"}
        assert sent_references(bench.upstream.requests(mark)) == []


def _evicted(pod: CachePod) -> float:
    return pod.metrics().get('registry_cache_removed_blobs_total{reason="evicted"}', 0)


def test_second_pod_on_a_volume_waits_until_the_first_one_has_ended(bench: Bench, tmp_path: Path) -> None:
    """As after a forced deletion, or on a network file system that keeps nobody out."""
    image = bench.push("shared")
    second = bench.new_pod(volume=tmp_path)
    try:
        with bench.pod(volume=tmp_path) as first:
            pull(first, "shared", image)
            second.start(wait=False)
            wait_for("the reason", lambda: "another pod uses the volume" in second.log("gate"), HANG_SECONDS)
            assert not second.is_ready()
            assert second.log("gate").count("another pod uses the volume") == 1
            pull(first, "shared", image)
        second.wait_until_ready()
        mark = bench.upstream.mark()
        pull(second, "shared", image)
        assert [each for each in bench.upstream.requests(mark) if each.is_blob] == []
    finally:
        second.close()


def test_volume_of_another_user_is_named_and_used_once_it_belongs_to_the_pod(bench: Bench, tmp_path: Path) -> None:
    """As with fsGroup on a hostPath volume."""
    image = bench.push("other-owner")
    folder = tmp_path / "docker"
    folder.mkdir(mode=0o755)
    pod = bench.new_pod(volume=tmp_path)
    try:
        pod.start(wait=False)
        wait_for("the reason", lambda: "fsGroup has no effect" in pod.log("gate"), HANG_SECONDS)
        assert "belongs to 0:0 and has the mode 0755" in pod.log("gate")
        assert not pod.is_ready()
        assert pod.metrics()["registry_cache_volume_usable"] == 0
        got = send_request(pod, manifest_path("other-owner", "1"))
        assert (got.status, b"fsGroup has no effect" in got.body) == (503, True)
        folder.chmod(0o777)
        pod.wait_until_ready()
        pull(pod, "other-owner", image)
        assert pod.metrics()["registry_cache_inaccessible_files"] == 0
        assert pod.metrics()["registry_cache_volume_usable"] == 1
    finally:
        pod.close()


def test_manifest_is_served_as_a_blob_no_more_than_by_the_upstream(bench: Bench, image: oci.Image) -> None:
    """A node asks for it so if the HEADs of a manifest failed, and would keep it under the wrong type."""
    with bench.pod(volume=Tmpfs("32m")) as pod:
        pull(pod, "known", image)
        for method in ("GET", "HEAD", "GET"):
            got = send_request(pod, blob_path("known", image.digest), method)
            assert got.status == 404
        mark = bench.upstream.mark()
        pull(pod, "known", image)
        assert [each for each in bench.upstream.requests(mark) if each.is_blob] == []


def test_requests_for_made_up_repositories_take_nothing_from_the_volume(bench: Bench, image: oci.Image) -> None:
    digest, content = layer(image)
    with bench.pod(volume=Tmpfs("32m", inodes=600)) as pod:
        pull(pod, "known", image)
        before = os.statvfs(pod.volume_folder).f_favail
        for number in range(300):
            got = send_request(pod, f"/v2/made/{'up/' * 20}{number}/blobs/{digest}")
            assert (got.status, got.body) == (200, content)
        assert os.statvfs(pod.volume_folder).f_favail == before
        assert _evicted(pod) == 0
