"""`make generate`: writes what is made from the model into the repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry_cache.build import render
from registry_cache.dashboard import dashboard_text
from registry_cache.schema import schema_text, values_schema
from registry_cache.values_file import IGNORED, values_text

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[2]

VALUES_HEADER = """Made by `make generate` from generator/registry_cache/model.py; change it there.
Your own file needs only `caches`: a RegistryConfig document is one."""


def generated() -> dict[str, str]:
    """What is made from the model: content by path in the repository."""
    return {
        "values.schema.json": schema_text(values_schema()),
        "chart/values.schema.json": schema_text(values_schema()),
        "chart/values.yaml": values_text(VALUES_HEADER),
        "chart/README.md": render("chart-reference.md.j2", rows=list(reference_rows())),
        "chart/files/value-paths.txt": "".join(f"{path}\n" for path in paths(values_schema())),
        "chart/files/monitoring/registry-caches.json": dashboard_text(),
    }


def reference_rows(schema: dict[str, Any] | None = None, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Path, default and description of every value."""
    for name, part in (schema or values_schema())["properties"].items():
        own = f"{path}{name}"
        if own in IGNORED:
            continue
        if "properties" in part:
            yield from reference_rows(part, f"{own}.")
            continue
        shown = f"`{json.dumps(part['default'], ensure_ascii=False)}`" if "default" in part else ""
        yield own, shown, part["description"]
        if "properties" in part.get("items", {}):
            yield from reference_rows(part["items"], f"{own}[].")


def paths(schema: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Every value that has a default, by path: null would take it away, which chart/templates/_validate.tpl refuses."""
    for name, part in schema["properties"].items():
        if f"{prefix}{name}" not in (*IGNORED, "caches"):
            yield f"{prefix}{name}"
            yield from paths(part, f"{prefix}{name}.") if "properties" in part else ()


if __name__ == "__main__":
    for name, content in generated().items():
        path = REPOSITORY / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
