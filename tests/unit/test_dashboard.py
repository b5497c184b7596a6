"""The dashboard is one that Grafana and Plutono can show and a person can read: rules of lint, of our own."""

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
# What the interval variables of both programs stand for, and each variable's "All".
STAND_INS = {"$__rate_interval": "5m", "$__range": "6h", "$namespace": ".*", "$release": ".*", "$upstream": ".+"}
UNITS = {"decbytes", "bytes", "Bps", "reqps", "ops", "percentunit", "s", "short", "none"}
panels = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
targets = pytest.mark.parametrize(
    ("panel", "target"), TARGETS, ids=[f"{panel['title']} {target['refId']}" for panel, target in TARGETS]
)


def filled_in(expression: str) -> str:
    for name, value in STAND_INS.items():
        expression = expression.replace(name, value)
    return expression


def test_frame_is_what_both_programs_know() -> None:
    made = dashboard()
    assert made["schemaVersion"] == 27
    assert {panel["type"] for panel in made["panels"]} == {"row", "stat", "timeseries", "table"}
    assert [variable["name"] for variable in made["templating"]["list"]] == list(VARIABLES)
    assert all("transformations" not in panel for panel in made["panels"])


def test_rows_are_what_the_questions_are() -> None:
    titles = [panel["title"] for panel in dashboard()["panels"] if panel["type"] == "row"]
    assert titles == ["Worth", "Traffic by upstream", "Upstreams", "Storage", "Nodes", "Pods"]


def test_panels_have_ids_of_their_own_and_titles_of_their_own() -> None:
    for key in ("id", "title"):
        found = [panel[key] for panel in dashboard()["panels"]]
        assert len(found) == len(set(found))


def test_no_panel_lies_on_another_and_no_row_has_a_gap() -> None:
    def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
        grid = panel["gridPos"]
        rows, columns = range(grid["y"], grid["y"] + grid["h"]), range(grid["x"], grid["x"] + grid["w"])
        return set(itertools.product(columns, rows))

    taken = [cells(panel) for panel in dashboard()["panels"]]
    assert len(set().union(*taken)) == sum(map(len, taken)), "one lies on another"
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard()["panels"])
    assert set().union(*taken) == set(itertools.product(range(24), range(bottom))), "there is a gap, or one sticks out"


@panels
def test_panel_is_described_and_has_a_unit(panel: dict[str, Any]) -> None:
    assert re.fullmatch(r"[A-Za-z][a-zA-Z, ]{2,40}", panel["title"])
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["datasource"] == "$datasource"
    assert [target["refId"] for target in panel["targets"]] == ["A", "B", "C"][: len(panel["targets"])]


@targets
def test_query_parses_and_names_only_metrics_that_there_are(panel: dict[str, Any], target: dict[str, Any]) -> None:
    query = filled_in(target["expr"])
    assert "$" not in query
    assert metrics_of(promql_parser.parse(query)) <= known_metrics()


@targets
def test_variables_choose_in_every_part_of_a_query(panel: dict[str, Any], target: dict[str, Any]) -> None:
    selectors = re.findall(r"\b\w+\{([^}]*)\}", target["expr"])
    assert selectors
    metrics = re.findall(r"\b(?:registry|process)_\w+(.)", target["expr"])
    assert metrics == ["{"] * len(selectors), "a metric without a selector"
    for selector in selectors:
        assert 'namespace=~"$namespace",release=~"$release"' in selector
        assert 'upstream_host=~"$upstream"' in selector or "reads_registry_directory" in target["expr"]


@targets
def test_legend_names_only_labels_that_the_query_leaves(panel: dict[str, Any], target: dict[str, Any]) -> None:
    left = set(re.findall(r"\w+", ",".join(re.findall(r"\bby \(([^)]*)\)", target["expr"]))))
    assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= left
    if panel["type"] == "timeseries":
        assert target["legendFormat"], "who reads it must know which line is whose"
    legends = [other["legendFormat"] for other in panel["targets"]]
    assert len(legends) == len(set(legends))


@targets
def test_ratio_has_no_value_rather_than_nan_while_nobody_asks(panel: dict[str, Any], target: dict[str, Any]) -> None:
    for denominator in target["expr"].split(" / ")[1:]:
        depth = 0
        for index, letter in enumerate(denominator):
            depth += {"(": 1, ")": -1}.get(letter, 0)
            if depth == 0:
                assert denominator[: index + 1].endswith(" > 0)")
                break


@panels
def test_counter_is_shown_as_what_it_grows_by(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        for counter in re.finditer(r"(\w+)\((\w+)_(?:total|sum|count|bucket)\{", target["expr"]):
            assert counter[1] in {"rate", "increase"}


def test_variables_ask_for_what_is_there_and_all_means_all() -> None:
    by_name = {variable["name"]: variable for variable in dashboard()["templating"]["list"]}
    for name in VARIABLES[1:]:
        found = by_name[name]
        assert (found["multi"], found["includeAll"], found["datasource"]) == (True, True, "$datasource")
        (selector,) = re.fullmatch(r"label_values\(([^,]*(?:\{.*\})?), \w+\)", found["query"]).groups()  # type: ignore[union-attr]
        assert metrics_of(promql_parser.parse(filled_in(selector))) == {"registry_proxy_requests_total"}
    # A scraper that gives no such label leaves it empty; an upstream is always named.
    assert [by_name[name]["allValue"] for name in VARIABLES[1:]] == [".*", ".*", ".+"]


def test_address_and_text_stay_as_they_are() -> None:
    assert dashboard()["uid"] == "registry-caches"
    assert dashboard_text() == dashboard_text()
    assert dashboard_text().endswith("}\n")
