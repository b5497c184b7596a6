"""A git repository with a tag that can be released, made from the files of this one."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING

import yaml
from machine import tools
from machine.paths import CHART, REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

VERSION = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
TAG = f"v{VERSION}"
TIME = "2026-01-02T03:04:05+00:00"
AUTHOR = {
    f"GIT_{role}_{name}": value
    for role in ("AUTHOR", "COMMITTER")
    for name, value in (("NAME", "nobody"), ("EMAIL", "nobody@example.com"), ("DATE", TIME))
}


def made_repository(folder: Path) -> Path:
    """Create a repository with the committed files as they are now, a section about the version, and its tag."""
    listed = git(REPOSITORY, "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, folder / name)
    changelog = folder / "CHANGELOG.md"
    changelog.write_text(changelog.read_text().replace("## Unreleased", f"## {VERSION}", 1))
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=A release")
    git(folder, "tag", TAG)
    return folder


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env=tools.program_environment(**AUTHOR, GIT_CONFIG_COUNT="0"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def written_values(folder: Path) -> Path:
    """Write the smallest values file."""
    path = folder / "values.yaml"
    path.write_text(json.dumps({"caches": [{"upstream": "docker.io"}]}))
    return path
