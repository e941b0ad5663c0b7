# SPDX-License-Identifier: Apache-2.0
"""A small writer of plots with logarithmic axes, as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

WIDTH, HEIGHT = 460, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 12, 34, 44
_COLOURS = ("#0b6e4f", "#3fa34d", "#c77d0a", "#b3261e", "#5b4b8a")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a plot.

    :param points: (x, y), both above zero
    :param colour: number; equal ones belong together
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: int
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Plot:
    """Lines over a logarithmic x axis, or over names of x = 0, 1, …"""

    title: str
    x_title: str
    y_title: str
    lines: Sequence[Line]
    names: Sequence[str] = ()


def _number(value: float) -> str:
    if value >= 1000000:
        return f"{value / 1000000:g}M"
    return f"{value / 1000:g}k" if value >= 10000 else f"{value:g}"


def _draw(plot: Plot, left: int) -> list[str]:
    xs = [x for line in plot.lines for x, _ in line.points]
    ys = [y for line in plot.lines for _, y in line.points]
    low = math.floor(math.log10(min(ys)))
    high = max(low + 1, math.ceil(math.log10(max(ys))))
    inner = WIDTH - _LEFT - _RIGHT
    tall = HEIGHT - _TOP - _BOTTOM

    def place_x(x: float) -> float:
        if plot.names:
            share = (x + .5) / len(plot.names)
        else:
            span = math.log(max(xs)) - math.log(min(xs)) or 1
            share = (math.log(x) - math.log(min(xs))) / span
        return left + _LEFT + share * inner

    def place_y(y: float) -> float:
        return _TOP + tall * (high - math.log10(y)) / (high - low)

    out = [f'<text x="{left + WIDTH / 2}" y="18" text-anchor="middle" '
           f'font-weight="bold">{escape(plot.title)}</text>',
           f'<text x="{left + WIDTH / 2}" y="{HEIGHT - 8}" '
           f'text-anchor="middle">{escape(plot.x_title)}</text>',
           f'<text transform="translate({left + 14},{HEIGHT / 2}) '
           f'rotate(-90)" text-anchor="middle">{escape(plot.y_title)}'
           '</text>']
    for power in range(low, high + 1):
        y = place_y(10 ** power)
        out.append(f'<path d="M{left + _LEFT},{y:.1f}h{inner}" '
                   'stroke="#ccc"/>'
                   f'<text x="{left + _LEFT - 5}" y="{y + 4:.1f}" '
                   f'text-anchor="end">{_number(10 ** power)}</text>')
    marks = (list(enumerate(plot.names)) if plot.names
             else [(x, _number(x)) for x in sorted(set(xs))])
    for x, name in marks:
        out.append(f'<text x="{place_x(x):.1f}" y="{HEIGHT - _BOTTOM + 16}" '
                   f'text-anchor="middle">{escape(name)}</text>')
    for line in plot.lines:
        colour = _COLOURS[line.colour % len(_COLOURS)]
        spots = [(place_x(x), place_y(y)) for x, y in line.points]
        if not plot.names:
            path = "L".join(f"{x:.1f},{y:.1f}" for x, y in spots)
            dash = ' stroke-dasharray="5 3"' if line.dashed else ""
            out.append(f'<path d="M{path}" fill="none" stroke="{colour}" '
                       f'stroke-width="2"{dash}/>')
        fill = "white" if line.dashed else colour
        out.extend(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}" '
                   f'stroke="{colour}"/>' for x, y in spots)
    return out


def write(path: Path, plots: Sequence[Plot]) -> None:
    """Writes plots side by side, with one legend."""
    legend: dict[str, Line] = {}
    for plot in plots:
        for line in plot.lines:
            legend.setdefault(line.name, line)
    width = WIDTH * len(plots)
    height = HEIGHT + 18 * len(legend) + 8
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" '
           f'height="{height}" font-family="sans-serif" font-size="12">',
           f'<rect width="{width}" height="{height}" fill="white"/>']
    for i, plot in enumerate(plots):
        out += _draw(plot, i * WIDTH)
    for i, (name, line) in enumerate(legend.items()):
        y = HEIGHT + 18 * i + 8
        colour = _COLOURS[line.colour % len(_COLOURS)]
        fill = "white" if line.dashed else colour
        out.append(f'<circle cx="{_LEFT}" cy="{y}" r="4" fill="{fill}" '
                   f'stroke="{colour}"/>'
                   f'<text x="{_LEFT + 12}" y="{y + 4}">{escape(name)}'
                   '</text>')
    out.append("</svg>")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(out) + "\n", encoding="utf-8")
