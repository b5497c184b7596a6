"""What becomes of an Application when its values and its chart change in git, and when it is deleted."""

from __future__ import annotations

import itertools
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from argocd_support import MARKS, PROBE, serves, synced
from cluster import interface
from cluster.containerd_configuration import REGISTRY_DIRECTORY
from cluster.pulls import Pod, new_image, pull
from cluster.release import Release
from cluster_support import containerd_files, pod_states, pull_at_first
from machine.paths import CHART
from machine.processes import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.argocd import ArgoCD
    from upstreams.upstream import Upstream

pytestmark = MARKS

NAME = "argo-changed"
VALUES = "caches.yaml"
FOLDER = f"{REGISTRY_DIRECTORY}/quay.io"
FOREIGN = 'server = "https://quay.io"\n# put here by somebody else\n'


def cache(upstream: str, size: str = "1Gi") -> dict[str, Any]:
    return {"upstream": upstream, "volume": {"size": size, "storageClassName": "expandable"}}


def values(*caches: dict[str, Any], **more: object) -> dict[str, Any]:
    return {"caches": caches, **PROBE, **more}


GITHUB, QUAY = cache("ghcr.io"), cache("quay.io")


def change(argocd: ArgoCD, new: dict[str, Any], chart: Path = CHART) -> None:
    """Commit other values, or another version of the chart too, and wait until Argo CD has read them."""
    argocd.commit({VALUES: json.dumps(new), "chart": chart})
    argocd.refresh(NAME)


def test_without_the_finalizer_everything_stays_until_the_namespace_is_deleted(argocd: ArgoCD) -> None:
    cluster = argocd.cluster
    release = Release(cluster, name="argo-kept", namespace="argo-kept")
    source = argocd.in_git(valuesObject=values({"upstream": "docker.io", "volume": {"size": "1Gi"}}))
    before = [containerd_files(node) for node in cluster.nodes]
    try:
        argocd.apply(release.name, source, finalizer=False)
        argocd.wait_until_synced(release.name)
        running = pod_states(release)
        argocd.delete(release.name)
        serves(release)

        # The next Application of the same name takes over what is there.
        argocd.apply(release.name, source, finalizer=False)
        argocd.wait_until_synced(release.name)
        argocd.delete(release.name)
        assert pod_states(release) == running
    finally:
        argocd.delete(release.name)
        delete = ["delete", "namespace", release.namespace, "--ignore-not-found", "--timeout=180s"]
        interface.kubectl(cluster.kubeconfig, *delete)
    assert [containerd_files(node) for node in cluster.nodes] == before


@pytest.fixture(scope="module")
def found(argocd: ArgoCD) -> Iterator[list[str]]:
    """The nodes' files for quay.io before it has a cache: a foreign one on the first node, none on the second one."""
    node = argocd.cluster.nodes[0]
    node.run("mkdir", FOLDER)
    node.run("sh", "-c", f"printf '{FOREIGN}' > {FOLDER}/hosts.toml")
    yield files_of_quay(argocd)
    node.run("rm", "-r", FOLDER)


def files_of_quay(argocd: ArgoCD) -> list[str]:
    return [containerd_files(node, FOLDER) for node in argocd.cluster.nodes]


@pytest.fixture(scope="module")
def changing(argocd: ArgoCD, expandable: str, found: list[str]) -> Iterator[Release]:
    """An Application with two caches, whose values are in git beside the chart."""
    assert expandable == "expandable"
    assert found[0]
    argocd.commit({VALUES: json.dumps(values(GITHUB, QUAY))})
    with synced(argocd, NAME, argocd.in_git(valueFiles=[f"../{VALUES}"])) as release:
        yield release


def claim_of_github(release: Release) -> Any:
    return release.get("persistentvolumeclaim", f"cache-volume-{release.object_name('ghcr.io')}-0")


def test_refused_value_is_reported_in_the_words_of_the_chart(changing: Release, argocd: ArgoCD) -> None:
    before = pod_states(changing)
    change(argocd, values(GITHUB, QUAY, GITHUB))
    status = argocd.status(NAME)
    (condition,) = status["conditions"]
    assert condition["type"] == "ComparisonError"
    assert "The values are not valid. Nothing was changed." in condition["message"]
    assert "caches[2].upstream: ghcr.io has a cache already, at caches[0]" in condition["message"]
    assert (status["sync"]["status"], status["health"]["status"]) == ("Unknown", "Healthy")
    assert pod_states(changing) == before

    change(argocd, values(GITHUB, QUAY))
    argocd.wait_until_synced(NAME)
    assert "conditions" not in argocd.status(NAME)
    assert pod_states(changing) == before


def test_volume_grows_while_its_cache_runs(changing: Release, argocd: ArgoCD) -> None:
    before, claim = pod_states(changing), claim_of_github(changing)
    change(argocd, values(cache("ghcr.io", "2Gi"), QUAY))
    argocd.wait_until_synced(NAME)
    grown = claim_of_github(changing)
    assert grown["spec"]["resources"]["requests"]["storage"] == "2Gi"
    assert grown["metadata"]["uid"] == claim["metadata"]["uid"]
    assert pod_states(changing) == before
    assert argocd.diff(NAME) == ""


