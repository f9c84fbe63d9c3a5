"""What drift looks like: tables on the console, and pages for two tables, for a walk and for the windows of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.text import Text

from flows.reports.text import band, number, pipes, table

Row = Mapping[str, Any]

ARM_HEADER = ("arm", "kind", "statistic", "p-value", "verdict", "circuits", "shots", "CPU s", "J [p5, p95], modelled")
MOVED_HEADER = ("feature", "effect", "p-value", "adjusted", "drifted", "how")
SEGMENT_HEADER = ("segment", "rows before", "rows now", "share before", "share now", "what moved")
WINDOW_HEADER = ("rows", "p-value", "state", "change", "moved most")
MOVED = 12  # features shown at least; those that drifted all are, up to LISTED
LISTED = 60


def compared(found: Row) -> Group:
    """Return two tables' comparison for the console."""
    parts: list[Any] = [table(view_title(view, found), ARM_HEADER, arm_cells(view)) for view in found["views"]]
    if found["moved"]:
        parts.append(table(moved_title(found), MOVED_HEADER, moved_cells(found["moved"])))
    if found["segments"]:
        parts.append(table(f"Segments by {found['by']}", SEGMENT_HEADER, segment_cells(found["segments"])))
    parts += [Text(line) for line in remarks(found)]
    return Group(*parts, Text(verdict(found), style="bold"))


def verdict(found: Row) -> str:
    """Say in a line what was found, over which columns, and which arms agree."""
    saying = [name for name, said in found["arms"].items() if said["verdict"] == "drift"]
    return f"{found['line']}; arms that say drift: {', '.join(saying) or 'none'} (evidence of {found['run_id']})"


def remarks(found: Row) -> list[str]:
    """Return the schema changes, the columns left out and the notes, a line each."""
    changes = [
        f"schema: {row['column']} is {_CHANGES[row['change']]}{_because(row['detail'])}" for row in found["schema"]
    ]
    left_out = [f"not compared: {row['column']}: {row['why']}" for row in found["left_out"]]
    return [*changes, *left_out, *(f"note: {note}" for note in found["notes"])]


_CHANGES = {"gone": "gone", "new": "new", "type": "of another type", "timezone": "in another timezone"}


def _because(detail: str) -> str:
    return f" ({detail})" if detail else ""


def moved_title(found: Row) -> str:
    """Say what the table of features shows."""
    count, sizes = len(found["moved"]), found["looked_at"]
    drifted = sum(row["drifted"] for row in found["moved"])
    return (
        f"What moved most: {drifted} of {count} features drifted; {sizes['reference']:,} and {sizes['current']:,} rows "
        f"looked at; p-values adjusted for {count} features (Benjamini-Hochberg), effect at least {found['effect']:g}"
    )


def view_title(view: Row, found: Row) -> str:
    """Say what is compared in a view."""
    what = "numbers, categories and descriptors" if view["view"] == "columns" else f"column {view['view']}"
    sizes = view["compared"]
    return (
        f"{what}: {sizes['reference']} of {found['rows']['reference']} rows against {sizes['current']} of "
        f"{found['rows']['current']}, {view['dimensions']} dimensions, level {number(view['level'])}"
    )


def arm_cells(view: Row) -> list[tuple[str, ...]]:
    """Return the cells of the arms of a view."""
    return [
        (
            row["arm"],
            row["kind"],
            number(row["statistic"]),
            number(row["p_value"]),
            row["verdict"],
            f"{row['circuits']:,}",
            f"{row['shots']:,}",
            number(row["cpu_s"]),
            band(row["energy_j"]),
        )
        for row in view["arms"]
    ]


