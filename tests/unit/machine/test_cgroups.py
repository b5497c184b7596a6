"""Groups of processes, which the kernel removes as containers end."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from machine import cgroups

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_group_that_goes_away_while_it_is_listed_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, running = tmp_path / "cluster" / "ended", tmp_path / "cluster" / "running"
    for group in (ended, running):
        group.mkdir(parents=True)
        (group / "cgroup.procs").write_text("4711\n")
    scandir = os.scandir

    def scan(path: Any) -> Any:
        if str(path) == str(ended):
            (ended / "cgroup.procs").unlink()
            ended.rmdir()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    monkeypatch.setattr(cgroups, "hierarchies", lambda: (tmp_path,))
    assert cgroups.Cgroup("cluster").processes() == {4711}
