"""The cluster rung: the chart in a real cluster, pulled through by real kubelets and containerds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cluster import pulls
from cluster.cli import choose
from cluster.native import NativeCluster
from cluster_support import describe, unrest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from cluster.interface import Cluster
    from cluster.release import Release
    from upstreams import upstream

PULL_SECRET = "pull-secret"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what only this rung knows; `--kubeconfig` comes from pytest-helm-charts."""
    parser.addoption(
        "--keep-cluster", action="store_true", help="leave the test cluster up, to look around or run again"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what looks into nodes or at the upstream where the cluster is somebody's own."""
    if (
        item.config.getoption("kubeconfig")
        and item.get_closest_marker("cluster")
        and not item.get_closest_marker("portable")
    ):
        pytest.skip("needs the nodes' files and an upstream registry of its own: run it without --kubeconfig")


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The test cluster: brought up for the run, taken down after it. Those that run side by side have one each."""
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
    """The cluster, whose nodes' processes, links and file systems can be reached."""
    if not isinstance(cluster, NativeCluster):
        pytest.skip("it reaches into the namespaces of the native cluster's nodes")
    return cluster


@pytest.fixture(scope="session")
def pull_secret(cluster: Cluster) -> str:
    """A pull secret for the private upstream in the namespace default."""
    pulls.pull_secret(cluster, PULL_SECRET)
    return PULL_SECRET


@pytest.fixture
def healthy_upstream(cluster: Cluster) -> Iterator[upstream.Upstream]:
    """The upstream, whose faults end with the test."""
    assert cluster.upstream is not None
    yield cluster.upstream
    cluster.upstream.resume()


@pytest.fixture
def undisturbed(release: Release) -> Iterator[None]:
    """No pod of a file's own release is replaced, restarted or not ready in the meantime."""
    before = unrest(release)
    yield
    assert unrest(release) == before


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to a failure's report what a person would look at first."""
    report = yield
    cluster = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and cluster is not None and call.when in ("setup", "call"):
        report.sections.append(("the cluster at that moment", describe(cluster)))
    return report
