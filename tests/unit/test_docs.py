"""The documentation site builds without warnings, and every link to a file of the repository leads somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pytest
from machine.paths import REPOSITORY
from markdown import Markdown

if TYPE_CHECKING:
    from pathlib import Path

PAGES = sorted((REPOSITORY / "docs").rglob("*.md"))
DOCUMENTS = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "chart/README.md")),
    *PAGES,
]
# Documents outside of docs/ and pages on the site can refer to each other by these addresses only.
OURS = re.compile(r"https://github\.com/registry-cache/registry-cache/(?:blob|tree)/main/")
# What a browser loads when it opens a page, unlike what a person may follow.
LOADED = frozenset({"script", "img", "iframe"})
LOADED_LINKS = frozenset({"stylesheet", "icon", "preload", "preconnect", "modulepreload"})


class _Reader(HTMLParser):
    """The targets of links in HTML, those that a browser loads by itself, and the ids that links may lead to."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.loaded: set[str] = set()
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attributes if value}
        targets = {values[name] for name in ("href", "src") if name in values}
        self.targets |= targets
        if tag in LOADED or (tag == "link" and LOADED_LINKS & set(values.get("rel", "").split())):
            self.loaded |= targets
        if "id" in values:
            self.ids.add(values["id"])


@cache
def read(document: Path) -> _Reader:
    reader = _Reader()
    reader.feed(Markdown(extensions=["tables", "toc", "pymdownx.superfences"]).convert(document.read_text()))
    return reader


def problem_of(document: Path, target: str) -> str | None:
    """Return why a link to one of our own files leads nowhere, or None."""
    ours = OURS.match(target)
    if not ours and urlsplit(target).scheme:
        return None
    path, _, anchor = target.removeprefix(ours[0] if ours else "").partition("#")
    file = (REPOSITORY if ours else document.parent) / unquote(path) if path else document
    if not file.exists():
        return f"{target}: does not exist"
    if anchor and (file.suffix != ".md" or anchor not in read(file.resolve()).ids):
        return f"{target}: there is no such heading"
    return None


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_to_our_own_files_lead_somewhere(document: Path) -> None:
    assert [problem for target in sorted(read(document).targets) if (problem := problem_of(document, target))] == []


def test_wrong_links_are_found(tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    document.write_text(
        "# One title\n[a](#one-title) [b](#another) [c](document.md#one-title) [d](missing.md) "
        "[e](https://example.com/x) "
        "[f](https://github.com/registry-cache/registry-cache/blob/main/README.md#documentation) "
        "[g](https://github.com/registry-cache/registry-cache/blob/main/missing.md)\n"
    )
    wrong = {target for target in read(document).targets if problem_of(document, target)}
    assert wrong == {
        "#another",
        "missing.md",
        "https://github.com/registry-cache/registry-cache/blob/main/missing.md",
    }


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site; with `--strict`, a page outside of the navigation and a dead link are errors."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=REPOSITORY,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_site_has_every_page(site: Path) -> None:
    pages = {path.relative_to(REPOSITORY / "docs").with_suffix(".html") for path in PAGES}
    assert pages <= {path.relative_to(site) for path in site.rglob("*.html")}


def test_site_loads_nothing_from_other_hosts(site: Path) -> None:
    reader = _Reader()
    for page in site.rglob("*.html"):
        reader.feed(page.read_text())
    assert reader.loaded
    assert {target for target in reader.loaded if urlsplit(target).netloc} == set()


ODD = (REPOSITORY / "docs" / "odd-surroundings.md").read_text().splitlines()
ODD_ROWS = [line for line in ODD if line.startswith("| ") and not line.startswith(("| ---", "| what is odd"))]


@pytest.mark.parametrize("row", ODD_ROWS, ids=lambda row: row[2:40])
def test_what_is_odd_names_tests_that_exist(row: str) -> None:
    shown_by = row.rstrip("| ").rpartition(" | ")[2]
    files = re.findall(r"tests/[\w/]+\.py", shown_by)
    texts = [(REPOSITORY / file).read_text() for file in files]
    assert texts or "no test" in shown_by or "values.yaml" in shown_by
    for name in re.findall(r"`(test_\w+)`", shown_by):
        assert any(f"def {name}(" in text for text in texts), name
