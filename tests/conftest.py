"""What several rungs need."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from machine import environment, tools

if TYPE_CHECKING:
    from pathlib import Path

# How long an example takes means nothing on a machine that has other work.
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")
environment.clean_process()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group the tests that one worker of pytest-xdist runs one after the other.

    A rung that shares a network or a cluster is one group, and each file of the others. About half of the files of the
    cluster rung, by their duration, name a second group themselves: those have a second cluster.
    """
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(_group(item.path, item.config.rootpath)))


def _group(file: Path, root: Path) -> str:
    rung = file.relative_to(root).parts[1]
    return rung if rung in {"cluster", "node"} else file.stem


@pytest.fixture(scope="session", autouse=True)
def client_programs() -> None:
    """Get helm and kubectl before any test needs them."""
    tools.ensure_client()
