"""A cache and its upstream: asked once, unavailable, with another password; cached images are served anyway."""

from __future__ import annotations

import http.client
import json
import shutil
import time
from typing import TYPE_CHECKING

import bcrypt
import pytest
from cluster import interface
from cluster.pulls import Pod, PullFailed, new_image, pull
from cluster_support import by_digest, cached_image, installed, pull_at_first, pull_at_once, request_status
from experiments.cluster_fault_costs import UNDER_WAY
from machine.processes import wait_for
from upstreams import sites

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cluster.interface import Cluster
    from cluster.release import Release
    from upstreams.oci import Image
    from upstreams.upstream import Upstream

pytestmark = pytest.mark.cluster

PUBLIC = "docker.io"
PRIVATE = "registry.example.com"
SECRET = "registry-example-com"
WITHOUT_SECRET = "quay.io"
# Ten times what the kubelet needs to update a changed Secret in a pod.
REFRESH = 1200.0
# Ten times how long an upstream that was unavailable is not asked.
BACK = 50.0


@pytest.fixture(scope="module")
def release(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """Caches of a public and of a private upstream, and one with a Secret that does not exist."""
    values = {
        "caches": [
            {"upstream": PUBLIC, "volume": {"size": "1Gi"}},
            {"upstream": PRIVATE, "volume": {"size": "1Gi"}, "secretReferenceName": SECRET},
            {"upstream": WITHOUT_SECRET, "volume": {"size": "1Gi"}, "secretReferenceName": "absent"},
        ],
        # Each pull revalidates its tag.
        "cachePods": {"tagCheckInterval": "0s"},
    }
    path = tmp_path_factory.mktemp("upstream") / "values.yaml"
    path.write_text(json.dumps(values))
    with installed(cluster, "upstreams", "--values", str(path)) as running:
        yield running


@pytest.mark.usefixtures("undisturbed")
def test_image_that_two_nodes_pull_at_the_same_time_is_fetched_once(cluster: Cluster, release: Release) -> None:
    assert cluster.upstream is not None
    reference, image = new_image(cluster, f"{PUBLIC}/library/at-once:1", layers=5)
    mark = cluster.upstream.mark()

    pulled = pull_at_once(cluster, *((reference, node) for node in cluster.nodes))

    asked = cluster.upstream.requests(mark)
    print(f"two nodes at once: {[each.seconds for each in pulled]} s")
    assert {each.client for each in asked} == {release.pod(PUBLIC)["status"]["podIP"]}
    assert sorted(each.digest for each in asked if each.is_blob) == sorted(image.blobs)
    assert sum(each.method == "GET" and "/manifests/" in each.path for each in asked) == 1


AWAY: dict[str, Callable[[Upstream], None]] = {
    "stopped": lambda upstream: upstream.stop(),
    "silent": lambda upstream: upstream.silent(PUBLIC),
    "429": lambda upstream: upstream.too_many_requests(PUBLIC, retry_after=5),
    "500": lambda upstream: upstream.fail(PUBLIC, 500),
    "403": lambda upstream: upstream.deny(PUBLIC),
}


@pytest.mark.usefixtures("undisturbed")
@pytest.mark.parametrize("away", AWAY)
def test_cached_image_is_served_by_tag_and_by_digest_while_the_upstream_is_away(
    cluster: Cluster, release: Release, healthy_upstream: Upstream, away: str
) -> None:
    by_tag, named = _cached(cluster, release, f"{away}-tag"), _cached(cluster, release, f"{away}-digest")
    AWAY[away](healthy_upstream)

    pulled = pull_at_once(cluster, (by_tag[0], cluster.nodes[0]), (by_digest(*named), cluster.nodes[1]))

    print(f"upstream {away}: by tag {pulled[0].seconds:.2f} s, by digest {pulled[1].seconds:.2f} s")
    assert [each.served_by for each in pulled] == ["cache", "cache"]
    _resume(cluster, release, away)


def test_cache_that_starts_while_its_upstream_is_away_serves_at_once(
    cluster: Cluster, release: Release, healthy_upstream: Upstream
) -> None:
    reference, image = _cached(cluster, release, "start")
    name = release.object_name(PUBLIC)
    healthy_upstream.stop()
    begun = time.monotonic()
    release.kubectl("delete", "pod", f"{name}-0")
    release.kubectl("wait", "--for=condition=Ready", f"pod/{name}-0", "--timeout=240s")
    ready = time.monotonic() - begun
    release.wait_for_nodes(PUBLIC, use=True)

    pulled = pull_at_once(cluster, (reference, cluster.nodes[0]), (by_digest(reference, image), cluster.nodes[1]))

    print(f"another pod ready {ready:.1f} s after its deletion, then pulled in {[each.seconds for each in pulled]} s")
    assert [each.served_by for each in pulled] == ["cache", "cache"]
    _resume(cluster, release, "start")


@pytest.mark.usefixtures("undisturbed")
def test_moved_tag_is_noticed_at_the_next_pull(cluster: Cluster, release: Release) -> None:
    reference, before = _cached(cluster, release, "moved")
    _, moved = new_image(cluster, reference, layers=1)

    assert set(pull_at_first(cluster, reference, cluster.nodes[0]).blobs) == set(moved.blobs) - set(before.blobs)


@pytest.mark.usefixtures("undisturbed")
def test_deleted_tag_fails_as_without_the_cache_and_its_image_is_served_by_digest(
    cluster: Cluster, release: Release
) -> None:
    assert cluster.upstream is not None
    reference, image = _cached(cluster, release, "deleted")
    tags = "docker/registry/v2/repositories/library/deleted/_manifests/tags"
    shutil.rmtree(cluster.upstream.folder / "storage" / PUBLIC / tags / "1")

    with pytest.raises(PullFailed, match=r"(?i)not found"):
        pull(cluster, reference, cluster.nodes[0], timeout=5)
    assert pull_at_first(cluster, by_digest(reference, image), cluster.nodes[1]).served_by == "cache"


@pytest.mark.usefixtures("undisturbed")
def test_missing_secret_is_logged_and_public_images_are_served(cluster: Cluster, release: Release) -> None:
    reference, _ = new_image(cluster, f"{WITHOUT_SECRET}/tests/public:1")

    assert pull_at_first(cluster, reference, cluster.nodes[0]).served_by == "upstream through the cache"
    log = release.kubectl("logs", f"{release.object_name(WITHOUT_SECRET)}-0", "--container=gate")
    assert "does not exist or is empty" in log


def test_deleted_pod_sends_a_layer_to_its_end(cluster: Cluster, release: Release, healthy_upstream: Upstream) -> None:
    """The pod ends when its responses have ended, and the blob that it was fetching is stored."""
    reference, image = new_image(cluster, f"{PUBLIC}/library/graceful:1", layers=1, layer_bytes=26_000_000)
    name = release.object_name(PUBLIC)
    healthy_upstream.slow(PUBLIC, 2_000_000)  # the cache begins to send it after 10 s and ends after 13 s
    mark = healthy_upstream.mark()

    with Pod(cluster.kubeconfig, reference, cluster.nodes[0]) as pod:
        wait_for("the layer to be under way", lambda: cluster.nodes[0].run("sh", "-c", UNDER_WAY), timeout=60)
        release.kubectl("delete", "pod", f"{name}-0", "--wait=false")
        seconds = pod.wait_until_pulled(timeout=120)
        failed = pod.failed_tries()

    layer = max(image.blobs, key=lambda digest: len(image.blobs[digest]))
    sent = sum(each.body_bytes for each in healthy_upstream.requests(mark) if each.digest == layer)
    print(
        f"pulled in {seconds:.1f} s from a pod that was deleted, {sent / len(image.blobs[layer]):.2f} times its bytes"
    )
    assert failed == []
    assert sent < 2 * len(image.blobs[layer])
    release.kubectl("rollout", "status", f"statefulset/{name}", "--timeout=240s")
    release.wait_for_nodes(PUBLIC, use=True)


@pytest.mark.usefixtures("undisturbed")
def test_changed_secret_takes_effect_by_itself_and_no_pull_fails_until_then(cluster: Cluster, release: Release) -> None:
    """The password of the upstream changes first: until the Secret changes too, the upstream refuses the cache."""
    assert cluster.upstream is not None
    cached, _ = _cached(cluster, release, "cached", PRIVATE, "team")
    htpasswd = cluster.upstream.folder / "htpasswd"
    old = htpasswd.read_bytes()
    _pull_secret(cluster, "changed-pull-secret", "changed")
    new_image(cluster, f"{PRIVATE}/team/probe:1")
    meanwhile, _ = new_image(cluster, f"{PRIVATE}/team/meanwhile:1")
    after, _ = new_image(cluster, f"{PRIVATE}/team/after:1")
    try:
        # distribution reads the file again when its time changes (registry/auth/htpasswd/access.go).
        htpasswd.write_bytes(sites.USERNAME.encode() + b":" + bcrypt.hashpw(b"changed", bcrypt.gensalt(4)) + b"\n")
        password = {"stringData": {"password": "changed"}}
        release.kubectl("patch", "secret", SECRET, "--type=merge", f"--patch={json.dumps(password)}")
        begun = time.monotonic()
        assert pull_at_first(cluster, cached, cluster.nodes[0]).served_by == "cache"
        came = pull_at_first(cluster, meanwhile, cluster.nodes[1], secret="changed-pull-secret")  # noqa: S106 - its name
        pod = release.pod(PRIVATE)
        wait_for(
            "the cache to be let in again",
            lambda: request_status(pod, "/v2/team/probe/manifests/1") == http.client.OK,
            REFRESH,
            interval=0.5,
        )
        print(f"meanwhile from {came.served_by}; let in {time.monotonic() - begun:.0f} s after the Secret's change")
        assert pull_at_first(cluster, after, cluster.nodes[0]).served_by == "upstream through the cache"
    finally:
        htpasswd.write_bytes(old)
        interface.kubectl(cluster.kubeconfig, "delete", "secret", "changed-pull-secret")


def _resume(cluster: Cluster, release: Release, name: str) -> None:
    """End all faults of the upstream, and wait until the cache asks it again."""
    assert cluster.upstream is not None
    cluster.upstream.resume()
    new_image(cluster, f"{PUBLIC}/library/after-{name}:1", layer_bytes=1000)
    path = f"/v2/library/after-{name}/manifests/1"
    pod = release.pod(PUBLIC)
    wait_for("the cache to ask its upstream again", lambda: request_status(pod, path) == http.client.OK, BACK)


def _cached(
    cluster: Cluster, release: Release, name: str, registry: str = PUBLIC, folder: str = "library"
) -> tuple[str, Image]:
    return cached_image(cluster, f"{registry}/{folder}/{name}:1", release.pod(registry), layer_bytes=300_000)


def _pull_secret(cluster: Cluster, name: str, password: str) -> None:
    interface.kubectl(
        cluster.kubeconfig,
        *["create", "secret", "docker-registry", name, f"--docker-server={PRIVATE}"],
        *[f"--docker-username={sites.USERNAME}", f"--docker-password={password}"],
    )
