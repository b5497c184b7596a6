"""Files that are flushed to the disk before anybody relies on them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from common.files import flush_folder, write_and_flush


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that were flushed."""
    paths: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: paths.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
    )
    return paths


def test_file_is_written_with_its_mode_and_flushed(tmp_path: Path, flushed: list[str]) -> None:
    path = tmp_path / "hosts.toml"
    path.write_bytes(b"a longer text than the new one")
    write_and_flush(path, b"new", 0o640)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", 0o640)
    assert flushed == [str(path)]


def test_folder_is_flushed_and_closed(tmp_path: Path, flushed: list[str]) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - only their number counts
    flush_folder(tmp_path)
    assert flushed == [str(tmp_path)]
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
