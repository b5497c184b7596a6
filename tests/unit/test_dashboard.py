"""The dashboard works in Grafana and Plutono and is easy to read: our own lint rules."""

from __future__ import annotations

import itertools
import re
from typing import Any

import promql_parser
import pytest
from known_metrics import known_metrics, metrics_of
from registry_cache.dashboard import dashboard, dashboard_text

PANELS = [panel for panel in dashboard()["panels"] if panel["type"] != "row"]
TARGETS = [(panel, target) for panel in PANELS for target in panel["targets"]]
VARIABLES = ("datasource", "namespace", "release", "upstream")
# Values for the interval variables of both programs, and "All" for the others.
VARIABLE_VALUES = {"$__rate_interval": "5m", "$__range": "6h", "$namespace": ".*", "$release": ".*", "$upstream": ".+"}
UNITS = {"decbytes", "bytes", "Bps", "reqps", "ops", "percentunit", "s", "short", "none"}
panels = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
targets = pytest.mark.parametrize(
    ("panel", "target"), TARGETS, ids=[f"{panel['title']} {target['refId']}" for panel, target in TARGETS]
)


def substitute_variables(expression: str) -> str:
    for name, value in VARIABLE_VALUES.items():
        expression = expression.replace(name, value)
    return expression


def test_dashboard_uses_only_features_of_both_grafana_and_plutono() -> None:
    made = dashboard()
    assert made["schemaVersion"] == 27
    assert {panel["type"] for panel in made["panels"]} == {"row", "stat", "timeseries", "table"}
    assert [variable["name"] for variable in made["templating"]["list"]] == list(VARIABLES)
    assert all("transformations" not in panel for panel in made["panels"])


def test_dashboard_has_the_expected_rows() -> None:
    titles = [panel["title"] for panel in dashboard()["panels"] if panel["type"] == "row"]
    assert titles == ["Savings", "Traffic by upstream", "Upstreams", "Storage", "Nodes", "Pods"]


def test_ids_and_titles_of_panels_are_unique() -> None:
    for key in ("id", "title"):
        found = [panel[key] for panel in dashboard()["panels"]]
        assert len(found) == len(set(found))


def test_panels_fill_the_grid_without_overlap() -> None:
    def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
        grid = panel["gridPos"]
        rows, columns = range(grid["y"], grid["y"] + grid["h"]), range(grid["x"], grid["x"] + grid["w"])
        return set(itertools.product(columns, rows))

    taken = [cells(panel) for panel in dashboard()["panels"]]
    assert len(set().union(*taken)) == sum(map(len, taken)), "panels overlap"
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard()["panels"])
    assert set().union(*taken) == set(itertools.product(range(24), range(bottom))), (
        "there is a gap, or a panel is too wide"
    )


@panels
def test_panel_has_a_description_and_a_unit(panel: dict[str, Any]) -> None:
    assert re.fullmatch(r"[A-Za-z][a-zA-Z, ]{2,40}", panel["title"])
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["datasource"] == "$datasource"
    assert [target["refId"] for target in panel["targets"]] == ["A", "B", "C"][: len(panel["targets"])]


@targets
def test_query_parses_and_uses_only_known_metrics(panel: dict[str, Any], target: dict[str, Any]) -> None:
    query = substitute_variables(target["expr"])
    assert "$" not in query
    assert metrics_of(promql_parser.parse(query)) <= known_metrics()


@targets
def test_every_selector_of_a_query_uses_the_variables(panel: dict[str, Any], target: dict[str, Any]) -> None:
    selectors = re.findall(r"\b\w+\{([^}]*)\}", target["expr"])
    assert selectors
    metrics = re.findall(r"\b(?:registry|process)_\w+(.)", target["expr"])
    assert metrics == ["{"] * len(selectors), "a metric without a selector"
    for selector in selectors:
        assert 'namespace=~"$namespace",release=~"$release"' in selector
        assert 'upstream_host=~"$upstream"' in selector or "reads_registry_directory" in target["expr"]


@targets
def test_legend_uses_only_labels_of_the_result(panel: dict[str, Any], target: dict[str, Any]) -> None:
    left = set(re.findall(r"\w+", ",".join(re.findall(r"\bby \(([^)]*)\)", target["expr"]))))
    assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= left
    if panel["type"] == "timeseries":
        assert target["legendFormat"], "a line without a legend has no meaning"
    legends = [other["legendFormat"] for other in panel["targets"]]
    assert len(legends) == len(set(legends))


@targets
def test_ratio_has_no_value_while_its_denominator_is_zero(panel: dict[str, Any], target: dict[str, Any]) -> None:
    for denominator in target["expr"].split(" / ")[1:]:
        depth = 0
        for index, letter in enumerate(denominator):
            depth += {"(": 1, ")": -1}.get(letter, 0)
            if depth == 0:
                assert denominator[: index + 1].endswith(" > 0)")
                break


@panels
def test_counters_are_queried_by_rate_or_increase(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        for counter in re.finditer(r"(\w+)\((\w+)_(?:total|sum|count|bucket)\{", target["expr"]):
            assert counter[1] in {"rate", "increase"}


def test_variables_offer_existing_values_and_all_of_them() -> None:
    by_name = {variable["name"]: variable for variable in dashboard()["templating"]["list"]}
    for name in VARIABLES[1:]:
        found = by_name[name]
        assert (found["multi"], found["includeAll"], found["datasource"]) == (True, True, "$datasource")
        (selector,) = re.fullmatch(r"label_values\(([^,]*(?:\{.*\})?), \w+\)", found["query"]).groups()  # type: ignore[union-attr]
        assert metrics_of(promql_parser.parse(substitute_variables(selector))) == {"registry_proxy_requests_total"}
    # The namespace and the release are empty if the scraper does not set them. The upstream never is.
    assert [by_name[name]["allValue"] for name in VARIABLES[1:]] == [".*", ".*", ".+"]


def test_uid_and_text_are_stable() -> None:
    assert dashboard()["uid"] == "registry-caches"
    assert dashboard_text() == dashboard_text()
    assert dashboard_text().endswith("}\n")
