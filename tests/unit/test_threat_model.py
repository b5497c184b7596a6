"""Each statement of docs/threat-model.md names a test or an attack, and these exist."""

from __future__ import annotations

import re

import pytest
from experiments.all_attacks import ATTACKS
from machine.paths import REPOSITORY

PAGE = REPOSITORY / "docs" / "threat-model.md"
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
ATTACK = re.compile(r"attack `([\w-]+)`")
ROWS = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and not line.startswith("| ---")]
STATEMENTS = [row for row in ROWS if not row.endswith("| shown by |")]


@pytest.mark.parametrize("row", STATEMENTS)
def test_statement_names_tests_that_exist(row: str) -> None:
    shown_by = row.rstrip("| ").rpartition(" | ")[2]
    tests, attacks = TEST.findall(shown_by), ATTACK.findall(shown_by)
    assert tests or attacks
    for file, name in tests:
        assert not name or f"def {name}(" in (REPOSITORY / file).read_text(), name
        assert (REPOSITORY / file).is_file()
    assert set(attacks) <= ATTACKS.keys()


def test_every_attack_is_in_the_threat_model() -> None:
    assert ATTACKS.keys() == set(ATTACK.findall(PAGE.read_text()))
