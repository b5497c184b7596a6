"""What attackers do to a cache costs neither the pulls of a node nor any other content."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from experiments.all_attacks import ATTACKS
from experiments.attack_bed import AttackBed, attack_bed

if TYPE_CHECKING:
    from collections.abc import Iterator

# The machine has other work. A pull that waits for an attack takes longer than this.
MARGIN_SECONDS = 3.0


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AttackBed]:
    with attack_bed(tmp_path_factory.mktemp("a"), MARGIN_SECONDS) as running:
        yield running


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_has_no_effect(bed: AttackBed, name: str) -> None:
    result = ATTACKS[name].run(bed)
    print(result)
    assert result.broken == []
