"""Pulls by real containerds succeed soon whatever is wrong with a cache, and the node program withdraws it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from experiments.bare_fault_costs import Measured, measure_all
from experiments.bare_node import NOTICE_SECONDS, RELEASES, BareNode, bare_node
from experiments.bare_scenarios import SCENARIOS, Scenario
from experiments.faults import BARE, CacheFault

if TYPE_CHECKING:
    from collections.abc import Iterator

# Ten times the 3 s that a fault may cost a pull by containerd 2, and ten times the 30 s that silence may cost.
SOON_SECONDS = 30.0
HANG_SECONDS = 300.0
NOTICED = [fault for fault in BARE if fault.noticed]
UNNOTICED = [fault for fault in BARE if not fault.noticed]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareNode]:
    with bare_node(tmp_path_factory.mktemp("f")) as running:
        yield running


@pytest.fixture(scope="module")
def measured(node: BareNode) -> Measured:
    return measure_all(node)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("fault", BARE, ids=lambda fault: fault.title)
def test_pull_that_begins_with_the_fault_ends_in_time(measured: Measured, fault: CacheFault, release: str) -> None:
    costs = measured.faults[fault.title]
    if fault.falls_back:
        assert costs.before[release].error == ""
    assert (release in costs.held) is (release in fault.held), "docs/faults-bare.md says which pulls are held"
    if release in fault.held:
        assert costs.freed[release] < SOON_SECONDS
    else:
        assert costs.before[release].seconds < HANG_SECONDS
    if release == "2.x" and not fault.held:
        assert costs.before[release].seconds < measured.direct[release] + SOON_SECONDS


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("fault", NOTICED, ids=lambda fault: fault.title)
def test_pull_after_the_withdrawal_succeeds_in_time(measured: Measured, fault: CacheFault, release: str) -> None:
    pull = measured.faults[fault.title].after[release]
    assert pull.error == ""
    assert pull.seconds < measured.direct[release] + SOON_SECONDS


@pytest.mark.parametrize("fault", NOTICED, ids=lambda fault: fault.title)
def test_cache_is_withdrawn_and_used_again_in_the_promised_time(measured: Measured, fault: CacheFault) -> None:
    costs = measured.faults[fault.title]
    assert costs.withdrawn is not None
    assert costs.withdrawn < NOTICE_SECONDS
    assert costs.returned is not None
    assert costs.returned < NOTICE_SECONDS


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("fault", UNNOTICED, ids=lambda fault: fault.title)
def test_pull_after_an_unnoticed_fault_succeeds(measured: Measured, fault: CacheFault, release: str) -> None:
    assert measured.faults[fault.title].again[release].error == ""


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.title)
def test_node_program_and_containerd_recover(node: BareNode, scenario: Scenario) -> None:
    outcome = scenario.run(node)
    assert outcome.failed_checks == []
    assert set(outcome.pulls) == set(RELEASES)
    if scenario.error:
        assert all(scenario.error in pull.error for pull in outcome.all_pulls)
    else:
        assert [pull.error for pull in outcome.all_pulls] == [""] * len(outcome.all_pulls)
        assert max(pull.seconds for pull in outcome.all_pulls) < SOON_SECONDS
