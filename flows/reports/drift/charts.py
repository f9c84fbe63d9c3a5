"""Charts of drifted columns: overlaid histograms of numbers, paired bars of categories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from flows.reports.charts import WIDTH, svg_of

BEFORE, NOW = "#8a8a8a", "#C8370A"


def column_chart(profile: Mapping[str, Any]) -> str:
    """Return the shares of a column before and now as an SVG element; see `tasks.monitoring.tables.profiles`."""
    figure = Figure(figsize=(WIDTH, 2.3), layout="constrained")
    ax = figure.subplots()
    if profile["kind"] == "number":
        edges = np.array(profile["edges"], float)
        ax.stairs(profile["before"], edges, fill=True, color=BEFORE, alpha=0.45, label="before")
        ax.stairs(profile["now"], edges, fill=False, color=NOW, lw=1.8, label="now")
        if profile["labels"]:
            at = np.linspace(0, len(edges) - 1, 4).astype(int)
            ax.set_xticks(edges[at], [profile["labels"][i] for i in at])
    else:
        at = np.arange(len(profile["levels"]))
        ax.bar(at - 0.2, profile["before"], 0.4, color=BEFORE, alpha=0.7, label="before")
        ax.bar(at + 0.2, profile["now"], 0.4, color=NOW, label="now")
        names = [level if len(level) <= 14 else f"{level[:13]}…" for level in profile["levels"]]
        ax.set_xticks(at, names, rotation=0 if len(at) <= 5 else 45, ha="center" if len(at) <= 5 else "right")
    ax.set_ylabel("share of the values")
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    figure.legend(loc="outside upper left", ncols=2)
    return svg_of(figure, f"{profile['column']} before and now")
