"""A small plot as SVG: lines over two logarithmic axes. The same input gives the same bytes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple
from xml.sax.saxutils import escape, quoteattr

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WIDTH, HEIGHT = 960, 520
LEFT, RIGHT, TOP, BOTTOM = 90, 770, 60, 440
FONT = """font-family="Helvetica, Arial, 'DejaVu Sans', sans-serif" font-size="15\""""
TEXT, GRID = "#334155", "#e2e8f0"
LABEL_DISTANCE = 19.0


class Line(NamedTuple):
    """A line with a label at its end."""

    label: str
    color: str
    points: Sequence[tuple[float, float]]
    is_dashed: bool = False


class Axis(NamedTuple):
    """A logarithmic axis with a title, from its first tick to its last one."""

    title: str
    ticks: Sequence[float]

    def scale(self, start: float, end: float) -> Callable[[float], float]:
        low, high = math.log(self.ticks[0]), math.log(self.ticks[-1])
        return lambda value: start + (math.log(value) - low) / (high - low) * (end - start)


def draw_plot(title: str, description: str, x_axis: Axis, y_axis: Axis, lines: Sequence[Line]) -> str:
    """Return the SVG; `description` is for those who cannot see it."""
    x, y = x_axis.scale(LEFT, RIGHT), y_axis.scale(BOTTOM, TOP)
    label = quoteattr(description)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {FONT} role="img" aria-label={label}>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(LEFT, 32, title, "start"),
        _text((LEFT + RIGHT) / 2, BOTTOM + 56, x_axis.title),
        f'<g transform="rotate(-90 26 {(TOP + BOTTOM) / 2:.0f})">{_text(26, (TOP + BOTTOM) / 2, y_axis.title)}</g>',
    ]
    for tick in x_axis.ticks:
        parts += [_segment(x(tick), TOP, x(tick), BOTTOM), _text(x(tick), BOTTOM + 24, f"{tick:,.0f}")]
    for tick in y_axis.ticks:
        parts += [_segment(LEFT, y(tick), RIGHT, y(tick)), _text(LEFT - 10, y(tick) + 5, f"{tick:,.0f}", "end")]
    for line in sorted(lines, key=lambda line: line.is_dashed):  # so that both show where two are at the same place
        points = " ".join(f"{x(horizontal):.1f},{y(vertical):.1f}" for horizontal, vertical in line.points)
        dashes = ' stroke-dasharray="6 5"' if line.is_dashed else ""
        parts.append(f'<polyline points="{points}" fill="none" stroke="{line.color}" stroke-width="2.5"{dashes}/>')
    lowest = math.inf
    for line in sorted(lines, key=lambda line: y(line.points[-1][1]), reverse=True):
        lowest = min(lowest - LABEL_DISTANCE, y(line.points[-1][1]) + 5)
        parts.append(_text(RIGHT + 10, lowest, line.label, "start", color=line.color))
    return "\n  ".join(parts) + "\n</svg>\n"


def _segment(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{GRID}"/>'


def _text(x: float, y: float, text: str, anchor: str = "middle", *, color: str = TEXT) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}">{escape(text)}</text>'
