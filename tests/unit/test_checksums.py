"""Only changes of code change the checksums of the programs."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
import yaml
from machine.paths import CHART
from registry_cache.checksums import checksums_text, code_of

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = '''"""A module."""

import os  # for the system


class One:
    """A class, with “quotes”."""

    def two(self) -> str:
        """A function.

        Raises:
            ValueError: never.
        """
        # why
        return "# no comment"  # é, and why
'''
CODE = """import os
class One:
    def two(self) -> str:
        return "# no comment"
"""


def test_comments_and_docstrings_are_not_code() -> None:
    assert code_of(SOURCE) == CODE


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        pytest.param("programs/fetching/fetches.py", '"""', '"""More. ', id="docstring"),
        pytest.param("programs/fetching/fetches.py", "\n# ", "\n# More.\n# ", id="comment"),
        pytest.param("front/nginx.conf", "\n# ", "\n# More.\n# ", id="comment of nginx"),
        pytest.param("distribution/distribution.yml", "# ", "# More. ", id="comment of distribution"),
    ],
)
def test_change_of_a_comment_changes_no_checksum(tmp_path: Path, file: str, old: str, new: str) -> None:
    before, after = _checksums_with(tmp_path, file, old, new)
    assert after == before


@pytest.mark.parametrize(
    ("file", "old", "new", "folder"),
    [
        pytest.param("programs/fetching/fetches.py", "import time", "import time, os", "programs/fetching", id="code"),
        pytest.param("front/nginx.conf", "sendfile on", "sendfile off", "front", id="nginx"),
        pytest.param("distribution/distribution.yml", "level: error", "level: info", "distribution", id="distribution"),
    ],
)
def test_change_of_code_changes_the_checksum_of_its_folder(
    tmp_path: Path, file: str, old: str, new: str, folder: str
) -> None:
    before, after = _checksums_with(tmp_path, file, old, new)
    assert {name for name in before if before[name] != after[name]} == {folder}


def _checksums_with(work: Path, file: str, old: str, new: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the checksums of the chart's folders, before and after a change in one file."""
    files = shutil.copytree(CHART / "files", work / "files")
    before = yaml.safe_load(checksums_text(files))
    text = (files / file).read_text()
    assert old in text
    (files / file).write_text(text.replace(old, new, 1))
    return before, yaml.safe_load(checksums_text(files))
