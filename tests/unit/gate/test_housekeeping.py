"""Housekeeping reads its limits again each time."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

from gate import housekeeping
from gate.housekeeping import keep_house
from gate.metrics import Metrics
from machine.processes import wait_for
from made_stores import put_blob
from store.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

TIMEOUT_SECONDS = 30.0


def test_unreadable_limits_pause_housekeeping_and_do_not_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "INTERVAL_SECONDS", 0.01)
    logged: list[str] = []
    monkeypatch.setattr(housekeeping, "log", logged.append)
    store = Store(tmp_path / "volume", 64 << 20)
    store.load()
    blob = put_blob(store, "a/b", b"some content")
    limits = tmp_path / "room.json"
    limits.write_text("{")
    stop = threading.Event()
    thread = threading.Thread(target=keep_house, args=(store, Metrics("docker.io"), tmp_path, stop), daemon=True)
    thread.start()
    wait_for("a line in the log", lambda: logged, TIMEOUT_SECONDS, 0.01)
    assert store.find_blob(blob) is not None
    (tmp_path / "new.json").write_text(
        json.dumps({"capacity": 64 << 20, "highWaterMarkPercent": 85, "ttl": "10ms", "version": "1"})
    )
    (tmp_path / "new.json").rename(limits)
    wait_for("the blob to expire", lambda: store.find_blob(blob) is None, TIMEOUT_SECONDS, 0.01)
    stop.set()
    thread.join(TIMEOUT_SECONDS)
    assert len([line for line in logged if line.startswith("nothing is removed from the volume: ")]) == 1
