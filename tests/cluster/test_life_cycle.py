"""Install, upgrade, uninstall: an upgrade loses nothing, and an uninstall restores each node."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from cluster.containerd_configuration import REGISTRY_DIRECTORY
from cluster.pulls import new_image, pull
from cluster.release import Release
from cluster_support import containerd_files, installed, values
from upstreams import sites

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.interface import Cluster

pytestmark = pytest.mark.cluster

FOREIGN = """# put here by somebody else
server = "https://registry-1.docker.io"

[host."https://mirror.invalid:8443"]
  capabilities = ["pull"] # theirs
"""


def test_uninstall_leaves_each_node_as_it_was(cluster: Cluster, tmp_path: Path) -> None:
    with_foreign, plain = cluster.nodes
    folder = f"{REGISTRY_DIRECTORY}/docker.io"
    with_foreign.run("mkdir", "-p", folder)
    with_foreign.run("sh", "-c", f"printf '%s' '{FOREIGN}' > {folder}/hosts.toml; chmod 640 {folder}/hosts.toml")
    before = [containerd_files(node) for node in cluster.nodes]
    try:
        document = values(tmp_path / "v.yaml", "docker.io", "ghcr.io")
        with installed(cluster, "uninstalled", "--values", document) as release:
            merged = with_foreign.run("cat", f"{folder}/hosts.toml")
            assert merged.index(release.service_address("docker.io")) < merged.index("mirror.invalid")
            assert plain.run("cat", f"{REGISTRY_DIRECTORY}/ghcr.io/hosts.toml")
            reference, _ = new_image(cluster, "docker.io/library/foreign:1")
            assert pull(cluster, reference, with_foreign).served_by == "upstream through the cache"
        assert [containerd_files(node) for node in cluster.nodes] == before
    finally:
        with_foreign.run("rm", "-r", folder)


def test_upgrade_with_one_more_cache_leaves_the_others_alone(cluster: Cluster, tmp_path: Path) -> None:
    with installed(cluster, "upgraded", "--values", values(tmp_path / "one.yaml", "docker.io")) as release:
        reference, _ = new_image(cluster, "docker.io/library/kept:1")
        pull(cluster, reference, cluster.nodes[0])
        before = release.pod("docker.io")["metadata"]["uid"]

        release.upgrade("--values", values(tmp_path / "two.yaml", "docker.io", "ghcr.io"))

        assert release.pod("docker.io")["metadata"]["uid"] == before, "the pod was replaced"
        assert pull(cluster, reference, cluster.nodes[1]).served_by == "cache"
        added, _ = new_image(cluster, "ghcr.io/tests/added:1")
        assert pull(cluster, added, cluster.nodes[0]).served_by == "upstream through the cache"
        assert pull(cluster, added, cluster.nodes[1]).served_by == "cache"


def test_cache_that_an_upgrade_removes_is_withdrawn_on_every_node(cluster: Cluster, tmp_path: Path) -> None:
    both = values(tmp_path / "two.yaml", "docker.io", "ghcr.io")
    with installed(cluster, "reduced", "--values", both) as release:
        release.upgrade("--values", values(tmp_path / "one.yaml", "docker.io"))

        for node in cluster.nodes:
            assert node.run("ls", REGISTRY_DIRECTORY) == "docker.io\n"
        reference, _ = new_image(cluster, "ghcr.io/tests/reduced:1")
        assert pull(cluster, reference, cluster.nodes[0]).served_by == "upstream"


def test_generated_chart_installs_and_serves(cluster: Cluster, tmp_path: Path) -> None:
    chart = tmp_path / "my-caches"
    document = values(tmp_path / "v.yaml", "docker.io")
    subprocess.run([sys.executable, "-m", "registry_cache", "generate", document, "--output", str(chart)], check=True)
    release = Release(cluster, name="my-caches", namespace="generated")
    release.secret("unused", sites.USERNAME, sites.PASSWORD)
    try:
        release.install(chart=chart)
        reference, _ = new_image(cluster, "docker.io/library/generated:1")
        assert pull(cluster, reference, cluster.nodes[0]).served_by == "upstream through the cache"
        assert pull(cluster, reference, cluster.nodes[1]).served_by == "cache"
    finally:
        release.uninstall()


def test_killed_node_program_harms_no_pull_and_the_next_one_cleans_up(cluster: Cluster, tmp_path: Path) -> None:
    with installed(cluster, "killed", "--values", values(tmp_path / "v.yaml", "docker.io")) as release:
        selector = "--selector=app.kubernetes.io/component=node"
        release.kubectl("delete", "pods", selector, "--grace-period=0", "--force")
        reference, _ = new_image(cluster, "docker.io/library/orphaned:1")
        pull(cluster, reference, cluster.nodes[0])
        release.wait_for_nodes("docker.io", use=True)
    for node in cluster.nodes:
        assert node.run("ls", REGISTRY_DIRECTORY) == ""
