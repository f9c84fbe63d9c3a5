"""Quality against energy for the arms of all decisions of one run: one picture for the report and the README.

Both axes are relative to the best classical arm of the decision, so that decisions with different units share one
picture: energy as a factor, quality as a difference in tolerances. Energies are those of this machine, simulation
included, with the source that the report names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from matplotlib.figure import Figure

from flows.reports.charts import COLOURS, MARKERS, log_axis, svg_of
from flows.reports.run.closing import best_arm, spent_j

Row = Mapping[str, Any]
LINEAR = 2.0  # tolerances around the best classical quality that are drawn on a linear scale
SIZES = {"wide": (7.2, 3.6), "narrow": (4.7, 4.2)}  # inches


def points(report: Row) -> Iterator[tuple[str, float, float]]:
    """Yield kind, energy factor and quality difference in tolerances of every scored arm."""
    for stage in report["stages"]:
        for subtask in stage["subtasks"]:
            best = best_arm(subtask)
            if best is None or not spent_j(best):
                continue
            reference = next(r for r in subtask["rows"] if r["arm"] == subtask["best_classical"]["reference"])
            for row in subtask["rows"]:
                if row["quality"] is not None and row["n"] == reference["n"] and subtask["tolerance"]:
                    lost = (row["quality"] - reference["quality"]) / subtask["tolerance"]
                    yield row["kind"], spent_j(row) / spent_j(best), lost


def overview(report: Row, size: str = "narrow") -> str | None:
    """Return the picture of a run's report as SVG, or None where no arm could be compared; draw in `charts.style`."""
    arms = list(points(report))
    if not arms:
        return None
    sources = sorted({s for stage in report["stages"] for subtask in stage["subtasks"] for s in subtask["sources"]})
    figure = Figure(figsize=SIZES[size], layout="constrained")
    ax = figure.subplots()
    ax.axhspan(-1, 1, color="#eef3f7", lw=0)
    for kind, colour in COLOURS.items():
        if its := [point for point in arms if point[0] == kind]:
            x, y = [p[1] for p in its], [p[2] for p in its]
            ax.scatter(x, y, color=colour, marker=MARKERS[kind], s=34, label=kind, alpha=0.85, lw=0)
    log_axis(ax, "x")
    ax.set_yscale("symlog", linthresh=LINEAR)
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.set_xlabel(f"energy / energy of the best classical arm\n({', '.join(sources)}, simulation included)")
    ax.set_ylabel("quality - best classical,\nin tolerances")
    ax.set_title("Arms of all decisions; in the band:\nas good within the tolerance", fontsize=9.5)
    ax.legend(fontsize=8, ncols=5 if size == "wide" else 3, loc="upper center", bbox_to_anchor=(0.5, -0.25))
    return svg_of(figure, "quality against energy of all arms of one run")
