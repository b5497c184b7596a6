"""What several rungs need."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from machine import environment, tools
from xdist.scheduler import LoadScopeScheduling

# The time that an example takes says nothing on a machine that does other things besides.
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")
environment.clean_process()

# The cluster rung takes longest; these files have a second cluster, and take about as long as the others.
SECOND_CLUSTER = {
    "test_any_cluster.py",
    "test_cache_pod.py",
    "test_cache_upstream.py",
    "test_cache_volumes.py",
    "test_discover.py",
    "test_failing_disk.py",
    "test_monitoring.py",
    "test_nodes.py",
    "test_pulls.py",
    "test_two_replicas.py",
}


class SideBySide(LoadScopeScheduling):
    """What workers run side by side: parts of which each is one worker's, one test after the other."""

    def _split_scope(self, nodeid: str) -> str:
        """The part that a test belongs to (pytest-xdist, scheduler/loadscope.py).

        A rung that has a place of its own, a network or a cluster, stays together; of the others each file does.
        """
        file = PurePath(nodeid.partition("::")[0])
        rung = file.parts[1]
        if rung == "cluster":
            return "second cluster" if file.name in SECOND_CLUSTER else "cluster"
        return "node" if rung == "node" else str(file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> SideBySide:
    """Have workers run these parts, in this order: the cluster rung takes longest."""
    config.option.loadscopereorder = False
    return SideBySide(config, log)


@pytest.fixture(scope="session", autouse=True)
def client_programs() -> None:
    """Have helm and kubectl before any test asks for them."""
    tools.ensure_client()
