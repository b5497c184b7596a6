"""What a recognized document is, and access to parts of any document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection

    from registry_cache.document import Document
    from registry_cache.foreign.mirrors import Mirrors


@dataclass(frozen=True)
class Recognized:
    """A foreign document: what it is, and the registries that it names, or the part of it that is one of ours.

    `hint` says where the registries are if it names none that can have a cache.
    """

    title: str
    content: Mirrors | Document
    hint: str = ""


def at(content: object, *path: str) -> Any:  # noqa: ANN401 - any document
    """Return the value at a path, or None if there is none."""
    for key in path:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def mapping(content: object, *path: str) -> dict[str, Any]:
    """Return the mapping at a path, or an empty one if there is none."""
    value = at(content, *path)
    return value if isinstance(value, dict) else {}


def mappings(content: object) -> list[dict[str, Any]]:
    """Return the mappings of a list; there may be no list."""
    return [one for one in (content if isinstance(content, list) else []) if isinstance(one, dict)]


def texts(content: object) -> list[str]:
    """Return the texts of a list, or a single text; there may be neither."""
    values = content if isinstance(content, list) else [content]
    return [one for one in values if isinstance(one, str)]


def has_any(content: object, keys: Collection[str]) -> bool:
    """Return whether a mapping has one of some keys, with a value."""
    return any(mapping(content).get(key) not in (None, "", [], {}) for key in keys)
