"""`make generate`: writes the files that are made from the model, the alerts and the programs into the repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry_cache.build import render
from registry_cache.checksums import checksums_text
from registry_cache.dashboard import dashboard_text
from registry_cache.model.registry_config import DOCKER_HUB, Cache
from registry_cache.model.values import RENAMED_VALUES
from registry_cache.rules import rules_text
from registry_cache.schema import EXPECTED, FOREIGN_KEYS, chart_schema, model_schema, schema_text, values_schema
from registry_cache.values_file import dump, values_text

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[2]

# Where Artifact Hub and `helm show readme` find the documents.
BLOB = "https://github.com/registry-cache/registry-cache/blob/main"
MADE_BY = "# Made by `make generate` from generator/registry_cache/model; change it there.\n"
VALUES_HEADER = """Made by `make generate` from generator/registry_cache/model; change it there.
Your own file needs only `caches`: a RegistryConfig document is a valid values file."""


def generated() -> dict[str, str]:
    """Return the content of each generated file by its path in the repository."""
    rows = list(reference_rows())
    defaults = Cache(upstream=DOCKER_HUB).model_dump(exclude={"upstream"}, exclude_none=True)
    return {
        "values.schema.json": schema_text(values_schema()),
        "chart/values.schema.json": schema_text(chart_schema()),
        "chart/values.yaml": values_text(VALUES_HEADER),
        "chart/README.md": render("chart-readme.md.j2", rows=rows, blob=BLOB, docs=f"{BLOB}/docs"),
        "docs/reference/values.md": render("values-reference.md.j2", rows=rows),
        "chart/files/cache-defaults.yaml": MADE_BY + dump(defaults),
        "chart/files/renamed-values.yaml": MADE_BY + dump(RENAMED_VALUES),
        "chart/files/foreign-values.yaml": MADE_BY + dump({**EXPECTED, "keys": list(FOREIGN_KEYS)}),
        "chart/files/checksums.yaml": checksums_text(REPOSITORY / "chart" / "files"),
        "chart/files/monitoring/registry-caches.json": dashboard_text(),
        "chart/files/monitoring/registry-caches.rules.yaml": rules_text(),
    }


def reference_rows() -> Iterator[tuple[str, str, str]]:
    """Yield path, default and description of every value, for Markdown."""
    for path, part in every_value(model_schema()):
        if "properties" not in part:
            default = f"`{json.dumps(part['default'], ensure_ascii=False)}`" if "default" in part else ""
            yield path, default, part["description"].replace("<", "&lt;")


def every_value(schema: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield path and schema of every value; a mapping comes before its content."""
    for name, part in schema["properties"].items():
        path = f"{prefix}{name}"
        yield path, part
        if "properties" in part:
            yield from every_value(part, f"{path}.")
        if "properties" in part.get("items", {}):
            yield from every_value(part["items"], f"{path}[].")
        if isinstance(each := part.get("additionalProperties"), dict) and "properties" in each:
            yield from every_value(each, f"{path}.<upstream>.")


if __name__ == "__main__":
    for name, content in generated().items():
        path = REPOSITORY / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
