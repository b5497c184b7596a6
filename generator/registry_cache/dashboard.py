"""Makes the dashboard "Registry Caches", for Grafana and for Plutono 7.5 alike.

What both understand: schemaVersion 27 (Plutono knows none above it and Grafana migrates from it), a data source named
by a variable, and the panel types stat, timeseries and row.

distribution's counters are there, at 0, from its start, so a sum has a value from the first scrape; a ratio has none,
and is no NaN, while nobody asks for anything.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

UID = "registry-caches"
UPSTREAM = 'upstream_host=~"$upstream"'
CLAIM = "{{namespace}}/{{persistentvolumeclaim}}"
HALF, QUARTER = 12, 6
COLUMNS = 24


@dataclass(frozen=True)
class Panel:
    """One panel: `queries` are pairs of PromQL and legend; `unit` is Grafana's name of it."""

    title: str
    description: str
    queries: tuple[tuple[str, str], ...]
    unit: str
    width: int
    height: int
    kind: str = "timeseries"
    without_value: str = ""


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana's JSON."""
    return {
        "annotations": {"list": []},
        "editable": True,
        "graphTooltip": 1,
        "links": [],
        "panels": _place(_rows()),
        "refresh": "1m",
        "schemaVersion": 27,
        "tags": ["registry", "cache"],
        "templating": {"list": [_datasource(), _upstream()]},
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "title": "Registry Caches",
        "uid": UID,
        "version": 1,
    }


def dashboard_text() -> str:
    """The dashboard as it is committed."""
    return json.dumps(dashboard(), indent=2) + "\n"


def _rows() -> list[tuple[str, list[Panel]]]:
    return [
        (
            "Worth",
            [
                Panel(
                    "Hit ratio",
                    "Share of requests that were served from a volume, over the time shown.",
                    ((f"{_increase('hits')} / ({_increase('requests')} > 0)", ""),),
                    "percentunit",
                    QUARTER,
                    5,
                    "stat",
                    without_value="no requests",
                ),
                Panel(
                    "Not fetched",
                    "Bytes that clients got and the upstreams did not send, over the time shown.",
                    ((f"{_increase('pushed_bytes')} - {_increase('pulled_bytes')}", ""),),
                    "decbytes",
                    QUARTER,
                    5,
                    "stat",
                ),
                Panel(
                    "To clients",
                    "Bytes that the caches sent to nodes, over the time shown.",
                    ((_increase("pushed_bytes"), ""),),
                    "decbytes",
                    QUARTER,
                    5,
                    "stat",
                ),
                Panel(
                    "From the upstreams",
                    "Bytes that the caches fetched, over the time shown.",
                    ((_increase("pulled_bytes"), ""),),
                    "decbytes",
                    QUARTER,
                    5,
                    "stat",
                ),
                Panel(
                    "Hit ratio by upstream",
                    "Share of requests that were served from the volume.",
                    ((f"{_rate('hits')} / ({_rate('requests')} > 0)", "{{upstream_host}}"),),
                    "percentunit",
                    COLUMNS,
                    8,
                ),
            ],
        ),
        (
            "Traffic by upstream",
            [
                Panel(
                    "Requests",
                    "Requests for blobs and manifests that nodes sent to the caches.",
                    ((_rate("requests"), "{{upstream_host}}"),),
                    "reqps",
                    HALF,
                    8,
                ),
                Panel(
                    "Hits and misses",
                    "Requests that were served from the volume, and those that went to the upstream.",
                    ((_rate("hits"), "{{upstream_host}} hits"), (_rate("misses"), "{{upstream_host}} misses")),
                    "reqps",
                    HALF,
                    8,
                ),
                Panel(
                    "Bytes to clients",
                    "What nodes were sent.",
                    ((_rate("pushed_bytes"), "{{upstream_host}}"),),
                    "Bps",
                    HALF,
                    8,
                ),
                Panel(
                    "Bytes from the upstreams",
                    "What was fetched and stored.",
                    ((_rate("pulled_bytes"), "{{upstream_host}}"),),
                    "Bps",
                    HALF,
                    8,
                ),
            ],
        ),
        (
            "Volumes",
            [
                Panel(
                    "Volume use",
                    "Share of each cache's volume that is used, as the kubelet sees it.",
                    ((_by_claim(f"{_volume('used')} / {_volume('capacity')}"), CLAIM),),
                    "percentunit",
                    HALF,
                    8,
                ),
                Panel(
                    "Room left",
                    "What is free on each cache's volume, as the kubelet sees it.",
                    ((_by_claim(_volume("available")), CLAIM),),
                    "decbytes",
                    HALF,
                    8,
                ),
            ],
        ),
    ]


def _volume(metric: str) -> str:
    return f'kubelet_volume_stats_{metric}_bytes{{persistentvolumeclaim=~"cache-volume-.+"}}'


def _by_claim(expression: str) -> str:
    return f"max by (namespace, persistentvolumeclaim) ({expression})"


def _increase(metric: str) -> str:
    return f"sum(increase(registry_proxy_{metric}_total{{{UPSTREAM}}}[$__range]))"


def _rate(metric: str) -> str:
    return f"sum by (upstream_host) (rate(registry_proxy_{metric}_total{{{UPSTREAM}}}[$__rate_interval]))"


def _place(rows: list[tuple[str, list[Panel]]]) -> list[dict[str, Any]]:
    """Put the panels from left to right below their row's title, and number them."""
    placed: list[dict[str, Any]] = []
    top = 0
    for title, panels in rows:
        grid = {"h": 1, "w": COLUMNS, "x": 0, "y": top}
        placed.append(
            {"collapsed": False, "gridPos": grid, "id": len(placed) + 1, "panels": [], "title": title, "type": "row"}
        )
        top, left, height = top + 1, 0, 0
        for panel in panels:
            if left + panel.width > COLUMNS:
                top, left, height = top + height, 0, 0
            grid = {"h": panel.height, "w": panel.width, "x": left, "y": top}
            placed.append({**_panel(panel), "gridPos": grid, "id": len(placed) + 1})
            left, height = left + panel.width, max(height, panel.height)
        top += height
    return placed


def _panel(panel: Panel) -> dict[str, Any]:
    options: dict[str, Any] = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}
    if panel.kind == "timeseries":
        options = {"legend": {"calcs": [], "displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.unit == "percentunit":
        defaults["max"] = 1
    if panel.without_value:
        defaults["noValue"] = panel.without_value
    return {
        "datasource": "$datasource",
        "description": panel.description,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {"expr": expression, "legendFormat": legend, "refId": chr(ord("A") + number)}
            for number, (expression, legend) in enumerate(panel.queries)
        ],
        "title": panel.title,
        "type": panel.kind,
    }


def _datasource() -> dict[str, Any]:
    return {"hide": 0, "label": "Data source", "name": "datasource", "query": "prometheus", "type": "datasource"}


def _upstream() -> dict[str, Any]:
    return {
        "allValue": ".+",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "datasource": "$datasource",
        "hide": 0,
        "includeAll": True,
        "label": "Upstream",
        "multi": True,
        "name": "upstream",
        "query": "label_values(registry_proxy_requests_total, upstream_host)",
        "refresh": 2,
        "sort": 1,
        "type": "query",
    }
