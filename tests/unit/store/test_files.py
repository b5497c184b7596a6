"""Files on the volume, and a disk that is full for a moment."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
from store.files import write_file

if TYPE_CHECKING:
    from pathlib import Path


def test_file_that_did_not_fit_can_be_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "folder" / "file"
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fail(*_: object) -> int:
        raise full

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", fail)
        with pytest.raises(OSError, match="No space left"):
            write_file(path, b"content")
    write_file(path, b"content")
    assert path.read_bytes() == b"content"
