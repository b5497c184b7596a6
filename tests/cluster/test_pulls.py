"""An image that one node pulled is not fetched from the upstream again, and a missing cache harms no pull."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from cluster import interface
from cluster.pulls import Pod, PullFailed, new_image, pull
from cluster_support import installed
from experiments.cluster_fault_costs import UNDER_WAY
from machine.paths import REPOSITORY
from machine.processes import wait_for
from upstreams import sites

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.interface import Cluster
    from cluster.release import Release
    from upstreams.upstream import Upstream

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def release(cluster: Cluster) -> Iterator[Release]:
    """The chart with the example of the README."""
    with installed(
        cluster, "registry-cache", "--values", str(REPOSITORY / "examples" / "registry-config.yaml")
    ) as running:
        yield running


def test_second_node_is_served_from_the_cache(cluster: Cluster, release: Release) -> None:
    reference, image = new_image(cluster, "docker.io/library/first-and-second:1")
    hits_before = release.metrics("docker.io").get("registry_proxy_hits_total", 0)

    first = pull(cluster, reference, cluster.nodes[0])
    second = pull(cluster, reference, cluster.nodes[1])

    assert Counter(first.blobs) == Counter(dict.fromkeys(image.blobs, 1)), "each blob leaves the upstream once"
    assert {request.client for request in first.requests} == {release.pod("docker.io")["status"]["podIP"]}
    assert second.blobs == []
    assert second.served_by == "cache"
    assert release.metrics("docker.io")["registry_proxy_hits_total"] >= hits_before + len(image.blobs)


def test_private_image_is_cached_with_the_credentials_of_the_secret(cluster: Cluster, release: Release) -> None:
    reference, image = new_image(cluster, "registry.example.com/team/private:1")

    first = pull(cluster, reference, cluster.nodes[0])
    second = pull(cluster, reference, cluster.nodes[1])

    assert Counter(first.blobs) == Counter(dict.fromkeys(image.blobs, 1))
    assert second.blobs == []


def test_private_image_is_pulled_with_the_pull_secret_when_its_cache_is_away(
    cluster: Cluster, release: Release, pull_secret: str
) -> None:
    reference, _ = new_image(cluster, "registry.example.com/team/fallback:1")
    release.take_away("registry.example.com")
    try:
        assert pull(cluster, reference, cluster.nodes[0], secret=pull_secret).served_by == "upstream"
    finally:
        release.bring_back("registry.example.com")


def test_credentials_are_only_in_the_secret(cluster: Cluster, release: Release) -> None:
    pull(cluster, new_image(cluster, "registry.example.com/team/secrecy:1")[0], cluster.nodes[0])
    name = release.object_name("registry.example.com")
    places = {
        "the manifests": interface.helm(cluster.kubeconfig, "get", "manifest", release.name, "-n", release.namespace),
        "the ConfigMaps": release.kubectl("get", "configmaps", "--output=json"),
        "the pod": json.dumps(release.pod("registry.example.com")),
        "the log": release.kubectl("logs", f"{name}-0", "--all-containers"),
    }
    for container in ("front", "gate", "distribution"):
        shell = ["exec", f"{name}-0", f"--container={container}", "--", "sh", "-c"]
        places[f"the process list of {container}"] = release.kubectl(*shell, "cat /proc/[0-9]*/cmdline")
        places[f"the environment of {container}"] = release.kubectl(*shell, "cat /proc/1/environ")
    for place, text in places.items():
        for secret in (sites.PASSWORD, sites.USERNAME, json.dumps(sites.PASSWORD)[1:-1]):
            assert secret not in text, f"{secret!r} is in {place}"


def test_pulls_go_to_the_upstream_while_the_cache_is_away_and_use_it_again_afterwards(
    cluster: Cluster, release: Release, healthy_upstream: Upstream
) -> None:
    node = cluster.nodes[0]
    # An upstream without a cache, for the time of a pull of the same size.
    direct = pull(cluster, new_image(cluster, "quay.io/tests/direct:1")[0], node)
    references = [new_image(cluster, f"docker.io/library/away:{number}")[0] for number in range(3)]

    release.take_away("docker.io")
    at_once = pull(cluster, references[0], node)
    release.wait_for_nodes("docker.io", use=False)
    withdrawn = pull(cluster, references[1], node)
    release.bring_back("docker.io")
    again = pull(cluster, references[2], node)

    assert at_once.served_by == "upstream"
    assert withdrawn.served_by == "upstream"
    assert again.served_by == "upstream through the cache"
    print(f"direct {direct.seconds:.2f} s, cache away {at_once.seconds:.2f} s, withdrawn {withdrawn.seconds:.2f} s")
    # The promise is 3 s more than a direct pull; only a hang takes ten times that.
    assert at_once.seconds < direct.seconds + 30
    assert withdrawn.seconds < direct.seconds + 30


def test_image_that_does_not_exist_fails_and_harms_nothing(cluster: Cluster, release: Release) -> None:
    with pytest.raises(PullFailed, match=r"(?i)not found"):
        pull(cluster, "docker.io/library/nowhere:1", cluster.nodes[0], timeout=10)
    assert all(release.uses_cache(node, "docker.io") for node in cluster.nodes)


def test_helm_test_checks_the_caches_from_inside_the_cluster(cluster: Cluster, release: Release) -> None:
    new_image(cluster, "docker.io/library/busybox:latest")
    new_image(cluster, "registry.k8s.io/pause:3.10")

    log = release.test()

    for name in ("docker.io", "registry.k8s.io", "registry.example.com"):
        assert name in log


def test_helm_test_fails_when_a_cache_does_not_answer(cluster: Cluster, release: Release) -> None:
    release.take_away("registry.k8s.io")
    try:
        with pytest.raises(RuntimeError, match=r"registry\.k8s\.io"):
            release.test()
    finally:
        release.bring_back("registry.k8s.io")


def test_command_in_the_notes_shows_the_hit(cluster: Cluster, release: Release) -> None:
    reference, _ = new_image(cluster, "docker.io/library/notes:1")
    for node in cluster.nodes:
        pull(cluster, reference, node)
    notes = interface.helm(cluster.kubeconfig, "get", "notes", release.name, "--namespace", release.namespace)
    (command,) = re.findall(r"^\s*(kubectl get --raw \S*docker-io\S*)", notes, re.MULTILINE)

    output = interface.kubectl(cluster.kubeconfig, *command.replace("'", "").replace('"', "").split()[1:])

    assert re.search(r'registry_proxy_hits_total\{[^}]*type="blob"\} [1-9]', output)


def test_pull_succeeds_when_the_cache_pod_is_killed_while_it_sends_a_layer(
    cluster: Cluster, release: Release, healthy_upstream: Upstream
) -> None:
    reference, image = new_image(cluster, "docker.io/library/killed:1", layers=1, layer_bytes=30_000_000)
    name = release.object_name("docker.io")
    healthy_upstream.slow("docker.io", 2_000_000)  # the cache begins to send it after 10 s
    mark = healthy_upstream.mark()

    with Pod(cluster.kubeconfig, reference, cluster.nodes[0]) as pod:
        wait_for("the layer to be under way", lambda: cluster.nodes[0].run("sh", "-c", UNDER_WAY), timeout=60)
        release.kubectl("delete", "pod", f"{name}-0", "--grace-period=0", "--force")
        seconds = pod.wait_until_pulled(timeout=120)

    print(f"pulled in {seconds:.1f} s although its cache was killed")
    broken_off = [
        request for request in healthy_upstream.requests(mark) if request.is_blob and request.status in (200, 206)
    ]
    assert len(broken_off) > len(image.blobs), "the layer was requested again after the cache was killed"
    release.kubectl("rollout", "status", f"statefulset/{name}", "--timeout=120s")
    release.wait_for_nodes("docker.io", use=True)
