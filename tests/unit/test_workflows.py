"""GitHub's workflows: pinned actions, least permissions, and steps that people can run too."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from machine import check_workflows
from machine.paths import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

WORKFLOWS = sorted((REPOSITORY / ".github/workflows").glob("*.yaml"))
DOCUMENTS = {path.stem: yaml.safe_load(path.read_text()) for path in WORKFLOWS}
JOBS = {f"{stem}-{name}": job for stem, document in DOCUMENTS.items() for name, job in document["jobs"].items()}
each_file = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
each_job = pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)


def test_actionlint_finds_nothing() -> None:
    assert check_workflows.main() == 0


@each_file
def test_actions_are_pinned_by_commit_with_the_version_beside_it(path: Path) -> None:
    lines = [line.strip() for line in path.read_text().splitlines() if "uses:" in line]
    assert lines
    for line in lines:
        assert re.fullmatch(r"- uses: [\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


@each_file
def test_workflow_gives_no_permission_to_all_jobs(path: Path) -> None:
    assert DOCUMENTS[path.stem]["permissions"] == {}


@each_job
def test_job_has_a_deadline_and_permissions_of_its_own(job: dict[str, Any]) -> None:
    assert job["timeout-minutes"] <= 120
    assert job["permissions"]["contents"]


def test_only_publishing_may_write() -> None:
    writing = {name for name, job in JOBS.items() if "write" in job["permissions"].values()}
    assert writing == {"release-publish"}


@each_job
def test_checkout_leaves_no_credentials(job: dict[str, Any]) -> None:
    for step in job["steps"]:
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


@each_job
def test_expressions_reach_commands_as_variables_only(job: dict[str, Any]) -> None:
    """An expression inside a command would become part of the shell's text."""
    assert [step["run"] for step in job["steps"] if "${{" in step.get("run", "")] == []


@each_job
def test_make_targets_exist(job: dict[str, Any]) -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    for step in job["steps"]:
        if target := re.match(r"make ([a-z-]+)", step.get("run", "")):
            assert re.search(rf"^{target[1]}:", makefile, re.MULTILINE), target[1]


def test_matrix_has_the_last_four_versions_of_kubernetes_and_each_family() -> None:
    matrix = JOBS["ci-kind"]["strategy"]["matrix"]
    minors = [int(re.match(r"v1\.(\d+)\.", node)[1]) for node in matrix["node"]]  # type: ignore[index]
    assert minors == list(range(minors[0], minors[0] - 4, -1))
    assert matrix["family"] == ["ipv4", "ipv6", "dual"]
    assert all("@sha256:" in node for node in matrix["node"])
