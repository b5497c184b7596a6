"""values.schema.json, made from the model: draft-07, which every Helm and every editor understands."""

from __future__ import annotations

import copy
import json
from functools import cache
from typing import TYPE_CHECKING, Any

from registry_cache.model.values import RENAMED_VALUES, Values
from registry_cache.versions import NEWEST, OLD_VERSIONS

if TYPE_CHECKING:
    from pydantic import BaseModel

# What a document must say that it is, if it says so, and the keys by which other documents are known
# (chart/templates/_validate-document.tpl).
EXPECTED = {"apiVersion": NEWEST, "kind": "RegistryConfig"}
FOREIGN_KEYS = (
    *("metadata", "spec", "status", "items"),  # a Shoot, any other resource, a List
    *("mirrors", "configs", "auths"),  # a registries.yaml of k3s or RKE2, Docker's config.json
    *("machine", "cluster", "name", "endpoints"),  # Talos
    *("nodes", "containerdConfigPatches"),  # kind
    *("spegel", "version", "storage", "http", "proxy", "log", "registry-mirrors"),  # Spegel, distribution, Docker
)
DRAFT = "http://json-schema.org/draft-07/schema#"
# Editors load the schema from here. It never changes; the schema of a release is at its tag, in place of `main`.
ID = "https://raw.githubusercontent.com/registry-cache/registry-cache/main/values.schema.json"


@cache
def model_schema() -> dict[str, Any]:
    """Return the schema of the values that the chart reads."""
    return _schema_of_model(Values)


@cache
def values_schema() -> dict[str, Any]:
    """Return the schema of a values file: the model's values, `enabled`, and those that have a new name."""
    schema = {"$schema": DRAFT, "$id": ID, **copy.deepcopy(model_schema())}
    schema["properties"]["enabled"] = {
        "type": "boolean",
        "description": "Not used. A parent chart may have it as the condition of this dependency.",
        "examples": [True],
    }
    for old, new in RENAMED_VALUES.items():
        _add_renamed(schema, old.split("."), new)
    return schema


def chart_schema() -> dict[str, Any]:
    """Return the schema by which Helm checks the values of the chart, its defaults included.

    Helm lets null take a default away before it looks at the schema, so every value that has a default is required
    here: a template then finds every value. A list of caches may be empty, so that the bare chart can be linted; the
    chart's templates refuse it.
    """
    schema = copy.deepcopy(values_schema())
    del schema["$id"]  # it is another schema than the published one
    _require_defaults(schema, model_schema())
    del schema["properties"]["caches"]["minItems"]
    _add_foreign(schema)
    return schema


def _add_foreign(schema: dict[str, Any]) -> None:
    """Let documents through for which the templates have a better answer than Helm has for an error of the schema."""
    for name in EXPECTED:
        del schema["properties"][name]["const"]
    reason = "Not a value of this chart, which refuses it and names the command that makes values of the document."
    refused = {"description": reason, "deprecationMessage": reason, "doNotSuggest": True}
    schema["properties"] |= dict.fromkeys(FOREIGN_KEYS, refused)
    cache = schema["properties"]["caches"]["items"]["properties"]
    cache["size"] = refused
    cache["garbageCollection"]["properties"]["enabled"] = refused


def generated_chart_schema() -> dict[str, Any]:
    """Return the schema of the values of a chart that has caches of its own.

    An entry without `upstream`, or null, changes the chart's own entry at its place. Helm makes both of
    `--set caches[1].volume.size=…`.
    """
    schema = chart_schema()
    entry = schema["properties"]["caches"]["items"]
    entry["type"] = ["object", "null"]
    entry["required"].remove("upstream")
    return schema


@cache
def schema_of_version(api_version: object) -> dict[str, Any]:
    """Return the schema of a RegistryConfig of a version, which is the newest unless it is a known old one."""
    return _schema_of_model(OLD_VERSIONS[api_version]) if api_version in OLD_VERSIONS else values_schema()


