"""Plots and page of a study: quality against energy, paired differences as a forest plot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from flows.reports.charts import COLOURS, MARKERS, quality_against_energy, style, svg_of
from flows.reports.html import templates
from flows.reports.study.cells import Row, filled_tables, markdown, notes, title
from infra.lake import write_atomic


def quality_energy(found: Row) -> str | None:
    """Return quality over joules of a mean solve, with both intervals, as SVG."""
    subtask = {**found, "name": found["subtask"], "chosen": found["incumbent"], "rows": found["arms"]}
    with style():
        return quality_against_energy(subtask)


def forest(found: Row) -> str | None:
    """Return the paired differences to the incumbent with their intervals and the tolerance, as SVG."""
    rows = [row for row in found["arms"] if row["arm"] != found["incumbent"] and row["difference"] is not None]
    if not rows:
        return None
    rows = sorted(rows, key=lambda row: row["difference"])
    with style():
        figure = Figure(figsize=(5.8, 0.9 + 0.3 * len(rows)), layout="constrained")
        ax = figure.subplots()
        ax.axvspan(-found["tolerance"], found["tolerance"], color="#eeeeee", zorder=0, label="within the tolerance")
        ax.axvline(0, color="#444444", lw=1)
        for y, row in enumerate(rows):
            low, high = row["difference_interval"] or (row["difference"],) * 2
            colour = COLOURS[row["kind"]]
            ax.plot([low, high], [y, y], color=colour, lw=1.6, alpha=0.6)
            ax.plot([row["difference"]], [y], marker=MARKERS[row["kind"]], color=colour, ms=6, ls="none")
        ax.set_yticks(range(len(rows)), [row["arm"] for row in rows])
        if max(abs(row["difference"]) for row in rows) > 20 * found["tolerance"]:
            ax.set_xscale("symlog", linthresh=2 * found["tolerance"])
        ax.set_xlabel(f"{found['metric']}\npaired difference to {found['incumbent']}, mean and 95 % interval")
        ax.margins(x=0.06)
        ax.legend(loc="best", fontsize=8)
        return svg_of(figure, f"Paired differences of {found['subtask']}")


def study_page(found: Row, plots: Sequence[str]) -> str:
    """Return the study as a self-contained HTML page."""
    return (
        templates()
        .get_template("study.html")
        .render(
            found=found,
            about=title(found),
            tables=list(filled_tables(found)),
            notes=notes(found),
            plots=plots,
        )
    )


def write_study(folder: Path, found: Row) -> None:
    """Write `study.json`, `study.md`, `study.html` and the plots into the study's folder."""
    write_atomic(folder / "study.json", json.dumps(found, indent=1, default=str))
    write_atomic(folder / "study.md", markdown(found))
    plots = {"quality-energy": quality_energy(found), "differences": forest(found)}
    for name, svg in plots.items():
        if svg:
            write_atomic(folder / f"{name}.svg", svg)
    write_atomic(folder / "study.html", study_page(found, [svg for svg in plots.values() if svg]))
