"""helm and kubectl on machines for which the pinned wheel has no programs."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import pytest
from machine import SetupFailed, tools

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def arm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")


def test_another_architecture_uses_the_programs_of_the_machine(
    arm: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("helm", "kubectl"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    monkeypatch.setattr("machine.environment.search_path", lambda: str(programs))
    tools._unpack_helm_kubectl(tmp_path)
    assert (tmp_path / "out" / "helm").readlink() == programs / "helm"
    assert (tmp_path / "out" / "kubectl").readlink() == programs / "kubectl"


def test_missing_program_is_named(arm: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("machine.environment.search_path", lambda: str(tmp_path))
    with pytest.raises(SetupFailed, match="helm is not installed"):
        tools._unpack_helm_kubectl(tmp_path)
