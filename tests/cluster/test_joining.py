"""What an install costs the registry of the chart's images, and nodes that join while registries are away."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from cluster import images, interface
from cluster.containerd_configuration import REGISTRY_DIRECTORY
from cluster.joining import boot, joined, lose_power
from cluster.pulls import new_image, pull
from cluster_support import installed
from machine.processes import wait_for
from registry_cache.model.pods import Images

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.native import NativeCluster
    from cluster.native_node import NativeNode
    from cluster.release import Release
    from registry_cache.model.pods import Image
    from upstreams.access_log import Request
    from upstreams.upstream import Upstream

pytestmark = pytest.mark.cluster

ECR = "public.ecr.aws"
IMAGES = (images.REGISTRY, images.NGINX, images.PYTHON)
NAMES_OF_IMAGES = {images.name_in_containerd(reference) for reference in IMAGES}
SECONDS = 120.0


@pytest.fixture(scope="module")
def without_images(native: NativeCluster) -> Iterator[NativeCluster]:
    """A cluster whose nodes have none of the chart's images, which are in their registry instead."""
    for reference in IMAGES:
        native.upstream.push(reference.partition("@")[0], images.build(reference))
    for node in native.nodes:
        remove_images(node)
    yield native
    for node in native.nodes:
        node.import_images(*IMAGES)


def remove_images(node: NativeNode) -> None:
    """Remove the chart's images with all names that the kubelet has for them, so that their content goes too."""
    listed = [line.split()[:3] for line in node.run("ctr", "--namespace", "k8s.io", "images", "list").splitlines()]
    digests = {digest for name, _, digest in listed if name in NAMES_OF_IMAGES}
    names = [name for name, _, digest in listed if digest in digests]
    node.run("ctr", "--namespace", "k8s.io", "images", "remove", "--sync", *names)


@pytest.fixture(scope="module")
def mark(without_images: NativeCluster) -> int:
    """The position in the upstreams' log before the install."""
    return without_images.upstream.mark()


@pytest.fixture(scope="module")
def release(without_images: NativeCluster, mark: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    path = tmp_path_factory.mktemp("joining") / "values.yaml"
    address = f"{without_images.network.services.rpartition('.')[0]}.77"
    document = {
        "images": {name: {"tag": stand_in_tag(image)} for name, image in Images()},
        "caches": [{"upstream": name, "volume": {"size": "1Gi"}} for name in ("docker.io", ECR)],
        "upstreamSettings": {ECR: {"clusterIP": address}},
    }
    path.write_text(json.dumps(document))
    with installed(without_images, "joining", "--values", str(path)) as running:
        yield running


def stand_in_tag(image: Image) -> str:
    """Return the tag of an image with the digest of what stands in for it."""
    return f"{image.tag.partition('@')[0]}@{images.build(image.reference).digest}"


def image_pulls(requests: list[Request]) -> list[tuple[str, str, str]]:
    """Return upstream, client and repository of each pull: what Docker Hub counts are the GETs of manifests."""
    manifests = [each for each in requests if each.method == "GET" and "/manifests/" in each.path]
    return sorted((each.upstream, each.client, each.path.split("/manifests/")[0][len("/v2/") :]) for each in manifests)


def test_each_node_pulls_one_image_and_nothing_comes_from_docker_hub(release: Release, mark: int) -> None:
    """A node with a cache pod pulls two images more."""
    cluster = release.cluster
    assert cluster.upstream is not None
    pods = release.get("pods", "--selector=app.kubernetes.io/component=cache")["items"]
    with_cache = {pod["spec"]["nodeName"] for pod in pods}
    expected = [(ECR, node.address, "docker/library/python") for node in cluster.nodes]
    for node in cluster.nodes:
        if node.name in with_cache:
            expected += [(ECR, node.address, f"docker/library/{name}") for name in ("nginx", "registry")]
    assert image_pulls(cluster.upstream.requests(mark)) == sorted(expected)


def test_node_that_joins_while_docker_hub_is_away_uses_the_cache(
    release: Release, native: NativeCluster, healthy_upstream: Upstream
) -> None:
    """The node program's image is in another registry."""
    reference, _ = new_image(native, "docker.io/library/joined:1")
    pull(native, reference, native.nodes[0])
    healthy_upstream.fail("docker.io", 503)
    mark = healthy_upstream.mark()
    with joined(native, 3) as node:
        wait_until_used(release, node, "docker.io")
        assert pull(native, reference, node).served_by == "cache"
        pulls = image_pulls(healthy_upstream.requests(mark))
        assert [one for one in pulls if one[1] == node.address] == [(ECR, node.address, "docker/library/python")]


@pytest.mark.long
def test_node_that_joins_while_all_registries_are_away_uses_the_caches(
    release: Release, native: NativeCluster, healthy_upstream: Upstream
) -> None:
    """The file of the cache for the chart's images is part of the node, as docs/guide/new-nodes.md says."""
    reference, _ = new_image(native, "docker.io/library/isolated:1")
    pull(native, reference, native.nodes[0])
    mirrors = {ECR: native.nodes[0].run("cat", f"{REGISTRY_DIRECTORY}/{ECR}/hosts.toml")}
    mark = healthy_upstream.mark()
    with joined(native, 3, mirrors) as node:
        wait_until_used(release, node, ECR)
        clients = {client for _, client, _ in image_pulls(healthy_upstream.requests(mark))}
        assert clients == {release.pod(ECR)["status"]["podIP"]}, "the cache has the image from now on"
    healthy_upstream.stop()
    with joined(native, 3, mirrors) as node:
        wait_until_used(release, node, "docker.io")
        assert pull(native, reference, node).served_by == "cache"


@pytest.mark.long
def test_node_that_was_off_while_a_cache_went_pulls_from_the_upstream(release: Release, native: NativeCluster) -> None:
    """Its hosts.toml still names the cache when it boots, until the node program runs again."""
    path = f"{REGISTRY_DIRECTORY}/docker.io/hosts.toml"
    with joined(native, 3) as node:
        wait_until_used(release, node, "docker.io")
        reference, _ = new_image(native, "docker.io/library/booted:1")
        interface.kubectl(native.kubeconfig, "drain", node.name, "--ignore-daemonsets", "--timeout=60s")
        lose_power(node)
        release.take_away("docker.io")
        boot(node)
        assert node.run("cat", path)
        assert pull(native, reference, node).served_by == "upstream"
        wait_for("the file to be withdrawn", lambda: not node.run("cat", path, check=False), SECONDS)
        interface.kubectl(native.kubeconfig, "uncordon", node.name)
    release.bring_back("docker.io")
    (nodes,) = release.get("daemonsets")["items"]
    assert nodes["status"]["desiredNumberScheduled"] == len(native.nodes), "a node that is deleted leaves no pod"


def wait_until_used(release: Release, node: NativeNode, upstream: str) -> None:
    """Wait until a node that has just joined runs the node program and uses a cache."""
    pods = [f"--field-selector=spec.nodeName={node.name}", "--selector=app.kubernetes.io/component=node"]

    def is_ready() -> bool:
        found = release.get("pods", *pods)["items"]
        conditions = [each for pod in found for each in pod["status"].get("conditions", [])]
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    wait_for(f"the node program on {node.name}", is_ready, SECONDS)
    assert release.uses_cache(node, upstream)
