"""How a registry asks for authentication in an answer with status 401 (RFC 9110, section 11.6.1)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_WORD = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# A parameter of the scheme before it; or a scheme, which is followed by a blank or nothing; or something else.
_PART = re.compile(
    rf'({_WORD})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_WORD}))[ \t]*(?=,|$)|({_WORD})(?=[ \t,]|$)|[^ \t,]+'
)


class Challenge(NamedTuple):
    """A scheme and its parameters; the scheme and the names of parameters are in lower case."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """Return the challenges in the values of WWW-Authenticate, in their order, skipping anything else."""
    challenges: list[Challenge] = []
    for header in headers:
        parameters: dict[str, str] = {}
        for match in _PART.finditer(header):
            name, quoted, plain, scheme = match.groups()
            if scheme:
                parameters = {}
                challenges.append(Challenge(scheme.lower(), parameters))
            elif name:
                parameters[name.lower()] = re.sub(r"\\(.)", r"\1", quoted) if plain is None else plain
    return challenges
