"""Pulls succeed soon whatever is wrong with a cache, which the node stops using and uses again by itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from cluster.native import NativeCluster
from cluster_support import installed
from experiments.cluster_fault_costs import measure
from experiments.cluster_faults import VALUES, Scene
from experiments.faults import IN_CLUSTER, CacheFault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.interface import Cluster
    from experiments.cluster_fault_costs import Timed

pytestmark = pytest.mark.cluster

# The promises, with an allowance for a busy machine; docs/faults.md has the figures.
LONGER_BEFORE = 3.0 * 10
LONGER_AFTER = 0.2 * 10
NOTICED = 15.0 * 10
# containerd waits 30 s for the head of a response; waiting twice would be 60.
LONGER_SILENT = 30.0 + 15.0


@pytest.fixture(scope="module")
def scene(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One cache, which is probed more often than by default; `make faults` measures the default."""
    if not isinstance(cluster, NativeCluster):
        pytest.skip("the faults are put into the namespaces of the native cluster")
    path = tmp_path_factory.mktemp("faults") / "values.yaml"
    path.write_text(json.dumps(VALUES))
    with installed(cluster, "faults", "--values", str(path)) as release:
        yield Scene(cluster, release)


@pytest.mark.parametrize("fault", IN_CLUSTER, ids=lambda fault: fault.title.replace(" ", "-"))
def test_fault_costs_a_pull_little(scene: Scene, fault: CacheFault) -> None:
    row = measure(scene, fault)

    if row.before and fault.falls_back:
        longer = LONGER_SILENT if fault.silent else LONGER_BEFORE
        assert_pulled(row.before, row.direct + longer)
    elif row.before and not fault.noticed:
        assert_waited_for_the_end_of_the_fault(row.before)
    if fault.noticed and not fault.under_way:
        assert row.withdrawn is not None
        assert row.withdrawn < NOTICED
        assert row.after is not None
        assert_pulled(row.after, row.direct + LONGER_AFTER)
        assert row.back is not None
        assert row.back < NOTICED


def assert_pulled(timed: Timed, limit: float) -> None:
    """The pull succeeded at the first try, in less than `limit` seconds."""
    assert timed.failed_tries == []
    assert timed.seconds is not None
    assert timed.seconds < limit


def assert_waited_for_the_end_of_the_fault(timed: Timed) -> None:
    """Containerd accepted nothing wrong, and pulled when the fault was over."""
    assert timed.seconds is None
    assert timed.freed is not None
