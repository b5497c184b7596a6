"""The gate waits until it can use the volume, and says why it does."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from gate import __main__ as program
from gate.health import Health
from machine.processes import wait_for
from store.volume import Volume

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_gate_waits_for_the_volume_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = Volume(tmp_path, print)
    assert first.find_problem() is None
    health, stop = Health(tmp_path, tmp_path / "distribution.sock"), threading.Event()
    results: list[bool] = []
    waiting = threading.Thread(
        target=lambda: results.append(program.wait_for_volume(Volume(tmp_path, print), health, stop))
    )
    waiting.start()
    wait_for("the reason", lambda: "another pod uses the volume" in (health.problem or ""), 10)
    assert not health.is_volume_usable
    first.close()
    waiting.join(10)
    assert (results, health.volume_problem) == ([True], None)
    assert health.is_volume_usable
    assert capsys.readouterr().out.count("not ready: another pod uses the volume") == 1


def test_volume_with_content_that_cannot_be_written_to_is_a_warning(tmp_path: Path) -> None:
    found: list[str | None] = [None, "the volume is read-only; what it has is served", None]
    health = Health(tmp_path, tmp_path / "distribution.sock", lambda: "the Secret login is empty")
    health.find_volume_warning = lambda: found.pop(0)
    warnings = []
    for is_usable in (True, False, True):
        health.check()
        warnings.append(health.warning)
        assert health.is_volume_usable is is_usable
    secret = "the Secret login is empty"
    assert warnings == [secret, f"{secret}; the volume is read-only; what it has is served", secret]


def test_gate_that_is_told_to_end_waits_no_longer(tmp_path: Path) -> None:
    first = Volume(tmp_path, print)
    assert first.find_problem() is None
    stop = threading.Event()
    stop.set()
    assert not program.wait_for_volume(Volume(tmp_path, print), Health(tmp_path, tmp_path / "socket"), stop)
    first.close()