def schema_text(schema: dict[str, Any]) -> str:
    """Return a schema as the text of a file."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _add_renamed(schema: dict[str, Any], path: list[str], new: str) -> None:
    """Add a value that has a new name, unless a part of its path is there already and takes anything."""
    name, *rest = path
    part = schema["properties"].get(name)
    if part is None:
        schema["properties"][name] = {
            "description": f"Renamed to {new}; the chart refuses the old name.",
            # An editor with yaml-language-server underlines it and does not offer it.
            "deprecationMessage": f"renamed to {new}",
            "doNotSuggest": True,
        }
    elif rest and "properties" in part:
        _add_renamed(part, rest, new)


def _require_defaults(schema: dict[str, Any], model: dict[str, Any]) -> None:
    schema["required"] = list(model["properties"])
    for name, part in model["properties"].items():
        if "properties" in part:
            _require_defaults(schema["properties"][name], part)


def _schema_of_model(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema()
    definitions = schema.pop("$defs")
    schema = {"$schema": DRAFT, **_inline(schema, definitions)}
    _allow_null(schema["properties"]["caches"]["items"])
    return schema


def _allow_null(cache: dict[str, Any]) -> None:
    """Let null stand for a field that is left out, where the model does (registry_config.NullableModel)."""
    for holder in (cache, *(cache["properties"].get(name, {}) for name in ("volume", "proxy"))):
        for name, part in holder.get("properties", {}).items():
            if name not in holder.get("required", []):
                types = part["type"] if isinstance(part["type"], list) else [part["type"]]
                part["type"] = [*types, "null"]


def _inline(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Put definitions where they are used, so that each path of a document has its own schema, and tidy them."""
    node = {key: value for key, value in node.items() if not _is_pydantic_title(key, value)}
    node = _merge_two_types(_without_null(node))
    if "$ref" in node:
        node = {**definitions[node.pop("$ref").rpartition("/")[2]], **node}
        return _inline(node, definitions)
    if "properties" in node:
        node["properties"] = {name: _inline(part, definitions) for name, part in node["properties"].items()}
    if "propertyNames" in node:  # Helm reports errors of it at the wrong place
        part = node.pop("additionalProperties")
        node["patternProperties"] = {f"^{name}$": part for name in node.pop("propertyNames")["enum"]}
    if "patternProperties" in node:
        patterns = node["patternProperties"].items()
        node["patternProperties"] = {pattern: _inline(part, definitions) for pattern, part in patterns}
        node["additionalProperties"] = False
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            node[key] = _inline(node[key], definitions)
    if "pattern" in node and "title" in node:
        node["patternErrorMessage"] = f"not {node['title']}"  # editors show this instead of the pattern
    if node.get("default") not in (None, "", [], {}):
        node.setdefault("examples", [node["default"]])
    return node


def _without_null(node: dict[str, Any]) -> dict[str, Any]:
    """Return the schema without the option null: an optional field is left out, not set to null."""
    options = node.pop("anyOf", [])
    left = [option for option in options if option != {"type": "null"}]
    if len(left) == len(options):
        return {**node, "anyOf": options} if options else node
    (only,) = left
    if node.get("default", 0) is None:
        del node["default"]
    return {**only, **node}


def _merge_two_types(node: dict[str, Any]) -> dict[str, Any]:
    """Return one schema for a value of either of two types: the keywords of each type apply to it alone."""
    options = node.pop("anyOf", [])
    if not options:
        return node
    keywords = {key: option[key] for option in options for key in option if key != "type"}
    return {"type": [option["type"] for option in options], **keywords, **node}


def _is_pydantic_title(key: str, value: object) -> bool:
    """Return whether pydantic made a title of the field's name; ours are phrases and begin in lower case."""
    return key == "title" and isinstance(value, str) and value[:1].isupper()
