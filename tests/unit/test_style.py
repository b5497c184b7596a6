"""`make lint` passes: style, format and types."""

from __future__ import annotations

import subprocess
import sys

import pytest
from registry_cache.regenerate import REPOSITORY


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["ruff", "check", "."], id="style"),
        pytest.param(["ruff", "format", "--check", "."], id="format"),
        pytest.param(["mypy", "generator", "ci", "chart/files"], id="types"),
    ],
)
def test_lint_finds_nothing(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr
