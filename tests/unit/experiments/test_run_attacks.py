"""docs/attacks.md has a row for each attack."""

from __future__ import annotations

from experiments.all_attacks import ATTACKS
from experiments.run_attacks import PAGE, attack_figures, written_rows


def test_page_has_the_figures_of_each_attack_and_new_ones_replace_the_old_ones() -> None:
    rows = written_rows(PAGE.read_text())
    assert rows.keys() == ATTACKS.keys()
    assert attack_figures(rows) in PAGE.read_text()
    (name, row), *_ = rows.items()
    changed = attack_figures({**rows, name: f"{row} again"})
    assert changed.count("\n") == attack_figures(rows).count("\n")
    assert f"{row} again" in changed
