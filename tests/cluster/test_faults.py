"""Whatever is wrong with a cache, pulls come, soon, and the node leaves the cache and comes back to it by itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from cluster.native import NativeCluster
from cluster_support import installed
from experiments.fault_table import measure
from experiments.faults import FAULTS, VALUES, Fault, Scene

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.interface import Cluster
    from experiments.fault_table import Timed

pytestmark = pytest.mark.cluster

# The promise, and what a busy machine is allowed besides; docs/faults.md has the figures.
LONGER_BEFORE = 3.0 * 10
LONGER_AFTER = 0.2 * 10
NOTICED = 15.0 * 10
# containerd's own 30 s for the head of an answer; waiting twice would be 60.
LONGER_SILENT = 30.0 + 15.0


@pytest.fixture(scope="module")
def scene(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One cache; asked more often than by default, for which `make faults` has the figures."""
    if not isinstance(cluster, NativeCluster):
        pytest.skip("the faults are put into the namespaces of the native cluster")
    path = tmp_path_factory.mktemp("faults") / "values.yaml"
    path.write_text(json.dumps(VALUES))
    with installed(cluster, "faults", "--values", str(path)) as release:
        yield Scene(cluster, release)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.title.replace(" ", "-"))
def test_fault_costs_a_pull_little(scene: Scene, fault: Fault) -> None:
    row = measure(scene, fault)

    if row.before and fault.falls_back:
        longer = LONGER_SILENT if fault.silent else LONGER_BEFORE
        assert_came(row.before, row.direct + longer)
    elif row.before and not fault.seen:
        assert_came_only_when_the_fault_was_over(row.before)
    if fault.seen and not fault.under_way:
        assert row.withdrawn is not None
        assert row.withdrawn < NOTICED
        assert row.after is not None
        assert_came(row.after, row.direct + LONGER_AFTER)
        assert row.back is not None
        assert row.back < NOTICED


def assert_came(timed: Timed, limit: float) -> None:
    """The pull came at the first try, in less than `limit` seconds."""
    assert timed.failed_tries == []
    assert timed.seconds is not None
    assert timed.seconds < limit


def assert_came_only_when_the_fault_was_over(timed: Timed) -> None:
    """What containerd does not get around: it does not take what is wrong for good, and pulls when nothing is wrong."""
    assert timed.seconds is None
    assert timed.freed is not None
