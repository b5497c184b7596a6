"""values.schema.json, made from the model: draft-07, which every Helm and every editor understands."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from registry_cache.model import Values

DRAFT = "http://json-schema.org/draft-07/schema#"


@cache
def values_schema() -> dict[str, Any]:
    """The schema of a values file, and so of a RegistryConfig."""
    made = Values.model_json_schema()
    definitions = made.pop("$defs")
    schema = _inline(made, definitions)
    schema["properties"]["global"] = {
        "type": "object",
        "description": "Not used; Helm sets it where this chart is a dependency.",
    }
    schema["properties"]["enabled"] = {
        "type": "boolean",
        "description": "Not used; the condition under which a parent chart takes this one.",
    }
    return {"$schema": DRAFT, "title": "Values of registry-cache", **schema}


def schema_text() -> str:
    """The schema as it is committed."""
    return json.dumps(values_schema(), indent=2, ensure_ascii=False) + "\n"


def _inline(node: Any, definitions: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
    """Put definitions where they are used, so that each path of a document has its own schema, and tidy them."""
    if isinstance(node, list):
        return [_inline(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: value for key, value in node.items() if not _is_made_title(key, value)}
    # An optional field is one that may be left out: there is no null to write.
    options = node.get("anyOf", [])
    if {"type": "null"} in options:
        (only,) = [option for option in options if option != {"type": "null"}]
        del node["anyOf"]
        node = {**_inline(only, definitions), **node}
    if "$ref" in node:
        definition = definitions[node.pop("$ref").rpartition("/")[2]]
        node = {**_inline(definition, definitions), **node}
    # A value of two types: the keywords of each apply to it alone.
    options = node.get("anyOf", [])
    if options and all("type" in option for option in options):
        del node["anyOf"]
        types = [option["type"] for option in options]
        node = {"type": types, **{key: option[key] for option in options for key in option if key != "type"}, **node}
    if node.get("default", 0) is None:
        del node["default"]
    for key in ("properties", "patternProperties"):
        if key in node:
            node[key] = {name: _inline(value, definitions) for name, value in node[key].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            node[key] = _inline(node[key], definitions)
    return node


def _is_made_title(key: str, value: object) -> bool:
    """Whether it is pydantic's title, made of the field's name; ours are phrases and begin in lower case."""
    return key == "title" and isinstance(value, str) and value[:1].isupper()
