"""First pulls by real containerds survive what goes wrong while the cache sends a layer that it is still fetching."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from experiments.bare_node import RELEASES
from experiments.cold_body_faults import (
    COLD_BODY_FAULTS,
    ColdBodyBed,
    ColdBodyFault,
    ColdBodyResult,
    cold_body_bed,
    measure_cold_body,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ColdBodyBed]:
    with cold_body_bed(tmp_path_factory.mktemp("f"), RELEASES) as running:
        yield running


@pytest.fixture(scope="module", params=COLD_BODY_FAULTS, ids=lambda fault: fault.title)
def fault(request: pytest.FixtureRequest) -> ColdBodyFault:
    chosen: ColdBodyFault = request.param
    return chosen


@pytest.fixture(scope="module")
def result(bed: ColdBodyBed, fault: ColdBodyFault) -> ColdBodyResult:
    return measure_cold_body(bed, fault)


@pytest.mark.parametrize("release", RELEASES)
def test_first_pull_succeeds_in_time(fault: ColdBodyFault, result: ColdBodyResult, release: str) -> None:
    pull = result.pulls[release]
    if fault.is_content_wrong:
        # Nothing else is possible: all of the layer was sent, and only its end shows that it is wrong.
        assert "unexpected commit digest" in pull.error
        pull = result.retries[release]
    assert pull.error == ""
    assert pull.seconds < fault.max_seconds
    assert release in result.complete


def test_rest_of_the_layer_comes_from_the_cache_or_the_upstream(fault: ColdBodyFault, result: ColdBodyResult) -> None:
    assert not result.is_wrong_content_stored
    if fault.is_resumed_directly is True:
        assert result.direct == set(RELEASES)
    elif fault.is_resumed_directly is False:
        assert result.direct == set()
        assert result.is_stored
        assert result.fetched_bytes <= fault.max_fetched * fault.layer_bytes
