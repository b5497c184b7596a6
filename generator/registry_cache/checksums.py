"""Checksums of the code that the pods run. They are annotations of the pods, so a change of the code restarts them.

Comments, docstrings and empty lines do not count, so a corrected comment restarts no cache.
"""

from __future__ import annotations

import ast
import io
import tokenize
from hashlib import sha256
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOLDERS = ("front", "distribution", "programs/*")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
HEADER = "# Made by `make generate`: what changes here restarts the pods.\n"


def checksums_text(files: Path) -> str:
    """Return the checksum of each directory of code in chart/files, as chart/templates/_programs.tpl reads it."""
    folders = [folder for pattern in FOLDERS for folder in sorted(files.glob(pattern)) if folder.is_dir()]
    return HEADER + yaml.safe_dump({str(folder.relative_to(files)): _checksum(folder) for folder in folders})


def _checksum(folder: Path) -> str:
    digest = sha256()
    for path in sorted(folder.glob("*.*")):
        text = path.read_text(encoding="utf-8")
        digest.update(f"{path.name}\n{code_of(text) if path.suffix == '.py' else without_comment_lines(text)}".encode())
    return digest.hexdigest()


def code_of(source: str) -> str:
    """Return Python code without comments, docstrings and empty lines."""
    lines = source.encode().splitlines()
    for (first_line, first), (last_line, last) in sorted([*_docstrings(source), *_comments(source)], reverse=True):
        rest = lines[last_line - 1][last:]
        lines[first_line - 1 : last_line] = [lines[first_line - 1][:first] + rest]
    return "".join(f"{line.decode().rstrip()}\n" for line in lines if line.strip())


def without_comment_lines(text: str) -> str:
    """Return a configuration file without comment lines and empty lines."""
    return "".join(line for line in text.splitlines(keepends=True) if line.strip() and line.lstrip()[0] != "#")


Place = tuple[int, int]
"""A line, from 1, and a byte in it, from 0."""


def _docstrings(source: str) -> Iterator[tuple[Place, Place]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            found = node.body[0]
            assert found.end_lineno is not None  # noqa: S101 - a parsed statement has an end
            assert found.end_col_offset is not None  # noqa: S101
            yield (found.lineno, found.col_offset), (found.end_lineno, found.end_col_offset)


def _comments(source: str) -> Iterator[tuple[Place, Place]]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line = token.line.encode()
            first = len(token.line[: token.start[1]].encode())
            yield (token.start[0], first), (token.start[0], len(line.rstrip(b"\n")))
