"""Pages of drift: of two tables, of the windows of one table, and of the request windows of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.reports.drift.cells import (
    ARM_HEADER,
    MOVED_HEADER,
    SEGMENT_HEADER,
    WINDOW_HEADER,
    arm_cells,
    moved_cells,
    moved_title,
    remarks,
    segment_cells,
    stream_verdict,
    verdict,
    view_title,
    window_cells,
)
from flows.reports.text import number, pipes

Row = Mapping[str, Any]


def comparison(found: Row) -> str:
    """Return two tables' comparison as a page."""
    from flows.reports import charts
    from flows.reports.drift.charts import column_chart

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
    """Return the compared windows of a table as a page."""
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