def moved_cells(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return the cells of the features that drifted, and of the next ones."""
    count = min(LISTED, max(MOVED, sum(row["drifted"] for row in rows)))
    return [
        (
            row["feature"],
            number(row["distance"]),
            number(row["p_value"]),
            number(row["adjusted"]),
            "yes" if row["drifted"] else "no",
            row["how"],
        )
        for row in rows[:count]
    ]


def segment_cells(segments: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return the cells of the segments, those in which something moved first."""
    return [
        (
            row["value"],
            f"{row['rows'][0]:,}",
            f"{row['rows'][1]:,}",
            f"{row['share'][0]:.1%}",
            f"{row['share'][1]:.1%}",
            row["note"] or "; ".join(f"{f['feature']}: {f['how']}" for f in row["features"][:4]) or "-",
        )
        for row in sorted(segments, key=lambda row: -len(row["features"]))
    ]


def stream_lines(found: Row) -> Group:
    """Return a walk for the console: its windows where it is short, else those around a change."""
    windows = found["windows"]
    shown = windows if len(windows) <= 40 else [w for w in windows if w["state"] != "ok"][:40]
    title = "Windows" if shown is windows else f"Windows that were not ok, of {len(windows)}"
    return Group(table(title, WINDOW_HEADER, window_cells(shown)), Text(stream_verdict(found), style="bold"))


def window_cells(windows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return the cells of the windows of a walk."""
    return [
        (
            f"{w['begin']}-{w['end']}",
            number(w["p_value"]),
            w["state"],
            str(w["change"]) if w["change"] is not None else "",
            ", ".join(f"{row['feature']} {row['distance']:.2f}" for row in w["moved"][:2]),
        )
        for w in windows
    ]


def stream_verdict(found: Row) -> str:
    """Say where the stream changed and how often that happens by chance."""
    points = ", ".join(map(str, found["change_points"])) or "none"
    rules = found["rules"]
    return (
        f"change points (rows): {points}. A change is {rules['debounce']} windows in a row at p <= {rules['level']:g}; "
        f"by chance that takes {found['average_run_length']:,.0f} windows if windows were independent"
    )


def comparison(found: Row) -> str:
    """Return two tables' comparison as a page."""
    from flows.reports import charts
    from flows.reports.drift_charts import column_chart

    rows = found["rows"]
    effects: dict[str, Row] = {}
    for row in found["moved"]:
        effects.setdefault(row["column"], row)
    with charts.style():
        pictures = [
            {"column": p["column"], "svg": column_chart(p), "caption": _caption(effects[p["column"]])}
            for p in found["profiles"]
        ]
    return _page(
        f"Drift: {found['current']} against {found['reference']}",
        verdict(found),
        figures=[
            (found["verdict"], "verdict"),
            (str(len(found["drifted"])), f"of {len(found['columns'])} compared columns moved"),
            (str(len(found["schema"])), "schema changes"),
            (f"{rows['reference']:,} / {rows['current']:,}", "rows before / now"),
        ],
        pictures=pictures,
        examples=found["examples"],
        segments=segment_cells(found["segments"]),
        by=found["by"],
        views=[{"title": view_title(view, found), "cells": arm_cells(view)} for view in found["views"]],
        moved=moved_cells(found["moved"]),
        moved_title=moved_title(found),
        notes=remarks(found),
    )


def _caption(row: Row) -> str:
    said = "drifted" if row["drifted"] else "not drifted"
    return f"{row['feature']}: {row['how']}; effect {number(row['distance'])}, adjusted p {number(row['adjusted'])}, {said}"  # noqa: E501


def walked(found: Row) -> str:
    """Return a walk as a page."""
    rows = [
        {"window": str(w["begin"]), "p_value": w["p_value"], "state": w["state"], "drifted": w["change"] is not None}
        for w in found["windows"]
    ]
    return _page(
        f"Drift: {found['current']} against {found['reference']}",
        stream_verdict(found),
        rows=rows,
        level=found["rules"]["level"],
        shaded="windows on which a change was announced",
        windows=window_cells(found["windows"]),
    )


def _page(
    title: str,
    subtitle: str,
    *,
    rows: Sequence[Row] = (),
    level: float | None = None,
    shaded: str = "",
    windows: Sequence[Sequence[str]] = (),
    window_header: Sequence[str] = WINDOW_HEADER,
    figures: Sequence[tuple[str, str]] = (),
    views: Sequence[Row] = (),
    moved: Sequence[Sequence[str]] = (),
    moved_title: str = "",
    pictures: Sequence[Row] = (),
    examples: Mapping[str, Row] | None = None,
    segments: Sequence[Sequence[str]] = (),
    by: str | None = None,
    texts: Sequence[Row] = (),
    energy: Sequence[Row] = (),
    notes: Sequence[str] = (),
) -> str:
    from flows.reports import charts
    from flows.reports.html import templates

    with charts.style():
        return templates().get_template("drift.html").render(
            title=title,
            subtitle=subtitle,
            figures=figures,
            drift_chart=charts.drift(rows, level),
            shaded=shaded,
            windows=windows,
            window_header=window_header,
            arm_header=ARM_HEADER,
            views=views,
            moved_header=MOVED_HEADER,
            moved=moved,
            moved_title=moved_title,
            pictures=pictures,
            examples=examples or {},
            segment_header=SEGMENT_HEADER,
            segments=segments,
            by=by,
            texts=texts,
            energy_chart=charts.energy_per_request(energy),
            notes=notes,
        )  # fmt: skip


VERDICT_HEADER = (
    "window",
    "requests",
    "p-value",
    "state",
    "announced",
    "quality",
    "log-likelihood, nats per token",
    "mixed",
)
STRANGEST = 8  # texts shown


def of_run(home: Path, run_id: str, refs: Mapping[str, str], facts: Row) -> tuple[str, str]:
    """Return the drift of a run's request windows as a page and as Markdown.

    Args:
        home: the state folder.
        run_id: the run.
        refs: products of the stage, name to lake reference.
        facts: of the stage.
    """
    from infra.lake import Ref
    from infra.shared import open_lake

    lake = open_lake(home)
    rows = lake.read(Ref.parse(refs["monitoring/verdicts"])).to_pylist()
    cells = [
        (
            row["window"],
            str(row["requests"]),
            number(row["p_value"]),
            row["state"],
            row["announced"] or "-",
            row["quality"] or "-",
            number(row["mean_logprob"], 4),
            "yes" if row["drifted"] else "no",
        )
        for row in rows
    ]
    energy = list(_energies(facts.get("cpu_s_per_request", {})))
    last = rows[-1] if rows else {"state": "no window", "quality": None}
    joules = [entry["energy_j"][1] for entry in energy]
    figures: list[tuple[str, str]] = [
        (str(last["state"]), "state after the last window"),
        (str(last["quality"] or "unknown"), "quality of the last window, without labels"),
        (str(sum(row["requests"] for row in rows)), "requests judged"),
        (f"{number(sum(joules) / len(joules))} J" if joules else "-", "energy of a request, modelled"),
    ]
    page = _page(
        f"Drift of run {run_id}",
        "; ".join(f"{row['window']}: {row['state']}" for row in rows) or "no window was watched",
        rows=rows,
        level=facts.get("alarm_level"),
        shaded="windows into which the second domain was mixed",
        windows=cells,
        window_header=VERDICT_HEADER,
        figures=figures,
        texts=_strangest(lake, refs),
        energy=energy,
    )
    return page, pipes(VERDICT_HEADER, cells)


def _energies(cpu_s: Mapping[str, float | None]) -> Iterator[dict[str, Any]]:
    from infra.energy.model import Coefficients
    from infra.energy.usage import Usage

    coefficients = Coefficients.load()
    for window, seconds in cpu_s.items():
        if seconds:
            found = coefficients.cpu_energy_j(Usage(cpu_s=seconds), "narrow", "modelled")
            yield {"window": window, "energy_j": [found.p5, found.p50, found.p95]}


def _strangest(lake: Any, refs: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the requests with the highest scores and their texts, none where the run scored none."""
    from infra.lake import Ref

    if "monitoring/anomalies" not in refs:
        return []
    rows = lake.read(Ref.parse(refs["monitoring/anomalies"])).slice(0, STRANGEST).to_pylist()
    windows = lake.read(Ref.parse(refs["monitoring/windows"]), ["window", "position", "text"]).to_pylist()
    texts = {(row["window"], row["position"]): row["text"] for row in windows}
    return [
        {"window": r["window"], "score": r["score"], "text": texts.get((r["window"], r["position"])) or "not kept"}
        for r in rows
    ]
