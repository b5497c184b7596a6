"""Everything that a person reads uses the words of CONTRIBUTING.md, each for one thing only."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from machine.paths import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTRIBUTING = REPOSITORY / "CONTRIBUTING.md"
TABLES = re.compile(r"^\| (?:word \| meaning \| do not write|do not write \| but) \|\n(?:\|.*\n)+", re.MULTILINE)
# A line of a table of words has its phrases in the last column, and one of phrases in the first.
ROW = re.compile(r"^\| (?:[^|]* \| [^|]* \| (?P<last>`[^|]*)|(?P<first>`[^|]*) \| [^|]*) \|$", re.MULTILINE)
# The end of a line, with the beginning of the next line of a comment.
LINE_BREAK = re.compile(r"\s*\n\s*(?:#+ ?|// ?)?")
BINARY = frozenset({".svg", ".png"})
# The text of ECONNRESET, which is not ours.
QUOTED = "connection reset by peer"


def banned_phrases() -> list[str]:
    rows = ROW.finditer("".join(TABLES.findall(CONTRIBUTING.read_text())))
    return [phrase for row in rows for phrase in re.findall("`([^`]+)`", row["last"] or row["first"])]


def pattern(phrases: list[str]) -> re.Pattern[str]:
    """Return a pattern for phrases in prose, which finds none of them as a part of a path or of an object's name."""
    words = "|".join(re.escape(phrase) for phrase in phrases)
    return re.compile(rf"(?<![\w./-])(?:{words})s?(?![\w/-]|\.\w)", re.IGNORECASE)


def committed_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    files = [REPOSITORY / name for name in listed.stdout.splitlines()]
    return [file for file in files if file.is_file() and file.suffix not in BINARY and file != Path(__file__)]


def prose(file: Path) -> str:
    """Return what a person reads in a file, without line breaks."""
    text = TABLES.sub("", file.read_text()) if file == CONTRIBUTING else file.read_text()
    return LINE_BREAK.sub(" ", "\n".join(_of_python(text)) if file.suffix == ".py" else text).replace(QUOTED, "")


def _of_python(text: str) -> Iterator[str]:
    """Yield comments, texts, and the names of functions, in which underscores stand for spaces."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield f'"{node.value}"'
        elif isinstance(node, ast.FunctionDef):
            yield f"({node.name.replace('_', ' ')})"


@pytest.fixture(scope="module")
def found() -> dict[str, list[str]]:
    banned = pattern(banned_phrases())
    hits: dict[str, list[str]] = {}
    for file in committed_files():
        text = prose(file)
        for match in banned.finditer(text):
            hits.setdefault(str(file.relative_to(REPOSITORY)), []).append(
                text[max(0, match.start() - 40) : match.end() + 40]
            )
    return hits


def test_no_text_uses_another_word_for_something_that_has_one(found: dict[str, list[str]]) -> None:
    assert found == {}


def test_rule_for_the_subject_of_a_commit_is_stated() -> None:
    assert "at most 72 characters" in CONTRIBUTING.read_text()


def test_table_of_words_is_read() -> None:
    phrases = banned_phrases()
    assert {"peer", "registry folder", "pull through cache", "upon which"} <= set(phrases)
    assert len(phrases) == len(set(phrases))


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("Asks the peers first.", True),
        ("the registry\n    # folder", True),
        ("A peer.", True),
        ("<name>-peers, peers-service.yaml, a/peer/b, peer.example.com, peer_address, speers", False),
    ],
)
def test_phrases_are_found_in_prose_alone(text: str, *, is_found: bool) -> None:
    assert bool(pattern(["peer", "registry folder"]).search(LINE_BREAK.sub(" ", text))) is is_found
