"""The cluster rung: the chart in a real cluster, with pulls by real kubelets and containerds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cluster import interface, pulls
from cluster.argocd import ArgoCD
from cluster.cli import choose
from cluster.native import NativeCluster
from cluster_support import describe, pod_states
from machine.paths import CHART

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from cluster.interface import Cluster
    from cluster.release import Release
    from upstreams import upstream

PULL_SECRET = "pull-secret"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of this rung; `--kubeconfig` comes from pytest-helm-charts."""
    parser.addoption(
        "--keep-cluster",
        action="store_true",
        help="leave the test cluster running, to inspect it or use it again",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """With a given cluster, skip tests that access the files of nodes or the upstream registries."""
    if (
        item.config.getoption("kubeconfig")
        and item.get_closest_marker("cluster")
        and not item.get_closest_marker("portable")
    ):
        pytest.skip("needs access to the nodes' files and to an upstream registry of ours: run it without --kubeconfig")


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The test cluster, which is started for the run and removed after it. Each worker has its own."""
    kubeconfig = request.config.getoption("kubeconfig")
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    chosen = choose(f"test-{worker}" if worker else "test", Path(kubeconfig) if kubeconfig else None)
    try:
        chosen.up()
        yield chosen
    finally:
        if not request.config.getoption("--keep-cluster"):
            chosen.down()


@pytest.fixture(scope="session")
def native(cluster: Cluster) -> NativeCluster:
    """The native cluster, whose nodes' processes, links and file systems are accessible."""
    if not isinstance(cluster, NativeCluster):
        pytest.skip("it enters the namespaces of the native cluster's nodes")
    return cluster


@pytest.fixture(scope="session")
def argocd(native: NativeCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArgoCD]:
    """Argo CD, with the chart in its git repository."""
    running = ArgoCD(native, tmp_path_factory.mktemp("argocd"))
    running.commit({"chart": CHART})
    try:
        running.start()
        yield running
    finally:
        for log in sorted(running.place.folder.glob("*.log")):
            print(f"--- {log.name}", *log.read_text(errors="replace").splitlines()[-20:], sep="\n")
        running.stop()


@pytest.fixture(scope="module")
def expandable(cluster: Cluster) -> Iterator[str]:
    """A storage class like the default one, whose claims may grow, although nothing makes their volumes grow."""
    name = "expandable"
    storage_class = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name, "annotations": {"defaultVolumeType": "local"}},
        "provisioner": "rancher.io/local-path",
        "allowVolumeExpansion": True,
        "volumeBindingMode": "WaitForFirstConsumer",
    }
    interface.kubectl(cluster.kubeconfig, "apply", "--filename", "-", text=json.dumps(storage_class))
    try:
        yield name
    finally:
        interface.kubectl(cluster.kubeconfig, "delete", "storageclass", name)


@pytest.fixture(scope="session")
def pull_secret(cluster: Cluster) -> str:
    """A pull secret for the private upstream in the namespace default."""
    pulls.pull_secret(cluster, PULL_SECRET)
    return PULL_SECRET


@pytest.fixture
def healthy_upstream(cluster: Cluster) -> Iterator[upstream.Upstream]:
    """The upstreams, whose faults end with the test."""
    assert cluster.upstream is not None
    yield cluster.upstream
    cluster.upstream.resume()


@pytest.fixture
def undisturbed(release: Release) -> Iterator[None]:
    """Check that no cache pod of the release is replaced, restarted or not ready during the test."""
    before = pod_states(release)
    yield
    assert pod_states(release) == before


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the state of the cluster to the report of a failure."""
    report = yield
    cluster = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and cluster is not None and call.when in ("setup", "call"):
        report.sections.append(("the cluster at that moment", describe(cluster)))
    return report
