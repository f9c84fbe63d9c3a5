"""Charts of the outlook: joules over size with bands, and tornado charts, as inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from flows.reports.charts import COLOURS, MARKERS, WIDTH, log_axis, svg_of
from tasks.outlook.cells import Cell

LOOKS = {
    "best classical": "classical",
    "simulation": "twin",
    "own CPU alone": "control",
    "on the device": "quantum",
}


def growth(title: str, curves: Mapping[str, Any]) -> str | None:
    """Return joules over size: fits as lines with bands, evidence as markers, the extrapolated part shaded."""
    shown = [np.asarray(band) for name, band in curves["lines"].items() if name != "simulation"]
    if not shown:
        return None
    figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
    ax = figure.subplots()
    sizes = np.asarray(curves["sizes"])
    for name, band in curves["lines"].items():
        low, middle, high = np.asarray(band).T
        colour = COLOURS[LOOKS[name]]
        ax.plot(sizes, middle, color=colour, lw=1.7, label=name)
        ax.fill_between(sizes, low, high, color=colour, alpha=0.15, lw=0)
    for name, points in curves["seen"].items():
        if points and name in LOOKS:
            kind = LOOKS[name]
            ax.plot(*zip(*points, strict=True), color=COLOURS[kind], marker=MARKERS[kind], ls="none", ms=4.5)
    ax.axvspan(curves["largest"], sizes[-1], color="#f1f1ee", zorder=0)
    ax.annotate("extrapolated", (sizes[-1], 1.0), xycoords=("data", "axes fraction"), xytext=(-3, -10), textcoords="offset points", ha="right", fontsize=8)  # noqa: E501  # fmt: skip
    log_axis(ax, "x")
    log_axis(ax, "y")
    low, high = min(band.min() for band in shown), max(band.max() for band in shown)
    ax.set_ylim(low / 10, high * 10)  # simulation leaves the picture
    ax.set_xlabel("size of the decision, log scale")
    ax.set_ylabel("joules of a solve, log scale")
    figure.legend(loc="outside upper left", ncols=2)
    return svg_of(figure, title)


def bars(title: str, cells: Sequence[Cell]) -> str | None:
    """Return a tornado chart: the energy ratio with each assumption at its 5 % and 95 % points, the widest on top."""
    found = [cell for cell in cells if cell.band and all(point > 0 for point in cell.band)]
    if not found:
        return None
    figure = Figure(figsize=(WIDTH, 0.9 + 0.3 * len(found)), layout="constrained")
    ax = figure.subplots()
    for y, cell in enumerate(found):
        low, middle, high = cell.band or (1.0, 1.0, 1.0)
        ax.plot([middle, low], [y, y], color=COLOURS["classical"], lw=7, solid_capstyle="butt")
        ax.plot([middle, high], [y, y], color=COLOURS["quantum"], lw=7, solid_capstyle="butt")
        ax.axvline(middle, color="#444444", lw=0.8)
    ax.set_yticks(range(len(found)), [cell.key.rpartition("/")[2] for cell in found], fontsize=8)
    ax.set_ylim(len(found) - 0.4, -0.6)
    log_axis(ax, "x")
    ax.set_xlabel("energy, times the best classical arm\n(blue: at 5 %, red: at 95 %)")
    return svg_of(figure, title)
