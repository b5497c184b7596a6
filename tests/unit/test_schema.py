"""The schema as a whole: it is closed and complete, its examples are valid, and it agrees with the model."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from hypothesis import example, given, settings
from made_documents import VALUES
from pydantic import ValidationError
from registry_cache.model.cache_pods import CacheResources, UpstreamSettings
from registry_cache.model.pods import Toleration
from registry_cache.model.values import RENAMED_VALUES, Values
from registry_cache.regenerate import REPOSITORY
from registry_cache.schema import chart_schema, model_schema, values_schema

if TYPE_CHECKING:
    from collections.abc import Iterator


def leaves(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the path and the schema of every value, including values that contain others."""
    for name, part in schema["properties"].items():
        yield f"{path}{name}", part
        if "properties" in part:
            yield from leaves(part, f"{path}{name}.")
        if "properties" in part.get("items", {}):
            yield from leaves(part["items"], f"{path}{name}[].")
        if isinstance(each := part.get("additionalProperties"), dict) and "properties" in each:
            yield from leaves(each, f"{path}{name}.<>.")


def test_schema_is_closed_and_names_its_draft() -> None:
    schema = values_schema()
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    jsonschema.Draft7Validator.check_schema(schema)
    for path, part in [("", schema), *leaves(schema)]:
        if path == "global":  # which a parent chart shares with all its dependencies
            continue
        for inner in (part, part.get("items", {})):
            assert "properties" not in inner or inner["additionalProperties"] is False, f"{path} is open"
        if isinstance(each := part.get("additionalProperties"), dict) and "properties" in each:
            assert each["additionalProperties"] is False, f"{path} is open"


def test_published_schema_has_an_address_that_no_other_schema_has() -> None:
    published = json.loads((REPOSITORY / "values.schema.json").read_text())
    assert published["$id"] == "https://raw.githubusercontent.com/registry-cache/registry-cache/main/values.schema.json"
    assert "$id" not in chart_schema()
    assert "$id" not in model_schema()


def test_values_without_a_default_are_optional_or_required() -> None:
    without = {path for path, part in leaves(model_schema()) if "properties" not in part and "default" not in part}
    assert without == {
        "caches",
        "caches[].upstream",
        *(f"caches[].{name}" for name in ("remoteURL", "secretReferenceName", "serviceNameSuffix")),
        *(f"caches[].{name}" for name in ("volume.storageClassName", "proxy.httpProxy", "proxy.httpsProxy")),
        *(
            f"{holder}.tolerations[].{name}"
            for holder in ("cachePods", "nodeProgram", "upstreamSettings.<>")
            for name in Toleration.model_fields
        ),
        *("global.imagePullSecrets[].name", "imagePullSecrets[].name"),
        *(
            f"upstreamSettings.<>.{name}"
            for name in {*UpstreamSettings.model_fields} - {"resources"}
            | {f"resources.{container}" for container in CacheResources.model_fields}
        ),
    }


@pytest.mark.parametrize(
    ("path", "part"),
    [(path, part) for path, part in leaves(values_schema()) if "deprecationMessage" not in part],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_value_is_described_and_shown(path: str, part: dict[str, Any]) -> None:
    assert part["description"].endswith((".", '"'))
    if "properties" not in part:
        assert part["examples"], f"{path} has no example"
        for value in [*part["examples"], *([part["default"]] if "default" in part else [])]:
            jsonschema.Draft7Validator(part).validate(value)


@pytest.mark.slow
def test_schema_and_model_agree() -> None:
    taken: Counter[bool] = Counter()

    @settings(max_examples=3000)
    @given(VALUES)
    @example({"caches": [{"upstream": "docker.io"}], "imagePullSecrets": [{}]})
    def check(document: dict[str, Any]) -> None:
        try:
            Values.model_validate_json(json.dumps(document), strict=True)
            model_takes_it = True
        except ValidationError:
            model_takes_it = False
        taken[model_takes_it] += 1
        schema = jsonschema.Draft7Validator(values_schema())
        assert schema.is_valid(document) == model_takes_it

    check()
    assert min(taken[True], taken[False]) > 300, "documents of both kinds"


def test_new_names_are_values_and_old_names_are_not() -> None:
    paths = {path for path, _ in leaves(model_schema())}
    assert set(RENAMED_VALUES.values()) <= paths
    assert not paths & set(RENAMED_VALUES)
