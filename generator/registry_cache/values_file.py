"""Values files: a commented one as text, and one that was read with the defaults filled in."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING, Any

import yaml

from registry_cache.model.values import Values
from registry_cache.schema import model_schema

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WIDTH = 118
CACHES_EXAMPLE = """# caches:
#   - upstream: docker.io
#     volume:
#       size: 20Gi
#   - upstream: registry.example.com
#     secretReferenceName: registry-example-com
"""
# Text that every reader of YAML takes for text. All other text is quoted: PyYAML would leave `y` and `1e3` bare, which
# Helm reads as true and 1000.
_BARE = re.compile(
    r"(?!(y|n|yes|no|on|off|true|false|null)$)[a-z/][a-z0-9._/:-]*[a-z0-9]|[0-9]+([mhs]|ms|[KMGT]i)", re.IGNORECASE
)


def values_text(header: str, values: dict[str, Any] | None = None) -> str:
    """Return the chart's values with a comment for each; `values` are merged into the defaults as Helm does it.

    A comment that stands above a value of the same name already, as for the images and for both kinds of pods, is not
    repeated.
    """
    lines = [f"# {line}" for line in header.splitlines()]
    written: set[str] = set()
    for name, schema in model_schema()["properties"].items():
        lines += ["", *_entry(name, schema, (values or {}).get(name, schema.get("default")), 0, written)]
        if name == "caches" and values is None:
            lines += CACHES_EXAMPLE.splitlines()
    return "\n".join(lines) + "\n"


def load_values(content: dict[str, Any]) -> Values:
    """Return the values of a valid values file (validation.find_problems) with the defaults filled in."""
    return Values.model_validate(_fill_in(content, model_schema()))


def dump(content: object, *, flow: bool = False) -> str:
    """Return YAML that Helm and PyYAML read alike."""
    return yaml.dump(
        content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100_000, default_flow_style=flow
    )


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - every value stands where it is used
        return True

    def represent_sequence(
        self,
        tag: str,
        sequence: Sequence[Any],  # type: ignore[override]  # a list
        flow_style: bool | None = None,  # noqa: FBT001 - PyYAML's
    ) -> yaml.SequenceNode:
        """Write a list of plain values on one line."""
        is_plain = not any(isinstance(one, dict | list) for one in sequence)
        return super().represent_sequence(tag, sequence, flow_style=is_plain or flow_style)


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style=None if _BARE.fullmatch(text) else '"'
    ),
)


def _fill_in(values: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    filled = {}
    for name, part in schema["properties"].items():
        value = values.get(name, part.get("default"))
        if "properties" in part:
            filled[name] = _fill_in(value or {}, part)
        else:
            filled[name] = _merge(part["default"], value) if "default" in part else value
    return filled


def _entry(
    name: str,
    schema: dict[str, Any],
    value: Any,  # noqa: ANN401 - any value
    indent: int,
    written: set[str],
) -> Iterator[str]:
    margin = " " * indent
    comment = f"{name}: {schema['description']}"
    is_new = comment not in written
    written.add(comment)
    if is_new:
        yield from _comment(f"-- {schema['description']}", margin)
    if "properties" in schema:
        yield f"{margin}{name}:"
        for key, part in schema["properties"].items():
            yield from _entry(key, part, (value or {}).get(key, part.get("default")), indent + 2, written)
        return
    value = _merge(schema["default"], value) if "default" in schema else value or []
    if value in ([], {}) and name != "caches" and is_new:
        yield from _comment(f"Example: {dump(schema['examples'][0], flow=True)}", margin)
    yield from textwrap.indent(dump({name: value}), margin).splitlines()


def _comment(text: str, margin: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"{margin}# ", subsequent_indent=f"{margin}# ")


def _merge(default: Any, value: Any) -> Any:  # noqa: ANN401 - any value
    """Merge as Helm does: mappings key by key, null takes a key away, all else replaces."""
    if not isinstance(default, dict) or not isinstance(value, dict):
        return value
    both = {key: _merge(default.get(key), part) for key, part in value.items()}
    return {key: part for key, part in {**default, **both}.items() if part is not None or key not in default}
