"""kubectl apply in both ways, and what Helm does beside install and upgrade: nothing drifts, and nothing is lost."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest
from cluster import interface
from cluster.release import Release
from cluster_support import installed, values
from machine import tools
from machine.paths import CHART
from machine.processes import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.interface import Cluster

pytestmark = pytest.mark.cluster


def helm(cluster: Cluster, *arguments: str, program: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [str(program or tools.helm()), "--kubeconfig", str(cluster.kubeconfig), *arguments]
    return subprocess.run(command, env=tools.program_environment(), capture_output=True, text=True, check=False)


def rendered(name: str, *arguments: str) -> str:
    """Return the manifests without the pod of `helm test`, which nothing but `helm test` should create."""
    command = [str(tools.helm()), "template", name, str(CHART), "--namespace", name, "--skip-tests", *arguments]
    return subprocess.run(command, env=tools.program_environment(), capture_output=True, text=True, check=True).stdout


def generations(release: Release) -> dict[str, int]:
    """Return the generation of each workload, which rises with every change of its spec."""
    found = release.get("statefulsets,daemonsets")["items"]
    return {one["metadata"]["name"]: one["metadata"]["generation"] for one in found}


def is_ready(release: Release) -> bool:
    """Return whether all pods of all workloads have the newest template and are ready."""
    for found in release.get("statefulsets,daemonsets")["items"]:
        status, spec = found["status"], found["spec"]
        wanted = spec.get("replicas", status.get("desiredNumberScheduled", -1))
        ready = status.get("readyReplicas", status.get("numberReady", 0))
        if status.get("observedGeneration") != found["metadata"]["generation"] or ready != wanted:
            return False
    return True


@pytest.fixture(params=["client", "server"])
def applied(
    request: pytest.FixtureRequest, cluster: Cluster, tmp_path: Path
) -> Iterator[tuple[Release, str, list[str]]]:
    """The chart, applied with kubectl; with the manifests and the options of kubectl."""
    name = f"applied-{request.param}"
    release = Release(cluster, name=name, namespace=name)
    release.uninstall()
    interface.kubectl(cluster.kubeconfig, "create", "namespace", name)
    text = rendered(name, "--values", values(tmp_path / "v.yaml", "docker.io"))
    options = [f"--server-side={json.dumps(request.param == 'server')}"]
    try:
        release.kubectl("apply", *options, "--filename", "-", text=text)
        wait_for("the applied objects to be ready", lambda: is_ready(release), 180)
        yield release, text, options
    finally:
        release.kubectl("delete", "--ignore-not-found", "--filename", "-", text=text)
        release.uninstall()


def test_applied_chart_does_not_drift(applied: tuple[Release, str, list[str]]) -> None:
    """`kubectl diff` fails if the API server would change anything."""
    release, text, options = applied
    assert release.kubectl("diff", *options, "--filename", "-", text=text) == ""
    before = generations(release)
    release.kubectl("apply", *options, "--filename", "-", text=text)
    assert generations(release) == before


@pytest.fixture(scope="module")
def release(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """A release of one cache, whose values are in a file and in an option."""
    path = values(tmp_path_factory.mktemp("ways") / "v.yaml", "docker.io")
    with installed(cluster, "ways", "--values", path, "--set", "cachePods.highWaterMarkPercent=70") as running:
        yield running


def user_values(release: Release) -> dict[str, object]:
    shown = helm(release.cluster, "get", "values", release.name, "--namespace", release.namespace, "--output", "json")
    found: dict[str, object] = json.loads(shown.stdout)
    return found


def test_upgrade_with_reused_values_keeps_them(release: Release) -> None:
    before = user_values(release)
    pod = release.pod("docker.io")["metadata"]["uid"]
    release.upgrade("--reuse-values", "--set", "commonLabels.team=platform")
    assert user_values(release) == {**before, "commonLabels": {"team": "platform"}}
    assert release.pod("docker.io")["metadata"]["uid"] == pod, "a label of objects restarts no pod"


def test_failed_upgrade_is_rolled_back(release: Release) -> None:
    """The image cannot be pulled, so the upgrade cannot become ready."""
    before = user_values(release)
    options = ["--namespace", release.namespace, "--reuse-values", "--timeout", "30s", "--wait"]
    broken = ["--set", "images.distribution.tag=missing", "--rollback-on-failure"]
    done = helm(release.cluster, "upgrade", release.name, str(CHART), *options, *broken)
    assert done.returncode != 0
    assert user_values(release) == before
    wait_for("the cache to be ready again", lambda: is_ready(release), 120)
    (container,) = [one for one in release.pod("docker.io")["spec"]["containers"] if one["name"] == "distribution"]
    assert not container["image"].endswith(":missing")


def test_rollback_restores_the_revision_before(release: Release) -> None:
    before = user_values(release)
    release.upgrade("--reuse-values", "--set", "cachePods.highWaterMarkPercent=60")
    done = helm(release.cluster, "rollback", release.name, "--namespace", release.namespace, "--wait", "--timeout=180s")
    assert done.returncode == 0, done.stderr
    assert user_values(release) == before
    wait_for("the cache to be ready again", lambda: is_ready(release), 120)


def test_oldest_helm_upgrades_a_release_of_helm_4(release: Release) -> None:
    options = ["--namespace", release.namespace, "--reuse-values", "--wait", "--timeout", "180s", "--atomic"]
    done = helm(release.cluster, "upgrade", release.name, str(CHART), *options, program=tools.helm_3())
    assert done.returncode == 0, done.stderr
    assert is_ready(release)
