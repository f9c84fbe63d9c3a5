"""Places the axes of a chart by the lengths of its texts.

Matplotlib's own layouts measure every letter in one font, which takes longer than drawing, and the letters of our SVG
are set by the browser in another.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import LayoutEngine

LETTER, LINE = 0.58, 1.25  # mean width of a letter and height of a line, in font sizes
TICK, GAP = 8.0, 5.0  # points for a tick mark with its padding; between other things


class Margins(LayoutEngine):
    """Places the axes of one row side by side, below a legend of the figure and beside their labels."""

    _adjust_compatible = True
    _colorbar_gridspec = False

    def execute(self, fig: Figure) -> None:
        """Set the position of all axes of a figure."""
        size = float(mpl.rcParams["font.size"])
        width, height = 72 * fig.get_size_inches()
        top = GAP + sum(_legend_rows(legend) for legend in fig.legends) * LINE * size
        top += LINE * size * max(_lines(ax.get_title()) for ax in fig.axes)
        bottom = max(_below(ax, size) for ax in fig.axes)
        lefts = [_beside(ax, size) for ax in fig.axes]
        ends = [_half_a_label(ax, size) for ax in fig.axes]
        each = (width - sum(lefts) - sum(ends)) / len(fig.axes)
        x = 0.0
        for ax, left, end in zip(fig.axes, lefts, ends, strict=True):
            ax.set_position(
                (
                    (x + left) / width,
                    bottom / height,
                    max(each, size) / width,
                    max(height - top - bottom, size) / height,
                )
            )
            x += left + max(each, size) + end


def _legend_rows(legend: Any) -> float:
    return float(math.ceil(len(legend.get_texts()) / legend._ncols) + 0.8)  # noqa: SLF001  (there is no public way)


def _lines(text: str) -> int:
    return len(text.splitlines())


def _labels(axis: Axis) -> list[str]:
    if not axis.get_visible():
        return []
    return [str(text) for text in axis.get_major_formatter().format_ticks(list(axis.get_major_locator()()))]


def _longest(texts: Iterable[str]) -> int:
    return max((len(line) for text in texts for line in text.splitlines()), default=0)


def _beside(ax: Axes, size: float) -> float:
    """Return the points that the labels of the vertical axis take."""
    if not ax.yaxis.get_visible():
        return GAP
    return TICK + _longest(_labels(ax.yaxis)) * LETTER * size + _named(ax.get_ylabel(), size)


def _below(ax: Axes, size: float) -> float:
    """Return the points that the labels of the horizontal axis take."""
    labels = _labels(ax.xaxis)
    turned = _turned(ax)
    high = LINE * size * math.cos(turned) + _longest(labels) * LETTER * size * math.sin(turned)
    return TICK + high + _named(ax.get_xlabel(), size)


def _named(label: str, size: float) -> float:
    return _lines(label) * LINE * size + GAP if label else 0.0


def _half_a_label(ax: Axes, size: float) -> float:
    return max(GAP, _longest(_labels(ax.xaxis)[-1:]) * LETTER * size / 2 * math.cos(_turned(ax)))


def _turned(ax: Axes) -> float:
    """Return the angle of the labels below, in radians."""
    return math.radians(ax.xaxis.get_major_ticks(1)[0].label1.get_rotation())
