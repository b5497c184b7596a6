"""`make generate`: writes what is made from the model into the repository."""

from __future__ import annotations

import json
from pathlib import Path

from registry_cache.build import render
from registry_cache.dashboard import dashboard_text
from registry_cache.schema import schema_text, values_schema
from registry_cache.values_file import values_text

REPOSITORY = Path(__file__).resolve().parents[2]

VALUES_HEADER = """Made by `make generate` from generator/registry_cache/model.py; change it there.
Your own file needs only `caches`: a RegistryConfig document is one."""


def generated() -> dict[str, str]:
    """What is made from the model: content by path in the repository."""
    return {
        "values.schema.json": schema_text(),
        "chart/values.schema.json": schema_text(),
        "chart/values.yaml": values_text(VALUES_HEADER),
        "chart/README.md": render("chart-reference.md.j2", rows=list(reference_rows())),
        "chart/files/monitoring/registry-caches.json": dashboard_text(),
    }


def reference_rows() -> list[tuple[str, str, str]]:
    """Path, default and description of every value."""
    rows: list[tuple[str, str, str]] = []
    _collect(values_schema(), "", values_schema().get("default", {}), rows)
    return [row for row in rows if row[0] not in ("global", "enabled")]


def _collect(schema: dict[str, object], path: str, defaults: object, rows: list[tuple[str, str, str]]) -> None:
    properties = schema["properties"]
    assert isinstance(properties, dict)  # noqa: S101 - a schema
    for name, part in properties.items():
        own = f"{path}.{name}" if path else name
        default = defaults.get(name, part.get("default")) if isinstance(defaults, dict) else part.get("default")
        if "properties" in part:
            _collect(part, own, default, rows)
        elif isinstance(part.get("items"), dict) and "properties" in part["items"]:
            rows.append((own, "", part["description"]))
            _collect(part["items"], f"{own}[]", {}, rows)
        else:
            shown = "" if default is None else f"`{json.dumps(default, ensure_ascii=False)}`"
            rows.append((own, shown, part["description"]))


if __name__ == "__main__":
    for name, content in generated().items():
        path = REPOSITORY / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
