"""A short form of `make load`: nodes that only pull what is cached are never refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments.load import load_bed, put_load

if TYPE_CHECKING:
    from pathlib import Path


def test_cached_images_are_sent_to_many_nodes_without_a_refusal(tmp_path: Path) -> None:
    with load_bed(tmp_path) as bed:
        outcome = put_load(bed, nodes=100, seconds=8, period=5)
        print(outcome.describe())
        assert outcome.results.pulls >= 100
        assert outcome.results.problems == {}
        assert (outcome.restarts, outcome.kills, outcome.fetched) == (0, 0, 0)
