"""Text that others wrote, made safe for comments and messages."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

MAX_TEXTS = 5
MAX_CHARACTERS = 100


def printable(text: str) -> str:
    """Return a text that can neither end a comment nor be unprintable or long."""
    plain = text if re.fullmatch("[!-~]+", text) else ascii(text[:MAX_CHARACTERS])
    return plain if len(plain) <= MAX_CHARACTERS else f"{plain[:MAX_CHARACTERS]}..."


def join_some(texts: Collection[str]) -> str:
    """Return the first few of some texts, and how many more there are."""
    more = f" and {len(texts) - MAX_TEXTS} more" if len(texts) > MAX_TEXTS else ""
    return ", ".join(map(printable, sorted(texts)[:MAX_TEXTS])) + more
