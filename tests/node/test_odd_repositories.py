"""A repository for which the registry answers oddly costs little, and costs other repositories nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from experiments.bare_node import RELEASES
from experiments.odd_pulls import OddBed, OddPulls, measure_odd, odd_bed
from upstreams.odd_repositories import ODD_ANSWERS, OddAnswer

if TYPE_CHECKING:
    from collections.abc import Iterator

# The cache lets a node wait for 10 s at most.
PATIENCE_SECONDS = 10.0
# Ten times what a pull takes here.
MARGIN_SECONDS = 5.0


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OddBed]:
    with odd_bed(tmp_path_factory.mktemp("o"), RELEASES) as running:
        yield running


@pytest.fixture(scope="module", params=ODD_ANSWERS, ids=lambda answer: answer.name)
def answer(request: pytest.FixtureRequest) -> OddAnswer:
    chosen: OddAnswer = request.param
    return chosen


@pytest.fixture(scope="module")
def pulls(bed: OddBed, answer: OddAnswer) -> OddPulls:
    return measure_odd(bed, answer)


@pytest.mark.parametrize("release", RELEASES)
def test_pull_succeeds_where_it_does_without_the_cache(answer: OddAnswer, pulls: OddPulls, release: str) -> None:
    direct = pulls.direct[release]
    if direct.error:
        return
    patience = PATIENCE_SECONDS if answer.delay_seconds else 0.0
    for pull in (pulls.through[release], pulls.again[release]):
        assert pull.error == ""
        assert pull.seconds < direct.seconds + patience + MARGIN_SECONDS


@pytest.mark.parametrize("release", RELEASES)
def test_other_repository_is_pulled_as_without_the_odd_one(pulls: OddPulls, release: str) -> None:
    other = pulls.other[release]
    assert other.error == ""
    assert other.seconds < pulls.other_direct[release].seconds + MARGIN_SECONDS


def test_volume_has_nothing_wrong(pulls: OddPulls) -> None:
    assert pulls.damaged == []
