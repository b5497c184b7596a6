"""The credentials helper: whatever a Secret holds arrives unharmed, in the shell of the stock image (BusyBox)."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest
from testcluster import tools
from testcluster.paths import CHART

if TYPE_CHECKING:
    from pathlib import Path

HELPER = CHART / "files" / "cache" / "credentials"


@pytest.fixture(scope="module")
def busybox() -> Path:
    """BusyBox, of the version that the test cluster's images have."""
    tools.ensure_registry()
    return tools.debian_root() / "bin" / "busybox"


def ask(busybox: Path, folder: Path) -> dict[str, str]:
    """What the helper prints, run with BusyBox's own tools alone."""
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    for name in ("sh", "awk", "cat"):
        (bin_folder / name).symlink_to(busybox)
    done = subprocess.run(
        [str(bin_folder / "sh"), str(HELPER), "get"],
        input="registry-1.docker.io",
        env={"PATH": str(bin_folder), "CREDENTIALS_FOLDER": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    made: dict[str, str] = json.loads(done.stdout)
    return made


@pytest.mark.parametrize(
    "value",
    [
        "plain",
        "@name",
        "*",
        "&anchor",
        'quote"d',
        "quote'd",
        "back\\slash\\n",
        "$HOME $(id) `id` ${x}",
        "tab\there",
        "line\nbreak",
        "two\n\nbreaks",
        " space around ",
        "ünï→🔑",
        "\x01\x1f\x7f",
        "%s%d",
        "{}[]:#,",
        "-n",
        "x" * 4096,
        "0",
    ],
)
def test_every_character_arrives(busybox: Path, tmp_path: Path, value: str) -> None:
    (tmp_path / "username").write_bytes(b"name")
    (tmp_path / "password").write_bytes(value.encode())
    assert ask(busybox, tmp_path) == {"ServerURL": "registry-1.docker.io", "Username": "name", "Secret": value}


def test_newline_at_the_end_is_dropped(busybox: Path, tmp_path: Path) -> None:
    (tmp_path / "username").write_bytes(b"name\n")
    (tmp_path / "password").write_bytes(b"word\n")
    assert ask(busybox, tmp_path)["Username"] == "name"


def test_without_a_secret_both_are_empty(busybox: Path, tmp_path: Path) -> None:
    assert ask(busybox, tmp_path) == {"ServerURL": "registry-1.docker.io", "Username": "", "Secret": ""}
