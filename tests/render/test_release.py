"""A release is the same bytes each time, and consists of what its documents say."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from typing import TYPE_CHECKING

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from machine import tools
from machine.paths import REPOSITORY
from made_releases import TAG, VERSION, git, made_repository, written_values
from packaging.requirements import Requirement
from publishing import CannotRelease, build
from publishing.bill_of_materials import COMPONENTS
from publishing.source import Source, export_tag, release_notes
from registry_cache.model.pods import Images
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

if TYPE_CHECKING:
    from pathlib import Path

PACKAGE = f"registry-cache-{VERSION}.tgz"
WHEEL = f"registry_cache-{VERSION}-py3-none-any.whl"
SPDX = f"registry-cache-{VERSION}.spdx.json"
CYCLONEDX = f"registry-cache-{VERSION}.cdx.json"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="module")
def source(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Source:
    return export_tag(repository, TAG, tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def release(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a release that need no registry."""
    folder = tmp_path_factory.mktemp("release")
    build.build_files(source, folder)
    build.write_checksums(folder)
    return folder


def checksums(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_two_builds_are_the_same_bytes(repository: Path, release: Path, tmp_path: Path) -> None:
    """The second build is in another folder, from a clone with files of another time and another umask."""
    git(tmp_path, "clone", "--quiet", str(repository), "clone")
    before = os.umask(0o077)
    try:
        again = export_tag(tmp_path / "clone", TAG, tmp_path / "a folder with spaces")
        build.build_files(again, tmp_path / "out")
    finally:
        os.umask(before)
    build.write_checksums(tmp_path / "out")
    assert checksums(tmp_path / "out") == checksums(release)


def test_release_has_these_files(release: Path) -> None:
    assert sorted(checksums(release)) == sorted(
        [
            "SHA256SUMS",
            "release-notes.md",
            "values.schema.json",
            PACKAGE,
            SPDX,
            CYCLONEDX,
            WHEEL,
            f"registry_cache-{VERSION}.tar.gz",
        ]
    )


def test_checksums_are_verified_by_sha256sum(release: Path, tmp_path: Path) -> None:
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    assert subprocess.run(command, cwd=release, capture_output=True, check=False).returncode == 0
    damaged = shutil.copytree(release, tmp_path / "damaged")
    (damaged / "values.schema.json").write_text("{}")
    assert subprocess.run(command, cwd=damaged, capture_output=True, check=False).returncode != 0


def test_package_has_the_files_of_the_tag_and_no_other(repository: Path, release: Path) -> None:
    tracked = set(git(repository, "ls-files", "chart").split())
    with tarfile.open(release / PACKAGE) as archive:
        packaged = {name.replace("registry-cache/", "chart/", 1) for name in archive.getnames()}
        assert {entry.mtime for entry in archive} == {1767323045}
    assert packaged == {name for name in tracked if not name.startswith("chart/ci/")}


def test_package_renders_what_the_repository_renders(release: Path, tmp_path: Path) -> None:
    values = written_values(tmp_path)
    rendered = [
        subprocess.run(
            [tools.helm(), "template", "x", chart, "--values", values], capture_output=True, text=True, check=True
        ).stdout
        for chart in (release / PACKAGE, REPOSITORY / "chart")
    ]
    assert rendered[0] == rendered[1]


def test_wheel_generates_a_chart_without_the_repository(release: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(release / WHEEL) as wheel:
        wheel.extractall(tmp_path / "installed")  # noqa: S202 - we made it
    command = [sys.executable, "-m", "registry_cache", "generate", written_values(tmp_path), "--output", tmp_path / "c"]
    done = subprocess.run(
        command, env={"PYTHONPATH": str(tmp_path / "installed")}, capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "c" / "templates").is_dir()


def test_bill_of_materials_is_valid_spdx(release: Path) -> None:
    document = parse_file(str(release / SPDX))
    assert validate_full_spdx_document(document) == []
    assert {"distribution", "nginx", "python", "pydantic"} <= {package.name for package in document.packages}


def test_bill_of_materials_is_valid_cyclonedx(release: Path) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str((release / CYCLONEDX).read_text()) is None


def test_bill_of_materials_has_the_images_of_the_values(release: Path) -> None:
    listed = json.loads((release / CYCLONEDX).read_text())["components"]
    images = {one["name"]: one["version"] for one in listed if one["type"] == "container"}
    assert images == {name: image.tag.partition("@")[0] for name, image in Images()}
    addresses = {one["name"]: one["purl"] for one in listed if one["type"] == "container"}
    assert all("@sha256%3A" in address for address in addresses.values())


def test_list_of_components_has_every_direct_dependency() -> None:
    listed = tomllib.loads((REPOSITORY / COMPONENTS).read_text())
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    for requirement in map(Requirement, declared):
        assert requirement.specifier.contains(listed["packages"][requirement.name]["version"]), requirement.name
    assert set(listed["images"]) == {name for name, _ in Images()}


@pytest.mark.parametrize(
    ("changelog", "notes"),
    [
        (
            "# C\n\n## 1.2.3\n\n- One.\n\n### Changed\n\n- Two.\n\n## 1.2.2\n\n- x\n",
            "- One.\n\n### Changed\n\n- Two.\n",
        ),
        ("## Unreleased\n\n- Zero.\n\n## [1.2.3] - 2026-01-02\n- One.\n", "- One.\n"),
    ],
)
def test_release_notes_are_the_section_of_the_version(changelog: str, notes: str) -> None:
    assert release_notes(changelog, "1.2.3") == notes


@pytest.mark.parametrize("changelog", ["## Unreleased\n- One.\n", "## 1.2.3\n\n## 1.2.2\n- x\n", "## 1.2.30\n- x\n"])
def test_version_without_release_notes_is_refused(changelog: str) -> None:
    with pytest.raises(CannotRelease, match=re.escape("write `## 1.2.3` above the changes")):
        release_notes(changelog, "1.2.3")


def test_tag_with_another_version_than_the_chart_is_refused(repository: Path, tmp_path: Path) -> None:
    git(repository, "tag", "--force", "v99.0.0")
    with pytest.raises(CannotRelease, match=r"Chart.yaml: version is .*, not 99.0.0"):
        export_tag(repository, "v99.0.0", tmp_path)


def test_missing_tag_is_refused(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(CannotRelease, match=r"v98\.0\.0"):
        export_tag(repository, "v98.0.0", tmp_path)


def test_page_about_licenses_has_every_component() -> None:
    listed = tomllib.loads((REPOSITORY / COMPONENTS).read_text())
    page = (REPOSITORY / "docs/reference/licenses.md").read_text()
    for name, image in listed["images"].items():
        assert f"| {name} | {image['license']} |" in page
    for name, package in listed["packages"].items():
        assert re.search(rf"\| {re.escape(package['license'])} \|.* {re.escape(name)}[, ]", page), name
