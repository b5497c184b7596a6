"""`discover` writes a document for a real cluster that can be installed, and needs only the documented rights."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from cluster import interface
from cluster.pulls import Pod, new_image, pull
from cluster_support import installed
from machine.processes import wait_for
from registry_cache import document
from registry_cache.cluster_api import CannotDiscover, connect
from registry_cache.discover import Discovery, discover
from registry_cache.discovery_text import document_text
from registry_cache.validation import find_problems

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.interface import Cluster

pytestmark = pytest.mark.cluster

FOUR = ("docker.io", "ghcr.io", "registry.example.com", "registry.k8s.io")
LAYER_BYTES = 3_000_000


@pytest.fixture
def pods_of_four_upstreams(cluster: Cluster, pull_secret: str) -> Iterator[dict[str, str]]:
    """The images of running pods, by upstream: one by digest, and one of a private upstream with a pull secret."""
    references = {}
    for number, upstream in enumerate(FOUR):
        reference, image = new_image(cluster, f"{upstream}/discovered/image:{number}", layer_bytes=LAYER_BYTES)
        references[upstream] = f"{reference.rpartition(':')[0]}@{image.digest}" if upstream == "ghcr.io" else reference
    with ExitStack() as pods:
        for number, (upstream, reference) in enumerate(references.items()):
            secret = pull_secret if upstream == "registry.example.com" else None
            node = cluster.nodes[number % len(cluster.nodes)]
            pods.enter_context(Pod(cluster.kubeconfig, reference, node, secret=secret)).wait_until_pulled(timeout=120)
        yield references


@pytest.fixture
def stranger(cluster: Cluster, tmp_path: Path) -> Iterator[Path]:
    """A kubeconfig of a service account without rights."""
    name = "discoverer"
    _delete_account(cluster, name)
    interface.kubectl(cluster.kubeconfig, "create", "serviceaccount", name)
    token = interface.kubectl(cluster.kubeconfig, "create", "token", name).strip()
    content: Any = yaml.safe_load(cluster.kubeconfig.read_text())
    for user in content["users"]:
        user["user"] = {"token": token}
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(content))
    yield path
    _delete_account(cluster, name)


def test_document_can_be_installed_and_every_node_uses_its_caches(
    cluster: Cluster, pods_of_four_upstreams: dict[str, str], pull_secret: str, tmp_path: Path
) -> None:
    def found() -> Discovery:
        return discover(connect(cluster.kubeconfig, None))

    # The kubelet lists its images every 30 s, and reports them at most 10 s later.
    wait_for("the nodes to report the pods' images", lambda: not _unknown(found(), pods_of_four_upstreams), 120)
    text = document_text(found())

    assert find_problems(document.parse(text.encode())) == []
    caches = {cache["upstream"]: cache for cache in yaml.safe_load(text)["caches"]}
    assert set(FOUR) <= set(caches)
    assert f"pull secrets: default/{pull_secret}." in text
    values = tmp_path / "registry-config.yaml"
    values.write_text(text.replace("  # secretReferenceName: ", "  secretReferenceName: "))
    with installed(cluster, "discovered", "--values", str(values)) as release:
        assert [
            f"{node.name} does not use the cache of {upstream}"
            for upstream in caches
            for node in cluster.nodes
            if not release.uses_cache(node, upstream)
        ] == []
        reference, _ = new_image(cluster, "registry.example.com/discovered/private:1")
        assert pull(cluster, reference, cluster.nodes[0]).served_by == "upstream through the cache"


def test_size_on_the_node_is_that_of_the_image_in_the_registry(cluster: Cluster, tmp_path: Path) -> None:
    reference, image = new_image(cluster, "quay.io/discovered/size:1", layer_bytes=LAYER_BYTES)
    with Pod(cluster.kubeconfig, reference, cluster.nodes[0]) as pod:
        pod.wait_until_pulled(timeout=120)
        key = (image.digest, "linux/amd64")

        def sizes() -> dict[tuple[str, str], int]:
            return discover(connect(cluster.kubeconfig, None)).registries["quay.io"].sizes

        wait_for("the node to report the image", lambda: key in sizes(), 120)
        assert sizes()[key] == image.size


def test_right_to_list_pods_and_nodes_is_enough(cluster: Cluster, stranger: Path) -> None:
    for resource in ("pods", "nodes"):
        with pytest.raises(CannotDiscover, match=f"needs the permission to list {resource}"):
            discover(connect(stranger, None))
        name = f"discoverer-{resource}"
        interface.kubectl(cluster.kubeconfig, "create", "clusterrole", name, "--verb=list", f"--resource={resource}")
        interface.kubectl(
            cluster.kubeconfig,
            *["create", "clusterrolebinding", name, f"--clusterrole={name}", "--serviceaccount=default:discoverer"],
        )
        wait_for("the right to be granted", lambda what=resource: _may_list(stranger, what), 30)

    assert discover(connect(stranger, None)).upstreams == discover(connect(cluster.kubeconfig, None)).upstreams


def _unknown(found: Discovery, references: dict[str, str]) -> set[str]:
    """Return the images that no node reports yet."""
    reported = set().union(*(registry.on_nodes for registry in found.registries.values()))
    return set(references.values()) - reported


def _may_list(kubeconfig: Path, resource: str) -> bool:
    try:
        interface.kubectl(kubeconfig, "auth", "can-i", "list", resource, "--all-namespaces", "--quiet")
    except RuntimeError:
        return False
    return True


def _delete_account(cluster: Cluster, name: str) -> None:
    interface.kubectl(cluster.kubeconfig, "delete", "serviceaccount", name, "--ignore-not-found")
    for resource in ("pods", "nodes"):
        for kind in ("clusterrolebinding", "clusterrole"):
            interface.kubectl(cluster.kubeconfig, "delete", kind, f"{name}-{resource}", "--ignore-not-found")
