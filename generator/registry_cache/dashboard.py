"""Builds the dashboard "Registry Caches", for Grafana and for Plutono 7.5 alike.

Both programs understand schemaVersion 27 (Plutono knows none above it, and Grafana migrates from it), a data source
named by a variable, and the panel types stat, timeseries, table and row, which are folders of public/app/plugins/panel
in the sources of both. A table needs no transformation, since its query leaves only the labels that become columns.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from registry_cache.dashboard_panels import PLACE, rows

if TYPE_CHECKING:
    from registry_cache.dashboard_panels import Panel

UID = "registry-caches"
COLUMNS = 24


def dashboard() -> dict[str, Any]:
    """Return the dashboard as the JSON object of Grafana."""
    return {
        "annotations": {"list": []},
        "editable": True,
        "graphTooltip": 1,
        "links": [],
        "panels": _arrange(rows()),
        "refresh": "1m",
        "schemaVersion": 27,
        "tags": ["registry", "cache"],
        "templating": {"list": _variables()},
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "title": "Registry Caches",
        "uid": UID,
        "version": 1,
    }


def dashboard_text() -> str:
    """Return the file of the dashboard."""
    return json.dumps(dashboard(), indent=2) + "\n"


def _arrange(titled_panels: list[tuple[str, list[Panel]]]) -> list[dict[str, Any]]:
    """Lay out the panels from left to right below the title of their row, and number them."""
    arranged: list[dict[str, Any]] = []
    top = 0
    for title, panels in titled_panels:
        grid = {"h": 1, "w": COLUMNS, "x": 0, "y": top}
        arranged.append(
            {"collapsed": False, "gridPos": grid, "id": len(arranged) + 1, "panels": [], "title": title, "type": "row"}
        )
        top, left, height = top + 1, 0, 0
        for panel in panels:
            if left + panel.width > COLUMNS:
                top, left, height = top + height, 0, 0
            grid = {"h": panel.height, "w": panel.width, "x": left, "y": top}
            arranged.append({**_panel(panel), "gridPos": grid, "id": len(arranged) + 1})
            left, height = left + panel.width, max(height, panel.height)
        top += height
    return arranged


def _panel(panel: Panel) -> dict[str, Any]:
    options: dict[str, dict[str, Any]] = {
        "stat": {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}},
        "timeseries": {
            "legend": {"calcs": [], "displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi"},
        },
        "table": {"showHeader": True},
    }
    optional = {"min": panel.minimum, "max": panel.maximum, "noValue": panel.no_value or None}
    defaults = {"unit": panel.unit, **{name: value for name, value in optional.items() if value is not None}}
    target = {"format": "table", "instant": True} if panel.kind == "table" else {}
    return {
        "datasource": "$datasource",
        "description": panel.description,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options[panel.kind],
        "targets": [
            {"expr": expression, "legendFormat": legend, "refId": chr(ord("A") + number), **target}
            for number, (expression, legend) in enumerate(panel.queries)
        ],
        "title": panel.title,
        "type": panel.kind,
    }


def _variables() -> list[dict[str, Any]]:
    """Return the variables; namespace, release and upstream each offer what exists within the choices before them."""
    data_source = {"hide": 0, "label": "Data source", "name": "datasource", "query": "prometheus", "type": "datasource"}
    return [
        data_source,
        _variable("namespace", "Namespace", "label_values(registry_proxy_requests_total, namespace)", ".*"),
        _variable(
            "release",
            "Release",
            'label_values(registry_proxy_requests_total{namespace=~"$namespace"}, release)',
            ".*",
        ),
        _variable(
            "upstream",
            "Upstream",
            f"label_values(registry_proxy_requests_total{{{PLACE}}}, upstream_host)",
            ".+",
        ),
    ]


def _variable(name: str, label: str, query: str, all_value: str) -> dict[str, Any]:
    return {
        "allValue": all_value,
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "datasource": "$datasource",
        "hide": 0,
        "includeAll": True,
        "label": label,
        "multi": True,
        "name": name,
        "query": query,
        "refresh": 2,
        "sort": 1,
        "type": "query",
    }
