"""Writes a commented values file, with the defaults or with a configuration in them."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import yaml

from registry_cache.schema import values_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH = 118
CACHES_EXAMPLE = """# caches:
#   - upstream: docker.io
#     volume:
#       size: 20Gi
#   - upstream: registry.example.com
#     secretReferenceName: registry-example-com
"""


def values_text(header: str, values: dict[str, Any] | None = None) -> str:
    """The chart's values with a comment for each; `values` replace the defaults, value by value."""
    lines = [f"# {line}" for line in header.splitlines()]
    for name, schema in values_schema()["properties"].items():
        if name in ("global", "enabled"):
            continue
        lines += ["", *_entry(name, schema, (values or {}).get(name, _MISSING), 0)]
        if name == "caches" and values is None:
            lines += CACHES_EXAMPLE.splitlines()
    return "\n".join(lines) + "\n"


_MISSING = object()


def _entry(name: str, schema: dict[str, Any], value: object, indent: int) -> Iterator[str]:
    margin = " " * indent
    description = schema["description"]
    yield from textwrap.wrap(
        f"-- {description}", WIDTH - indent, initial_indent=f"{margin}# ", subsequent_indent=f"{margin}# "
    )
    default = schema.get("default", [] if schema.get("type") == "array" else _MISSING)
    if "properties" in schema and schema.get("additionalProperties") is False:
        yield f"{margin}{name}:"
        given = value if isinstance(value, dict) else {}
        for key, part in schema["properties"].items():
            own = default.get(key, part.get("default")) if isinstance(default, dict) else part.get("default")
            yield from _entry(key, part, given.get(key, own), indent + 2)
        return
    text = yaml.safe_dump(
        {name: default if value is _MISSING else value}, sort_keys=False, allow_unicode=True, width=1000
    )
    yield from textwrap.indent(text, margin).splitlines()
