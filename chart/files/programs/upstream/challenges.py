"""What a registry says with status 401: by which scheme it wants to be told who asks (RFC 9110, section 11.6.1)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_WORD = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# A parameter of the scheme before it; a scheme, which has a blank or nothing behind it; or what is neither.
_PART = re.compile(
    rf'({_WORD})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_WORD}))[ \t]*(?=,|$)|({_WORD})(?=[ \t,]|$)|[^ \t,]+'
)


class Challenge(NamedTuple):
    """One scheme and its parameters; their names are in lower case."""

    scheme: str
    parameters: Mapping[str, str]


def parse(headers: Iterable[str]) -> list[Challenge]:
    """The challenges in the values of WWW-Authenticate, in their order; what is none is passed over."""
    found: list[Challenge] = []
    for header in headers:
        parameters: dict[str, str] = {}
        for match in _PART.finditer(header):
            name, quoted, plain, scheme = match.groups()
            if scheme:
                parameters = {}
                found.append(Challenge(scheme.lower(), parameters))
            elif name:
                parameters[name.lower()] = re.sub(r"\\(.)", r"\1", quoted) if plain is None else plain
    return found
