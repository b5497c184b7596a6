"""A generated chart is the project's chart with the configuration in it: the same manifests as with --values."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from registry_cache import cli
from rendering import SCENARIOS, render, render_text
from testcluster import tools

if TYPE_CHECKING:
    from pathlib import Path


def generated(scenario: Path, tmp_path: Path, name: str) -> Path:
    chart = tmp_path / name
    assert cli.main(["generate", str(scenario), "--output", str(chart), "--name", name]) == 0
    return chart


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.stem)
def test_generated_chart_renders_what_the_chart_renders_with_the_document(scenario: Path, tmp_path: Path) -> None:
    chart = generated(scenario, tmp_path, "registry-cache")
    nothing = tmp_path / "nothing.yaml"
    nothing.write_text("")
    text = render_text(nothing, chart=chart)
    version = next(line for line in (chart / "Chart.yaml").read_text().splitlines() if line.startswith("version:"))
    label = version.split('"')[1].replace("+", "_")
    assert text.replace(label, label.split("_")[0]) == render_text(scenario)


def test_generated_chart_passes_lint_and_renders_under_its_own_name(tmp_path: Path) -> None:
    chart = generated(SCENARIOS[-1], tmp_path, "my-caches")
    nothing = tmp_path / "nothing.yaml"
    nothing.write_text("")
    subprocess.run([tools.helm(), "lint", "--strict", chart], check=True, capture_output=True)
    assert all(
        one["metadata"]["name"].startswith("my-caches-") for one in render(nothing, release="my-caches", chart=chart)
    )
