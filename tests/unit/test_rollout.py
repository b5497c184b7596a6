"""The simulation of a roll-out: lines are shared fairly, and what the documentation shows is what it gives."""

from __future__ import annotations

import math
from xml.etree import ElementTree as ET

import pytest
from experiments.line_plot import Axis, Line, draw_plot
from experiments.rollout_model import Costs, Rollout, share_lines
from experiments.simulate_rollout import COSTS, PLOT, render_plot, render_table, simulate
from machine.paths import REPOSITORY


@pytest.mark.parametrize(
    ("flows", "rates"),
    [
        pytest.param([(("a",), math.inf)], [10.0], id="alone"),
        pytest.param([(("a",), math.inf)] * 4, [2.5] * 4, id="equal"),
        pytest.param([(("a",), 1.0), (("a",), math.inf)], [1.0, 9.0], id="one-with-a-limit"),
        pytest.param([(("a", "b"), math.inf), (("a",), math.inf)], [2.0, 8.0], id="one-over-a-narrow-line"),
        pytest.param([(("a", "b"), math.inf)] * 2 + [(("a",), math.inf)], [1.0, 1.0, 8.0], id="two-over-it"),
        pytest.param([(("a",), 3.0), (("b",), 3.0), ((), 4.0)], [3.0, 2.0, 4.0], id="limits-and-lines"),
        pytest.param([], [], id="none"),
    ],
)
def test_lines_are_shared_fairly(flows: list[tuple[tuple[str, ...], float]], rates: list[float]) -> None:
    assert share_lines(flows, {"a": 10.0, "b": 2.0}) == pytest.approx(rates)


def test_known_rollouts_take_as_long_as_their_narrowest_line() -> None:
    costs = COSTS._replace(fetch_rate=math.inf, relay_rate=math.inf, request_seconds=0.0)
    image = costs.layers * costs.layer_bytes
    assert Rollout(costs, 1, 0).run().last == pytest.approx(image / costs.node_line, rel=0.01)
    assert Rollout(costs, 1, 4).run().last == pytest.approx(image / costs.node_line, rel=0.01)
    assert Rollout(costs, 50, 0).run().last == pytest.approx(50 * image / costs.upstream_line, rel=0.01)
    assert Rollout(costs, 50, 1).run().last == pytest.approx(50 * image / costs.replica_line, rel=0.01)
    slow = costs._replace(upstream_line=costs.node_line / 10)
    assert Rollout(slow, 5, 2).run().last == pytest.approx(image / slow.upstream_line, rel=0.01)
    one_core = costs._replace(layers=1, fetch_rate=1e6)
    assert Rollout(one_core, 5, 2).run().last == pytest.approx(costs.layer_bytes / 1e6, rel=0.01)


def test_each_replica_gets_each_layer_once() -> None:
    result = Rollout(Costs(*COSTS._replace(layers=3)), 40, 4).run()
    assert result.upstream_bytes == 3 * COSTS.layer_bytes
    assert result.relayed_bytes == 3 * 3 * COSTS.layer_bytes
    assert len(result.seconds) == 40
    assert result == Rollout(COSTS._replace(layers=3), 40, 4).run()


def test_plot_is_valid_and_has_its_lines() -> None:
    axis = Axis("x & y", (1, 10))
    text = draw_plot("<title>", 'a "plot"', axis, axis, [Line("one", "#000000", [(1, 1), (10, 10)])])
    svg = ET.fromstring(text)  # noqa: S314 - our own
    assert svg.attrib["aria-label"] == 'a "plot"'
    (line,) = svg.iter("{http://www.w3.org/2000/svg}polyline")
    assert line.attrib["points"] == "90.0,440.0 770.0,60.0"


@pytest.mark.slow
def test_documentation_shows_what_the_simulation_gives() -> None:
    results = simulate()
    assert PLOT.read_text(encoding="utf-8") == render_plot(results)
    assert render_table(results) in (REPOSITORY / "docs" / "benchmarks.md").read_text(encoding="utf-8")
