"""Charts of the HTML report: matplotlib figures as inline SVG, sized for the width of a phone.

Kinds of arms differ by shape and by colour (Okabe and Ito's palette, safe for colour-blind readers); bands are the
5 % and 95 % points. Everything is drawn from the report's dictionary or from tables of the lake.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from textwrap import fill
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from flows.reports.margins import Margins

Row = Mapping[str, Any]

WIDTH = 4.7  # inches; at 72 points each a chart is as wide as a phone's page, so its letters stay as large as the text
COLOURS = {
    "control": "#6b6b6b",
    "classical": "#0072B2",
    "twin": "#9a6300",
    "dequantised": "#009E73",
    "quantum": "#C8370A",
}
MARKERS = {"control": "X", "classical": "o", "twin": "D", "dequantised": "^", "quantum": "s"}
STATES = {"ok": ("#009E73", "o"), "warning": ("#E69F00", "^"), "alert": ("#C8370A", "s")}
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "legend.frameon": False,
}
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_NAMED = re.compile(r' id="(?:figure|axes|matplotlib|patch|line2d|text|xtick|ytick|legend|LineCollection|PathCollection|FillBetween)[^"]*"')  # fmt: skip  # noqa: E501


def style() -> Any:
    """Return the context in which charts are drawn."""
    return mpl.rc_context(_STYLE)


def svg_of(figure: Figure, title: str) -> str:
    """Return the figure as an SVG element, without identifiers that could collide with other charts of a page."""
    out = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": title}):
        if engine := figure.get_layout_engine():  # once; to save a figure with an engine is to draw it twice
            engine.execute(figure)
            figure.set_layout_engine("none")
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        canvas: Any = FigureCanvasSVG(figure)  # `savefig` would lay out everything once more
        canvas.print_svg(out, metadata=nothing)
    text = out.getvalue()
    text = _NAMED.sub("", text[text.index("<svg") :])
    label = title.replace("&", "and").replace("<", "").replace('"', "")
    return re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', rf'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {{}} \1 role="img" aria-label="{label}">'.replace(" {}", ""), text, count=1)  # fmt: skip  # noqa: E501


def _figure(height: float, columns: int = 1, **grid: Any) -> tuple[Figure, Any]:
    figure = Figure(figsize=(WIDTH, height), layout=Margins())
    return figure, figure.subplots(1, columns, **grid)


def _dot(ax: Axes, x: Sequence[float], y: float, colour: str, marker: str, **more: Any) -> None:
    """Draw a band [p5, p50, p95] as an error bar with a marker at the median."""
    look = {"ms": 6, "lw": 1.1, "solid_capstyle": "butt", **more}
    ax.plot(x, [y] * 3, color=colour, marker=marker, markevery=[1], **look)


def log_axis(ax: Axes, which: Literal["x", "y"]) -> None:
    """Make an axis logarithmic, with plain text at powers of ten: formulae and minor marks are slow to draw."""
    axis = ax.xaxis if which == "x" else ax.yaxis
    ax.set_xscale("log") if which == "x" else ax.set_yscale("log")
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"10{str(round(np.log10(value))).translate(_RAISED)}"))
    axis.set_minor_locator(NullLocator())  # nine of ten marks


def _rows(ax: Axes, names: Sequence[str]) -> None:
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")


def _kinds(kinds: Iterable[str]) -> list[Line2D]:
    present = set(kinds)
    return [
        Line2D([], [], color=COLOURS[kind], marker=MARKERS[kind], ls="none", ms=6, label=kind)
        for kind in COLOURS
        if kind in present
    ]


def energy_by_stage(report: Row) -> str | None:
    """Return the joules of each stage's own work, its decisions, and orchestration, in both boundaries."""
    rows = [(s["stage"], s["spent"]) for s in report["stages"] if s.get("spent")]
    if report["orchestration"]:
        rows.append(("orchestration", report["orchestration"]["energy"]))
    if not rows:
        return None
    figure, ax = _figure(0.8 + 0.36 * len(rows))
    for y, (_, energy) in enumerate(rows):
        _dot(ax, energy["narrow"], y - 0.13, COLOURS["classical"], "o")
        _dot(ax, energy["wide"], y + 0.17, COLOURS["control"], "|", ms=9, mew=2)
    _rows(ax, [name for name, _ in rows])
    log_axis(ax, "x")
    ax.set_xlabel("joules, log scale")
    handles = [
        Line2D([], [], color=COLOURS["classical"], marker="o", ls="-", label="narrow (CPU and DRAM)"),
        Line2D([], [], color=COLOURS["control"], marker="|", ms=9, mew=2, ls="-", label="wide (to the building)"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=2)
    return svg_of(figure, f"Energy by stage of run {report['run_id']}")


def arms(subtask: Row) -> str | None:
    """Return one decision's arms: joules with bands on the left, quality with intervals on the right.

    The cheapest arm is on top; a line joins the arms that are better than all cheaper ones (the Pareto front).
    """
    rows = [row for row in subtask["rows"] if row["status"] == "done"]
    if not rows:
        return None
    rows.sort(key=lambda row: row["energy"]["spent"]["narrow"][1])
    scored = [row for row in rows if row["quality"] is not None]
    figure, both = _figure(max(1.9, 0.95 + 0.25 * len(rows)), 2 if scored else 1, sharey=True, squeeze=False)
    left, *right = both[0]
    low = _lowest(scored, subtask["tolerance"])
    for y, row in enumerate(rows):
        colour, marker, edge = _look(row, subtask)
        _dot(left, row["energy"]["spent"]["narrow"], y, colour, marker, **edge)
        if row["quality"] is not None:
            _quality(right[0], row, y, low, colour, marker, edge)
    _rows(left, [row["arm"] for row in rows])
    log_axis(left, "x")
    left.set_xlabel("joules spent,\nlog scale")
    if right:
        front = {row["arm"]: max(low, row["quality"]) for row in _front(scored)}
        steps = [(front[row["arm"]], y) for y, row in enumerate(rows) if row["arm"] in front]
        right[0].plot(*zip(*steps, strict=True), color="#444444", lw=1, ls="--", zorder=1)
        if subtask["oracle"] is not None:
            right[0].axvline(subtask["oracle"], color="#444444", lw=1, ls=":")
        right[0].set_xlabel(f"{fill(subtask['metric'], 18)},\nhigher is better")
        right[0].xaxis.set_major_locator(MaxNLocator(2, min_n_ticks=2))
        right[0].yaxis.set_visible(b=False)
        right[0].margins(x=0.08)
    figure.legend(
        handles=_kinds(r["kind"] for r in rows), loc="outside upper left", ncols=5, columnspacing=0.6, handletextpad=0.1
    )
    return svg_of(figure, f"Energy and quality of the arms of {subtask['name']}")


def _look(row: Row, subtask: Row) -> tuple[str, str, dict[str, Any]]:
    edge = {"mec": "black", "mew": 1.6} if row["arm"] == subtask["chosen"] else {}
    return COLOURS[row["kind"]], MARKERS[row["kind"]], edge


def _lowest(rows: Sequence[Row], tolerance: float) -> float:
    """Return the quality below which arms are drawn at the edge of the chart, so that the others stay separable."""
    if not rows:
        return -np.inf
    qualities = np.asarray([row["quality"] for row in rows])
    shortfalls = qualities.max() - qualities
    span = max(4 * float(np.median(shortfalls)), 3 * tolerance)
    return -np.inf if shortfalls.max() <= 1.5 * span else float(qualities.max() - span)


def _quality(ax: Axes, row: Row, y: float, low: float, colour: str, marker: str, edge: Mapping[str, Any]) -> None:
    value = row["quality"]
    if value < low:
        ax.plot([low], [y], marker="<", color=colour, ms=6, ls="none", **edge)
        ax.annotate(f"{value:.3g}", (low, y), xytext=(5, -3), textcoords="offset points", fontsize=8, color=colour)
        return
    ends = [value if row[end] is None else row[end] for end in ("quality_lo", "quality_hi")]
    _dot(ax, (max(low, ends[0]), value, ends[1]), y, colour, marker, **edge)


def _broken(metric: str) -> str:
    return f"{metric}, higher is better" if len(metric) < 16 else f"{metric},\nhigher is better"


def quality_against_energy(subtask: Row) -> str | None:
    """Return quality over joules of one decision's arms, with a line through the Pareto front."""
    rows = [row for row in subtask["rows"] if row["quality"] is not None and row["status"] == "done"]
    if len(rows) < 2:
        return None
    figure, ax = _figure(3.2)
    low = _lowest(rows, subtask["tolerance"])
    for row in rows:
        colour, marker, edge = _look(row, subtask)
        p5, middle, p95 = row["energy"]["spent"]["narrow"]
        quality = max(low, row["quality"])
        ax.plot([p5, p95], [quality] * 2, color=colour, lw=1, alpha=0.35)
        if row["quality_lo"] is not None and row["quality"] >= low:
            ax.plot([middle] * 2, [max(low, row["quality_lo"]), row["quality_hi"]], color=colour, lw=1, alpha=0.35)
        ax.plot([middle], [quality], marker=marker if row["quality"] >= low else "v", color=colour, ls="none", ms=7, **edge)  # noqa: E501  # fmt: skip
    front = _front(rows)
    points = [(row["energy"]["spent"]["narrow"][1], max(low, row["quality"])) for row in front]
    ax.plot(*zip(*points, strict=True), color="#444444", lw=1, ls="--", zorder=1, drawstyle="steps-post")
    log_axis(ax, "x")
    ax.margins(x=0.12, y=0.2)
    chosen = [row for row in rows if row["arm"] == subtask["chosen"]]
    _name(ax, [*chosen, *(row for row in rows if row["role"]), *reversed(front)], low)
    ax.set_xlabel("joules spent, log scale")
    ax.set_ylabel(_broken(subtask["metric"]))
    figure.legend(
        handles=_kinds(r["kind"] for r in rows), loc="outside upper left", ncols=5, columnspacing=0.6, handletextpad=0.1
    )
    return svg_of(figure, f"Quality against energy for {subtask['name']}")


def _name(ax: Axes, rows: Sequence[Row], low: float) -> None:
    """Label the markers with the names of arms, in order; a name that would cover another is left out."""
    width, height = 72 * (WIDTH - 0.9), 72 * 2.1  # about the size of the axes, in points
    (x0, x1), (y0, y1) = np.log10(ax.get_xlim()), ax.get_ylim()
    taken: list[tuple[float, float, float]] = []
    for row in {row["arm"]: row for row in reversed(rows)}.values():
        energy_j, quality = row["energy"]["spent"]["narrow"][1], max(low, row["quality"])
        if energy_j <= 0:  # too quick for the clock: a logarithmic axis has no place for it
            continue
        x, y = (np.log10(energy_j) - x0) / (x1 - x0) * width, (quality - y0) / (y1 - y0) * height
        name = row["arm"].replace("_", "-") + (f" ({row['quality']:.3g})" if row["quality"] < low else "")
        half = 2.3 * len(name)
        for shift in (8, -15):
            if all(abs(x - u) > half + v or abs(y + shift - w) > 10 for u, v, w in taken):
                taken.append((x, half, y + shift))
                at = (energy_j, quality)
                ax.annotate(name, at, xytext=(0, shift), textcoords="offset points", ha="center", fontsize=8)
                break


def _front(rows: Sequence[Row]) -> list[Row]:
    """Return the Pareto front of joules and quality, the cheapest arm first."""
    front: list[Row] = []
    for row in sorted(rows, key=lambda r: (r["energy"]["spent"]["narrow"][1], -r["quality"])):
        if not front or row["quality"] > front[-1]["quality"]:
            front.append(row)
    return front


def three_energies(report: Row) -> str | None:
    """Return the three energies of every quantum arm side by side, on one log axis."""
    rows = [
        (subtask["name"], row)
        for stage in report["stages"]
        for subtask in stage["subtasks"]
        for row in subtask["rows"]
        if row["kind"] == "quantum" and row["energy"]["qpu"]
    ]
    if not rows:
        return None
    figure, ax = _figure(1.1 + 0.5 * len(rows))
    lines = (("best_classical", "classical", -0.2), ("simulation", "twin", 0.0), ("qpu", "quantum", 0.2))
    for y, (_, row) in enumerate(rows):
        for name, kind, offset in lines:
            if row["energy"][name]:
                _dot(ax, row["energy"][name]["narrow"], y + offset, COLOURS[kind], MARKERS[kind])
    _rows(ax, [f"{name}\n{row['arm'].replace('_', '-')}" for name, row in rows])
    log_axis(ax, "x")
    ax.set_xlabel("joules, narrow boundary, log scale")
    billed = {not row["energy"]["qpu"]["projected"] for _, row in rows}
    words = {True: "billed time, modelled power", False: "projected time, modelled power"}
    sources = sorted({row["energy"]["spent"]["source"] for _, row in rows})
    labels = (
        f"best classical ({' or '.join(sources)})",
        f"simulation ({' or '.join(sources)})",
        f"QPU ({' or '.join(words[b] for b in sorted(billed))})",
    )
    handles = [
        Line2D([], [], color=COLOURS[kind], marker=MARKERS[kind], ls="-", label=label)
        for (_, kind, _), label in zip(lines, labels, strict=True)
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=1)
    return svg_of(figure, f"Three energies of run {report['run_id']}")


def drawn(title: str, chart: Row) -> str:
    """Return the chart of a section: a waterfall or lines."""
    return str(waterfall(title, chart) if "steps" in chart else lines(title, chart))


def waterfall(title: str, chart: Row) -> str:
    """Return the steps as bars, each from the cumulative height of those before it, with totals between them."""
    parts = list(dict.fromkeys(step["part"] for step in chart["steps"]))
    colour = dict(zip(parts, cycle(COLOURS[kind] for kind in ("classical", "quantum", "dequantised", "twin"))))
    totals = {at: name for name, at in chart["totals"]}
    bars: list[tuple[str, float, float, str]] = []
    height = 0.0
    for number, step in enumerate(chart["steps"], 1):
        bars.append((step["name"], height, step["amount"], colour[step["part"]]))
        height += step["amount"]
        if number in totals:
            bars.append((totals[number], 0.0, height, COLOURS["control"]))
    figure, ax = _figure(0.9 + 0.26 * len(bars))
    reach = max(max(start, start + amount) for _, start, amount, _ in bars)
    for y, (_, start, amount, fill_colour) in enumerate(bars):
        ax.barh(y, amount, left=start, height=0.7, color=fill_colour)
        if y + 1 < len(bars):
            ax.plot([start + amount] * 2, [y - 0.35, y + 1.35], color="#444444", lw=0.6)
        right = max(start, start + amount)
        said = f"{amount:,.0f}" if abs(amount) >= 100 else f"{amount:.3g}"
        ax.annotate(said, (right, y), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8)  # fmt: skip
    _rows(ax, [name for name, *_ in bars])
    ax.set_xlim(0, 1.16 * reach)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.set_xlabel(chart["axis"])
    handles = [Line2D([], [], color=colour[part], marker="s", ls="none", ms=7, label=part) for part in parts]
    figure.legend(handles=handles, loc="outside upper left", ncols=4, columnspacing=0.8, handletextpad=0.2)
    return svg_of(figure, title)


def lines(title: str, chart: Row) -> str:
    """Return the series of a section's chart as lines, its levels dotted."""
    figure, ax = _figure(2.9)
    styles = [(COLOURS[kind], MARKERS[kind]) for kind in ("classical", "quantum", "dequantised", "twin", "control")]
    for (colour, marker), series in zip(cycle(styles), chart["series"], strict=False):
        few = len(series["points"]) < 60
        ax.plot(*zip(*series["points"], strict=True), color=colour, marker=marker if few else "", ms=5, lw=1.6 if few else 0.9, label=series["name"])  # noqa: E501  # fmt: skip
    for axis in chart["log"]:
        _plain_log(ax, axis)
    levels = dict(chart["levels"])
    heights = [*levels.values(), *(y for series in chart["series"] for _, y in series["points"])]
    right = ax.get_xlim()[1]
    for name, value in _together(levels, 0.04 * float(np.ptp(heights))):
        ax.axhline(value, color="#888888", lw=0.8, ls=":")
        ax.annotate(name, (right, value), xytext=(0, 2), textcoords="offset points", ha="right", fontsize=8, color="#444444", bbox={"fc": "white", "ec": "none", "alpha": 0.8, "pad": 0.5})  # noqa: E501  # fmt: skip
    if "x" not in chart["log"] and all(
        float(x).is_integer() for series in chart["series"] for x, _ in series["points"]
    ):
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.set_xlabel(chart["x"])
    ax.set_ylabel(fill(chart["y"], 34))
    if len(chart["series"]) > 1:
        figure.legend(loc="outside upper left", ncols=3)
    return svg_of(figure, title)


def _plain_log(ax: Axes, which: str) -> None:
    """Make an axis logarithmic with plain numbers at its ticks, several in each decade where there are few decades."""
    ax.set_xscale("log") if which == "x" else ax.set_yscale("log")
    axis = ax.xaxis if which == "x" else ax.yaxis
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def _together(references: Mapping[str, float], near: float) -> Iterator[tuple[str, float]]:
    """Yield names and values; close values share one name."""
    names: list[str] = []
    last = -np.inf
    for name, value in sorted(references.items(), key=lambda item: item[1]):
        if names and value - last > near:
            yield ", ".join(names), last
            names = []
        names.append(name)
        last = value
    if names:
        yield ", ".join(names), last


def drift(verdicts: Sequence[Row], level: float | None) -> str | None:
    """Return the p-value of each window in order of time, marked by the state after it."""
    if not verdicts:
        return None
    figure, ax = _figure(2.8)
    x = np.arange(len(verdicts))
    p = np.array([row["p_value"] for row in verdicts])
    ax.plot(x, p, color="#888888", lw=1, zorder=1)
    size = 8 if len(x) < 30 else 4
    for state in dict.fromkeys(row["state"] for row in verdicts):
        colour, marker = STATES.get(state, (COLOURS["control"], "X"))
        at = [i for i, row in enumerate(verdicts) if row["state"] == state]
        ax.plot(at, p[at], marker=marker, color=colour, ms=size, ls="none")
    for i, row in enumerate(verdicts):
        if row["drifted"]:
            ax.axvspan(i - 0.5, i + 0.5, color="#f3e9d7", zorder=0)
    if level:
        ax.axhline(level, color="#444444", lw=0.9, ls=":")
        ax.annotate(f"alarm level {level:g}", (x[-1] + 0.45, level), xytext=(0, 2), textcoords="offset points", ha="right", fontsize=8)  # noqa: E501  # fmt: skip
    log_axis(ax, "y")
    shown = x[:: -(-len(x) // 12)]
    ax.set_xticks(shown, [verdicts[i]["window"] for i in shown], rotation=0 if len(x) < 7 else 60)
    ax.set_xlim(-0.5, len(x) - 0.5)
    ax.margins(y=0.15)
    ax.set_ylabel("p-value, log scale")
    handles = [Line2D([], [], color=c, marker=m, ls="none", ms=7, label=name) for name, (c, m) in STATES.items()]
    figure.legend(handles=handles, loc="outside upper left", ncols=3)
    return svg_of(figure, "Drift over time")


def energy_per_request(windows: Sequence[Row]) -> str | None:
    """Return the modelled joules of a request in each window as bands; windows without a figure are left out."""
    rows = [row for row in windows if row.get("energy_j")]
    if not rows:
        return None
    figure, ax = _figure(0.9 + 0.34 * len(rows))
    for y, row in enumerate(rows):
        _dot(ax, row["energy_j"], y, COLOURS["classical"], "o")
    _rows(ax, [row["window"] for row in rows])
    ax.set_xlim(left=0)
    ax.set_xlabel("joules a request, modelled")
    return svg_of(figure, "Energy per request")
