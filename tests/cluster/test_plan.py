"""An upgrade does what `registry-cache plan` says, for each kind of change."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from cluster import interface
from cluster_support import installed
from registry_cache.plan import Change, Plan, plan
from registry_cache.values_file import load_values

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.interface import Cluster
    from cluster.release import Release

pytestmark = pytest.mark.cluster

RELEASE = "planned"
EXPANDABLE = {
    "apiVersion": "storage.k8s.io/v1",
    "kind": "StorageClass",
    "metadata": {"name": "planned", "annotations": {"defaultVolumeType": "local"}},
    "provisioner": "rancher.io/local-path",
    "volumeBindingMode": "WaitForFirstConsumer",
    "allowVolumeExpansion": True,
}
HUB, QUAY, GITHUB = (
    {"upstream": upstream, "volume": {"size": "1Gi", "storageClassName": "planned"}}
    for upstream in ("docker.io", "quay.io", "ghcr.io")
)
FIRST: dict[str, Any] = {
    "caches": [HUB, QUAY],
    "nodeProgram": {"updateStrategy": {"rollingUpdate": {"maxUnavailable": "100%"}}},
}
SHORTER = {**HUB, "garbageCollection": {"ttl": "1h"}}
RENAMED = {**SHORTER, "serviceNameSuffix": "hub"}
GROWN = {**RENAMED, "volume": {"size": "2Gi", "storageClassName": "planned"}}
TWO = {**GROWN, "highAvailability": {"enabled": True}}
KEPT = {"volumeClaims": {"retentionPolicy": "Retain"}}
NODE = {**FIRST["nodeProgram"], "dialTimeout": "600ms"}
# Each is an upgrade of the last one before it that is not refused.
UPGRADES: dict[str, dict[str, Any]] = {
    "another ttl": {**FIRST, "caches": [SHORTER, QUAY]},
    "another order": {**FIRST, "caches": [QUAY, SHORTER]},
    "another Service": {**FIRST, "caches": [QUAY, RENAMED]},
    "a larger volume": {**FIRST, "caches": [QUAY, GROWN]},
    "a smaller volume": {**FIRST, "caches": [QUAY, RENAMED]},
    "a storage class": {**FIRST, "caches": [{**QUAY, "volume": {"size": "1Gi", "storageClassName": "x"}}, GROWN]},
    "one cache for another": {**FIRST, "caches": [GITHUB, GROWN]},
    "two replicas": {**FIRST, "caches": [GITHUB, TWO]},
    "one replica": {**FIRST, "caches": [GITHUB, GROWN]},
    "labels": {**FIRST, "caches": [GITHUB, GROWN], "commonLabels": {"team": "platform"}},
    "nodes alone": {"caches": [GITHUB, GROWN], "nodeProgram": NODE},
    "all caches": {"caches": [GITHUB, GROWN], "nodeProgram": NODE, "cachePods": {"podAnnotations": {"x": "y"}}},
    "volumes that stay": {
        "caches": [GITHUB, GROWN],
        "nodeProgram": NODE,
        "cachePods": {"podAnnotations": {"x": "y"}, **KEPT},
    },
    "a cache less": {"caches": [GROWN], "nodeProgram": NODE, "cachePods": {"podAnnotations": {"x": "y"}, **KEPT}},
    "other names": {"caches": [GROWN], "nodeProgram": NODE, "fullnameOverride": "other"},
}


@dataclass(frozen=True)
class State:
    """The UIDs of each cache's pod and claim, of all claims, and of the node programs' pods."""

    pods: dict[str, str]
    claims: dict[str, str]
    all_claims: set[str]
    nodes: set[str]


def state(release: Release) -> State:
    def of(component: str) -> list[Any]:
        selector = f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component={component}"
        pods = release.get("pods", "--selector", selector)["items"]
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    claims = {
        claim["metadata"]["name"]: claim["metadata"]["uid"]
        for claim in release.get("persistentvolumeclaims")["items"]
        if "deletionTimestamp" not in claim["metadata"]
    }
    # Of the first replica each.
    caches = {
        pod["metadata"]["labels"]["upstream-host"]: pod
        for pod in of("cache")
        if pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"] == "0"
    }
    used = {
        upstream: volume["persistentVolumeClaim"]["claimName"]
        for upstream, pod in caches.items()
        for volume in pod["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    }
    return State(
        {upstream: pod["metadata"]["uid"] for upstream, pod in caches.items()},
        {upstream: claims[name] for upstream, name in used.items()},
        set(claims.values()),
        {pod["metadata"]["uid"] for pod in of("node")},
    )


def untrue(made: Plan, before: State, after: State) -> list[str]:
    """Return the differences between the plan and what happened."""
    caches: dict[str, Change] = {change.upstream: change for change in made.changes if change.upstream}
    nodes = [change for change in made.changes if change.part == "nodes"]
    said, came = {}, {}
    for upstream in before.pods.keys() | after.pods.keys():
        change = caches.get(upstream)
        said[upstream] = (change.action, change.restart, change.data) if change else ("changed", False, "kept")
        if upstream not in before.pods:
            came[upstream] = ("created", False, "none")
        elif upstream not in after.pods:
            left = before.claims[upstream] in after.all_claims
            came[upstream] = ("removed", False, "left behind" if left else "lost")
        else:
            restart = before.pods[upstream] != after.pods[upstream]
            kept = before.claims[upstream] == after.claims[upstream]
            came[upstream] = ("changed", restart, "kept" if kept else "lost")
    found = [
        f"{upstream}: said {said[upstream]}, came {came[upstream]}"
        for upstream in said
        if said[upstream] != came[upstream]
    ]
    restarted = not before.nodes & after.nodes
    if any(change.restart for change in nodes) != restarted or (not restarted and before.nodes != after.nodes):
        found.append(f"nodes: said {nodes}, came {before.nodes} -> {after.nodes}")
    return found


def test_upgrades_do_what_was_planned(cluster: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(json.dumps(FIRST))
    wrong: dict[str, object] = {}
    refused = []
    storage_class = json.dumps(EXPANDABLE)
    interface.kubectl(cluster.kubeconfig, "apply", "--filename", "-", text=storage_class)
    # The default, since the upgrades do not set it.
    with installed(cluster, RELEASE, "--values", str(path), "--set", "nodeProgram.probe.interval=8s") as release:
        old, before = FIRST, state(release)
        for title, new in UPGRADES.items():
            made = plan(load_values(old), load_values(new), RELEASE)
            path.write_text(json.dumps(new))
            if made.refused:
                with pytest.raises(RuntimeError, match=r"Nothing was changed[.]\n  caches\[\d\][.]volume"):
                    release.upgrade("--values", str(path))
                refused.append(title)
                after, expected = state(release), Plan(())
            else:
                release.upgrade("--values", str(path))
                after, expected, old = state(release), made, new
            if found := untrue(expected, before, after):
                wrong[title] = found
            before = after
    assert wrong == {}
    assert refused == ["a smaller volume", "a storage class"]