def test_volume_that_shrinks_fails_the_sync_of_its_claim_alone(changing: Release, argocd: ArgoCD) -> None:
    before = pod_states(changing)
    change(argocd, values(cache("ghcr.io", "512Mi"), QUAY, commonLabels={"team": "platform"}))
    wait_for("the sync to fail", lambda: failures(argocd), 60)
    (failed,) = failures(argocd)
    assert failed["name"] == claim_of_github(changing)["metadata"]["name"]
    assert "field can not be less than" in failed["message"]
    workloads = changing.get("statefulsets,daemonsets")["items"]
    assert {one["metadata"]["labels"].get("team") for one in workloads} == {"platform"}, "the rest was applied"
    assert pod_states(changing) == before

    # Until Argo CD has tried it five times more, within about five minutes, it applies no other commit.
    change(argocd, values(cache("ghcr.io", "2Gi"), QUAY))
    argocd.end_sync(NAME)
    argocd.wait_until_synced(NAME)
    assert pod_states(changing) == before
    serves(changing, "ghcr.io")


def failures(argocd: ArgoCD) -> list[dict[str, Any]]:
    """Return the results of the last sync for the objects that were refused."""
    results = argocd.status(NAME)["operationState"].get("syncResult", {}).get("resources", [])
    return [one for one in results if one["status"] == "SyncFailed"]


def test_upgrade_during_pulls_fails_none(
    changing: Release, argocd: ArgoCD, healthy_upstream: Upstream, tmp_path: Path
) -> None:
    """The chart gets another version, and a value restarts the pods of the caches and of the nodes."""
    cluster = changing.cluster
    first, second = cluster.nodes
    kept, _ = new_image(cluster, "ghcr.io/tests/kept:1")
    pull(cluster, kept, first)
    large, _ = new_image(cluster, "ghcr.io/tests/large:1", layers=1, layer_bytes=100_000_000)
    before, cache_pod = pods(changing), changing.pod("ghcr.io")["metadata"]["uid"]
    restarting = {
        "cachePods": {"podAnnotations": {"example.com/new": "yes"}},
        "nodeProgram": {**PROBE["nodeProgram"], "podAnnotations": {"example.com/new": "yes"}},
    }
    healthy_upstream.bandwidth("ghcr.io", 3_000_000)
    with Pod(cluster.kubeconfig, large, first) as pulling:
        pulling.wait_until_begun()
        change(argocd, values(cache("ghcr.io", "2Gi"), QUAY, **restarting), chart=newer_chart(tmp_path / "chart"))
        wait_for("the cache pod to end", lambda: is_ending(changing, cache_pod), 120)
        assert interface.get(cluster.kubeconfig, "pod", pulling.name)["status"]["phase"] == "Pending", "it pulls"
        for number in itertools.count():
            reference, _ = new_image(cluster, f"ghcr.io/tests/during-{number}:1", layers=1, layer_bytes=1_000_000)
            pull_at_first(cluster, reference, second)
            if argocd.is_synced(NAME) and not before & pods(changing):
                break
        pulling.wait_until_pulled(120)
        assert pulling.failed_tries() == []
    workloads = changing.get("statefulsets,daemonsets")["items"]
    assert {one["metadata"]["labels"]["helm.sh/chart"] for one in workloads} == {"registry-cache-99.0.0"}
    changing.wait_for_nodes("ghcr.io", use=True)
    assert pull(cluster, kept, second).served_by == "cache"


def newer_chart(folder: Path) -> Path:
    """Copy the chart, as another version."""
    shutil.copytree(CHART, folder)
    file = folder / "Chart.yaml"
    file.write_text(json.dumps({**yaml.safe_load(file.read_text()), "version": "99.0.0"}))
    return folder


def pods(release: Release) -> set[str]:
    """Return the UIDs of all pods."""
    return {one["metadata"]["uid"] for one in release.get("pods")["items"]}


def is_ending(release: Release, pod: str) -> bool:
    """Return whether the pod with this UID is being deleted, or has been."""
    found = [one["metadata"] for one in release.get("pods")["items"] if one["metadata"]["uid"] == pod]
    return not found or "deletionTimestamp" in found[0]


def test_removed_cache_leaves_nodes_as_they_were(changing: Release, argocd: ArgoCD, found: list[str]) -> None:
    changing.wait_for_nodes("quay.io", use=True)
    change(argocd, values(cache("ghcr.io", "2Gi")))
    argocd.wait_until_synced(NAME)
    assert changing.get("statefulsets,services,pvc", "--selector=upstream-host=quay.io")["items"] == []
    wait_for("the nodes to withdraw it", lambda: files_of_quay(argocd) == found, 60)
