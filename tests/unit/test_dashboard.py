"""The dashboard is one that Grafana and Plutono can show and a person can read."""

from __future__ import annotations

import itertools
from typing import Any

import promql_parser
import pytest
from registry_cache.dashboard import dashboard, dashboard_text

# What distribution's cache exports (registry/proxy/proxymetrics.go), and the kubelet about volumes.
METRICS = {
    f"registry_proxy_{name}_total" for name in ("requests", "hits", "misses", "pulled_bytes", "pushed_bytes")
} | {f"kubelet_volume_stats_{name}_bytes" for name in ("used", "capacity", "available")}
PANELS = [panel for panel in dashboard()["panels"] if panel["type"] != "row"]
panels = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])


def test_frame_is_what_both_programs_know() -> None:
    made = dashboard()
    assert made["schemaVersion"] == 27
    assert {panel["type"] for panel in made["panels"]} <= {"row", "stat", "timeseries", "table"}
    assert [variable["name"] for variable in made["templating"]["list"]] == ["datasource", "upstream"]


def test_panels_have_ids_of_their_own_and_titles_of_their_own() -> None:
    for key in ("id", "title"):
        found = [panel[key] for panel in dashboard()["panels"]]
        assert len(found) == len(set(found))


def test_no_panel_lies_on_another() -> None:
    def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
        grid = panel["gridPos"]
        assert grid["x"] + grid["w"] <= 24
        rows, columns = range(grid["y"], grid["y"] + grid["h"]), range(grid["x"], grid["x"] + grid["w"])
        return set(itertools.product(columns, rows))

    for one, other in itertools.combinations(dashboard()["panels"], 2):
        assert not cells(one) & cells(other), (one["title"], other["title"])


@panels
def test_panel_is_described_and_has_a_unit(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"] == "$datasource"


@panels
def test_queries_parse_and_name_only_metrics_that_there_are(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        query = target["expr"].replace("$__rate_interval", "5m").replace("$__range", "6h").replace("$upstream", ".+")
        assert "$" not in query
        assert _metrics(promql_parser.parse(query)) <= METRICS
        if "registry_proxy" in query:
            assert "$upstream" in target["expr"], "the variable chooses"


@panels
def test_ratio_has_no_value_rather_than_nan_while_nobody_asks(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        numerator, _, denominator = target["expr"].partition(" / ")
        if denominator and "registry_proxy" in numerator:
            assert denominator.endswith(" > 0)")


def test_address_and_text_stay_as_they_are() -> None:
    assert dashboard()["uid"] == "registry-caches"
    assert dashboard_text() == dashboard_text()
    assert dashboard_text().endswith("}\n")


def _metrics(expression: Any) -> set[str]:
    """The names of all metrics in an expression."""
    if name := getattr(expression, "name", None):
        return {name}
    parts = [getattr(expression, key, None) for key in ("lhs", "rhs", "expr", "vector_selector")]
    parts += list(getattr(expression, "args", None) or [])
    return {name for part in parts if part is not None for name in _metrics(part)}
