"""The files of a tag, without anything else that is in the working tree."""

from __future__ import annotations

import io
import os
import re
import subprocess
import tarfile
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml
from machine import tools

from publishing import CannotRelease

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Source:
    """The files of a release; `epoch` is the time of its commit, which is the only time in what is built from it."""

    folder: Path
    version: str
    commit: str
    epoch: int

    @property
    def chart(self) -> Path:
        return self.folder / "chart"


def export_tag(repository: Path, tag: str, folder: Path) -> Source:
    """Write the files of a tag into `folder`, each with the time of the tag's commit.

    Raises:
        CannotRelease: There is no such tag, or a file has another version than the tag.
    """
    commit, seconds = _git(repository, "log", "-1", "--format=%H %ct", f"refs/tags/{tag}").decode().split()
    with tarfile.open(fileobj=io.BytesIO(_git(repository, "archive", commit))) as archive:
        archive.extractall(folder, filter="data")
    # `git archive` gives each file the time of the commit, but a folder gets the time at which it was filled.
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (int(seconds), int(seconds)), follow_symlinks=False)
    version = tag.removeprefix("v")
    _check_versions(folder, version)
    return Source(folder, version, commit, int(seconds))


def release_notes(changelog: str, version: str) -> str:
    """Return the section of CHANGELOG.md about a version, without its heading.

    Raises:
        CannotRelease: There is no such section, or it is empty.
    """
    heading = rf"^## \[?{re.escape(version)}\]?(?: [^\n]*)?\n"
    match = re.search(rf"{heading}(?P<notes>.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    notes = match["notes"].strip() if match else ""
    if not notes:
        message = f"CHANGELOG.md has no text about {version}: write `## {version}` above the changes of the release"
        raise CannotRelease(message)
    return f"{notes}\n"


def _check_versions(folder: Path, version: str) -> None:
    chart = yaml.safe_load((folder / "chart" / "Chart.yaml").read_text())
    package = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    versions = {
        "chart/Chart.yaml: version": chart["version"],
        "chart/Chart.yaml: appVersion": chart["appVersion"],
        "pyproject.toml: project.version": package["version"],
    }
    wrong = [f"{name} is {found}, not {version}" for name, found in versions.items() if found != version]
    if wrong:
        raise CannotRelease("\n".join(wrong))


def _git(repository: Path, *arguments: str) -> bytes:
    command = ["git", "-c", "core.abbrev=no", *arguments]
    done = subprocess.run(command, cwd=repository, env=tools.program_environment(), capture_output=True, check=False)
    if done.returncode != 0:
        message = f"git {' '.join(arguments)}: {done.stderr.decode(errors='replace').strip()}"
        raise CannotRelease(message)
    return done.stdout
