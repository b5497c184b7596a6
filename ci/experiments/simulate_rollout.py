"""Simulate the roll-out of an image of 2 GB to many nodes, with 1 to 8 replicas and without a cache.

It prints a table and writes docs/images/rollout.svg. The same code gives the same bytes. docs/benchmarks.md has the
assumptions.
"""

from __future__ import annotations

from machine.paths import REPOSITORY

from experiments.line_plot import Axis, Line, draw_plot
from experiments.rollout_model import Costs, Result, Rollout

PLOT = REPOSITORY / "docs" / "images" / "rollout.svg"
GBIT = 1e9 / 8
COSTS = Costs(
    node_line=GBIT,
    replica_line=10 * GBIT,
    upstream_line=10 * GBIT,
    layers=8,
    layer_bytes=250e6,
    # `python -m experiments.measure_replicas`: what one core takes of a blob.
    fetch_rate=350e6,
    relay_rate=650e6,
    request_seconds=0.0003,
)
# 0 is without a cache.
REPLICAS = (0, 1, 2, 4, 8)
NODES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
TABLE_NODES = (10, 20, 50, 100, 200, 500, 1000)
COLORS = {0: "#0f172a", 1: "#b45309", 2: "#1f4e79", 4: "#0f766e", 8: "#7c3aed"}


def name_replicas(count: int) -> str:
    return f"{count} replica{'' if count == 1 else 's'}" if count else "no cache"


def simulate(costs: Costs = COSTS) -> dict[tuple[int, int], Result]:
    """Return the result for each number of nodes and of replicas."""
    return {(nodes, count): Rollout(costs, nodes, count).run() for nodes in NODES for count in REPLICAS}


def render_table(results: dict[tuple[int, int], Result], costs: Costs = COSTS) -> str:
    """Return when the last node has the image, and what each way costs for all nodes."""
    head = "nodes at once" + "".join(f"{name_replicas(count):>13}" for count in REPLICAS)
    rows = [
        f"{nodes:>13,}" + "".join(f"{results[nodes, count].last:>11,.0f} s" for count in REPLICAS)
        for nodes in TABLE_NODES
    ]
    image, most = costs.layers * costs.layer_bytes, NODES[-1]

    def row(label: str, *values: str) -> str:
        return f"{label:<13}" + "".join(f"{value:>13}" for value in values)

    of_most = [results[most, count] for count in REPLICAS]
    return "\n".join(
        [
            "The last node has the image after",
            "",
            head,
            *rows,
            "",
            f"With {most:,} nodes",
            "",
            row("half of them", *(f"{result.seconds[most // 2]:,.0f} s" for result in of_most)),
            row("upstream", *(f"{result.upstream_bytes / image:,.0f} x" for result in of_most)),
            row("replicas", *(f"{result.relayed_bytes / image:,.0f} x" for result in of_most)),
            "",
            "upstream, replicas: bytes from the upstream and from one replica to another, times the image",
        ]
    )


def render_plot(results: dict[tuple[int, int], Result], costs: Costs = COSTS) -> str:
    alone = costs.layers * costs.layer_bytes / costs.node_line
    lines = [
        Line(
            name_replicas(count),
            COLORS[count],
            [(nodes, results[nodes, count].last) for nodes in NODES],
            is_dashed=not count,
        )
        for count in REPLICAS
    ]
    lines.append(Line("a node alone", "#94a3b8", [(NODES[0], alone), (NODES[-1], alone)], is_dashed=True))
    return draw_plot(
        "A 2 GB image on many nodes at once, simulated",
        "The more nodes pull an image at once, the longer it takes until the last one has it: with 1,000 nodes 1,600 s "
        "without a cache or with one replica, and half of that with each doubling of the replicas.",
        Axis("nodes that pull at the same moment (1 Gbit/s each)", (1, 10, 100, 1000)),
        Axis("seconds until the last one has the image", (10, 20, 50, 100, 200, 500, 1000, 2000)),
        lines,
    )


def main() -> None:
    results = simulate()
    PLOT.write_text(render_plot(results), encoding="utf-8")
    print(render_table(results))
    print(f"\nwritten: {PLOT.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    main()
