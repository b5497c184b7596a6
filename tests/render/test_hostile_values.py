"""No text of the values becomes anything but text: not another type, another key, a template or a second document.

Each text of the values file that has every value is replaced, one kind of hostile text at a time, wherever the schema
accepts it. Both renderings then have the same objects, keys and types.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import yaml
from machine.paths import CHART
from rendering import EVERYTHING, Strict, render_text, written

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Place = tuple[str | int, ...]
# Text that YAML 1.1 or 1.2, Go's YAML, Helm's templates or a shell take for something else.
HOSTILE = {
    "boolean": "yes",
    "null": "null",
    "number": "1e3",
    "octal": "010",
    "sexagesimal": "12:34:56",
    "date": "2001-01-01",
    "mapping": "a: b",
    "quotes": "\"a' b",
    "backslashes": "\\n\\x41\\",
    "flow": "]}{[",
    "anchor": "&a",
    "tag": "!!binary a",
    "reserved": "@a`",
    "document": "---\nkind: Secret",
    "lines": "a\n  b: c\nd: e",
    "spaces": "  a  ",
    "template": "{{ .Release.Name }}",
    "shell": "$(id) `id` ; id",
    "unicode": "\u2028b: c\u0085d\u00a0\ufeff",
}
# Its text is a template or an object of the user's, who may write what they like. Another name gives other objects, and
# an upstream is a name in several places, and a size has limits that the schema does not know.
# The Secret of one certificate must not be that of another one, and the chart checks the format itself.
TAKEN_AS_THEY_ARE = {
    *("apiVersion", "clientSecretName", "extraObjects", "fullnameOverride", "kind", "nameOverride", "size"),
    "upstream",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_stays_text(kind: str, tmp_path: Path) -> None:
    values = with_hostile_text(HOSTILE[kind])
    objects = [one for one in yaml.load_all(render_text(written(tmp_path, values)), Loader=Strict) if one]
    assert shapes(objects) == shapes_without()
    template = next(one for one in objects if one["kind"] == "StatefulSet")["spec"]["template"]
    # Helm writes U+0085 as it is, and YAML reads it as a line break in text, which becomes a space.
    assert template["metadata"]["annotations"]["note"] == HOSTILE[kind].replace("\u0085", " ")


def with_hostile_text(text: str) -> dict[str, Any]:
    """Return the values with the text wherever the schema accepts it."""
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    values = merged(defaults, yaml.safe_load(EVERYTHING.read_text()))
    assert validator().is_valid(values)
    before = dict(text_places(values))
    for place in before:
        put(values, place, text)
    while refused := [tuple(error.absolute_path) for error in validator().iter_errors(values)]:
        for place, original in before.items():
            if any(place[: len(path)] == path for path in refused):
                put(values, place, original)
    values["cachePods"]["podSecurityContext"]["fsGroup"] = None
    return values


def merged(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """Return what Helm makes of two values files before it looks at the schema: without the keys that are null."""
    both = {**base, **top}
    for key in set(base) & set(top):
        if isinstance(base[key], dict) and isinstance(top[key], dict):
            both[key] = merged(base[key], top[key])
    return {key: value for key, value in both.items() if value is not None}


@functools.cache
def shapes_without() -> list[str]:
    return shapes(list(yaml.safe_load_all(render_text(EVERYTHING))))


def text_places(value: Any, place: Place = ()) -> Iterator[tuple[Place, str]]:
    """Yield the places of all text in the values, and the text."""
    if isinstance(value, str):
        yield place, value
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        if key not in TAKEN_AS_THEY_ARE:
            yield from text_places(entry, (*place, key))


def put(values: Any, place: Place, text: str) -> None:
    for key in place[:-1]:
        values = values[key]
    values[place[-1]] = text


@functools.cache
def validator() -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator(json.loads((CHART / "values.schema.json").read_text()))


def shapes(objects: list[Any]) -> list[str]:
    return sorted(json.dumps(shape(one), sort_keys=True) for one in objects if one)


def shape(value: Any) -> Any:
    """Return a value with its keys, and the types of what is below them; equal entries of a list count once."""
    if isinstance(value, dict):
        return {key: shape(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return sorted({json.dumps(shape(entry), sort_keys=True) for entry in value})
    return type(value).__name__
