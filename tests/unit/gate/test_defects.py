"""What must never happen is in the log, the metrics and the readiness."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from gate.defects import Defects
from gate.health import Health
from gate.metrics import Metrics
from known_metrics import EMPTY_CACHE
from machine.processes import wait_for

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT_SECONDS = 10.0


@pytest.fixture(autouse=True)
def _restore_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)


def started(folder: Path) -> tuple[Defects, Metrics, Health]:
    metrics, health = Metrics("docker.io"), Health(folder, folder / "distribution.sock")
    health.is_loaded = True
    defects = Defects(metrics, health, folder / "record")
    defects.note_start()
    return defects, metrics, health


def count(metrics: Metrics, where: str) -> float:
    line = f'registry_cache_defects_total{{upstream_host="docker.io",where="{where}"}} '
    (found,) = [each for each in metrics.render(EMPTY_CACHE).splitlines() if each.startswith(line)]
    return float(found.removeprefix(line))


@pytest.mark.parametrize("is_raised", [True, False], ids=["exception", "end"])
def test_thread_that_must_not_end_makes_the_pod_unready_and_the_gate_restart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *, is_raised: bool
) -> None:
    tracebacks: list[object] = []
    monkeypatch.setattr("sys.excepthook", lambda *traceback: tracebacks.append(traceback))
    defects, metrics, health = started(tmp_path)
    assert health.is_alive

    def work() -> None:
        if is_raised:
            message = "a defect"
            raise ZeroDivisionError(message)

    defects.start_forever("housekeeping", work)
    wait_for("the end", lambda: not health.is_alive, TIMEOUT_SECONDS, 0.01)
    wait_for("the hook", lambda: count(metrics, "thread") == is_raised, TIMEOUT_SECONDS, 0.01)
    assert "thread housekeeping ended" in str(health.problem)
    assert "not ready: the gate needs a restart: its thread housekeeping ended" in capsys.readouterr().out
    wait_for("the traceback", lambda: bool(tracebacks) is is_raised, TIMEOUT_SECONDS, 0.01)


def test_thread_that_ends_with_the_program_is_no_defect(tmp_path: Path) -> None:
    defects, _, health = started(tmp_path)
    health.is_stopping = True
    over = threading.Event()
    defects.start_forever("housekeeping", over.set)
    assert over.wait(TIMEOUT_SECONDS)
    assert health.is_alive


def test_crashes_of_the_gate_are_counted_while_the_pod_lives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, metrics, _ = started(tmp_path)
    assert count(metrics, "process") == 0
    first.note_stop()
    assert count(started(tmp_path)[1], "process") == 0
    assert "ended without being asked to" not in capsys.readouterr().out
    assert count(started(tmp_path)[1], "process") == 1
    again, metrics, _ = started(tmp_path)
    assert count(metrics, "process") == 2
    assert "ended without being asked to, 2 times" in capsys.readouterr().out
    again.note_stop()
    assert count(started(tmp_path)[1], "process") == 2


@pytest.mark.parametrize("content", ["", "running", "running x", "\xff"])
def test_damaged_record_does_not_prevent_the_start(tmp_path: Path, content: str) -> None:
    (tmp_path / "record").write_text(content, encoding="latin-1")
    assert count(started(tmp_path)[1], "process") == 0
