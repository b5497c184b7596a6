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
        "examples": [{}],
    }
    schema["properties"]["enabled"] = {
        "type": "boolean",
        "description": "Not used; the condition under which a parent chart takes this one.",
        "examples": [True],
    }
    return {"$schema": DRAFT, "title": "a mapping with the key caches", **schema}


def schema_text() -> str:
    """The schema as it is committed."""
    return json.dumps(values_schema(), indent=2, ensure_ascii=False) + "\n"


def _inline(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Put definitions where they are used, so that each path of a document has its own schema, and tidy them."""
    node = {key: value for key, value in node.items() if not _is_made_title(key, value)}
    node = _one_of_two_types(_without_null(node))
    if "$ref" in node:
        node = {**definitions[node.pop("$ref").rpartition("/")[2]], **node}
        return _inline(node, definitions)
    if "properties" in node:
        node["properties"] = {name: _inline(part, definitions) for name, part in node["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            node[key] = _inline(node[key], definitions)
    if node.get("default") not in (None, "", [], {}):
        node.setdefault("examples", [node["default"]])
    return node


def _without_null(node: dict[str, Any]) -> dict[str, Any]:
    """An optional field is one that may be left out: there is no null to write."""
    options = node.pop("anyOf", [])
    left = [option for option in options if option != {"type": "null"}]
    if len(left) == len(options):
        return {**node, "anyOf": options} if options else node
    (only,) = left
    if node.get("default", 0) is None:
        del node["default"]
    return {**only, **node}


def _one_of_two_types(node: dict[str, Any]) -> dict[str, Any]:
    """A value of either of two types in one schema: the keywords of each type apply to it alone."""
    options = node.pop("anyOf", [])
    if not options:
        return node
    keywords = {key: option[key] for option in options for key in option if key != "type"}
    return {"type": [option["type"] for option in options], **keywords, **node}


def _is_made_title(key: str, value: object) -> bool:
    """Whether it is pydantic's title, made of the field's name; ours are phrases and begin in lower case."""
    return key == "title" and isinstance(value, str) and value[:1].isupper()
