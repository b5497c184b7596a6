"""What several rungs need."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from machine import environment, tools
from xdist.scheduler import LoadScopeScheduling

# How long an example takes means nothing on a machine that has other work.
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")
environment.clean_process()


# The cluster rung takes longest. These files have a cluster of their own, and take about as long as the others.
SECOND_CLUSTER = {
    "test_any_cluster.py",
    "test_cache_pod.py",
    "test_cache_upstream.py",
    "test_cache_volumes.py",
    "test_discover.py",
    "test_failing_disk.py",
    "test_joining.py",
    "test_links.py",
    "test_monitoring.py",
    "test_nodes.py",
    "test_pulls.py",
    "test_replicas.py",
    "test_two_replicas.py",
}


class RungScheduling(LoadScopeScheduling):
    """Lets one worker run the tests of a group one after the other.

    pytest-xdist's own `loadgroup` has no effect with pytest 9.2, which has no attribute `_nodeid` any more.
    """

    def _split_scope(self, nodeid: str) -> str:
        """Return the group of a test: a rung that shares a network or a cluster, and each file of the others."""
        file = PurePath(nodeid.partition("::")[0])
        rung = file.parts[1]
        if rung == "cluster":
            return "second cluster" if file.name in SECOND_CLUSTER else "cluster"
        return rung if rung == "node" else str(file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> RungScheduling:
    """Group the tests; those of the cluster rung start first."""
    missing = {name for name in SECOND_CLUSTER if not (config.rootpath / "tests/cluster" / name).is_file()}
    assert not missing, f"tests/conftest.py names files that do not exist: {missing}"
    return RungScheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def client_programs() -> None:
    """Get helm and kubectl before any test needs them."""
    tools.ensure_client()
