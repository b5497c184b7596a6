"""Problems of documents, and their text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry_cache.document import quote_value

if TYPE_CHECKING:
    from registry_cache.document import Document, Key


@dataclass(frozen=True)
class Finding:
    """A problem at a path of a document: the reason, which the chart gives too, and perhaps a suggestion."""

    path: Key
    reason: str
    suggestion: str = ""


@dataclass(frozen=True)
class Problem:
    """A problem of a file: on one line, or of the file as a whole."""

    line: int | None
    path: str
    reason: str
    suggestion: str = ""

    @classmethod
    def of(cls, document: Document, finding: Finding) -> Problem:
        """Return a finding with its place in the file that the document is a part of."""
        path = path_text(document.inside + finding.path)
        return cls(document.line(finding.path), path, finding.reason, finding.suggestion)

    @property
    def text(self) -> str:
        """The reason and the suggestion."""
        return f"{self.reason}; {self.suggestion}" if self.suggestion else self.reason

    def __str__(self) -> str:
        """`line 7: caches[1].upstream: …`."""
        parts = [f"line {self.line}" if self.line else "", self.path, self.text]
        return ": ".join(part for part in parts if part)

    def as_json(self) -> dict[str, object]:
        """Return the problem for machines."""
        return {"line": self.line, "path": self.path, "problem": self.text}


def path_text(path: Key) -> str:
    """Return a path as a person writes it: `caches[1].upstream`, and `commonLabels["example.com/team"]`."""
    text = ""
    for part in path:
        is_word = isinstance(part, str) and re.fullmatch("[A-Za-z0-9_-]{1,60}", part)
        text += f".{part}" if is_word else f"[{quote_value(part)}]"
    return text.removeprefix(".")
