"""`make generate`: writes what is made from the model into the repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry_cache.build import render
from registry_cache.checksums import checksums_text
from registry_cache.dashboard import dashboard_text
from registry_cache.model import RENAMED_VALUES
from registry_cache.rules import rules_text
from registry_cache.schema import chart_schema, model_schema, schema_text, values_schema
from registry_cache.values_file import dump, values_text

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[2]

VALUES_HEADER = """Made by `make generate` from generator/registry_cache/model.py; change it there.
Your own file needs only `caches`: a RegistryConfig document is one."""

RENAMED_HEADER = "# Made by `make generate`: values that had another name, which the chart refuses with the new one.\n"


def generated() -> dict[str, str]:
    """What is made from the model: content by path in the repository."""
    return {
        "values.schema.json": schema_text(values_schema()),
        "chart/values.schema.json": schema_text(chart_schema()),
        "chart/values.yaml": values_text(VALUES_HEADER),
        "chart/README.md": render("chart-reference.md.j2", rows=list(reference_rows())),
        "chart/files/renamed-values.yaml": RENAMED_HEADER + dump(RENAMED_VALUES),
        "chart/files/checksums.yaml": checksums_text(REPOSITORY / "chart" / "files"),
        "chart/files/monitoring/registry-caches.json": dashboard_text(),
        "chart/files/monitoring/registry-caches.rules.yaml": rules_text(),
    }


def reference_rows() -> Iterator[tuple[str, str, str]]:
    """Path, default and description of every value."""
    for path, part in every_value(model_schema()):
        if "properties" not in part:
            shown = f"`{json.dumps(part['default'], ensure_ascii=False)}`" if "default" in part else ""
            yield path, shown, part["description"]


def every_value(schema: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Path and schema of every value, mappings included and before what is in them."""
    for name, part in schema["properties"].items():
        path = f"{prefix}{name}"
        yield path, part
        if "properties" in part:
            yield from every_value(part, f"{path}.")
        if "properties" in part.get("items", {}):
            yield from every_value(part["items"], f"{path}[].")
        if isinstance(each := part.get("additionalProperties"), dict) and "properties" in each:
            yield from every_value(each, f"{path}.<{name.removesuffix('s')}>.")


if __name__ == "__main__":
    for name, content in generated().items():
        path = REPOSITORY / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
