"""Drift reports for the console and Markdown: lines, titles and cells of tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.text import Text

from flows.reports.text import band, number, table

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
    """Return the result in one line, with the columns compared and the arms that find drift."""
    saying = [name for name, said in found["arms"].items() if said["verdict"] == "drift"]
    return f"{found['line']}; arms that say drift: {', '.join(saying) or 'none'} (evidence of {found['run_id']})"


def remarks(found: Row) -> list[str]:
    """Return the schema changes, the columns left out and the notes, one line each."""
    changes = [
        f"schema: {row['column']} is {_CHANGES[row['change']]}{_because(row['detail'])}" for row in found["schema"]
    ]
    left_out = [f"not compared: {row['column']}: {row['why']}" for row in found["left_out"]]
    return [*changes, *left_out, *(f"note: {note}" for note in found["notes"])]


_CHANGES = {"gone": "gone", "new": "new", "type": "of another type", "timezone": "in another timezone"}


def _because(detail: str) -> str:
    return f" ({detail})" if detail else ""


def moved_title(found: Row) -> str:
    """Return the title of the table of features."""
    count, sizes = len(found["moved"]), found["looked_at"]
    drifted = sum(row["drifted"] for row in found["moved"])
    return (
        f"Features by drift: {drifted} of {count} drifted; {sizes['reference']:,} and {sizes['current']:,} rows "
        f"looked at; p-values adjusted for {count} features (Benjamini-Hochberg), effect at least {found['effect']:g}"
    )


def view_title(view: Row, found: Row) -> str:
    """Return the title of a view: what it compares."""
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
    """Return the cells of the segments, those with the most drifted features first."""
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
    """Return the compared windows of a table for the console: all, or of more than 40 those that are not ok."""
    windows = found["windows"]
    shown = windows if len(windows) <= 40 else [w for w in windows if w["state"] != "ok"][:40]
    title = "Windows" if shown is windows else f"Windows that were not ok, of {len(windows)}"
    return Group(table(title, WINDOW_HEADER, window_cells(shown)), Text(stream_verdict(found), style="bold"))


def window_cells(windows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return the cells of the compared windows of a table."""
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
    """Return the change points and the mean number of windows to a false one."""
    points = ", ".join(map(str, found["change_points"])) or "none"
    rules = found["rules"]
    return (
        f"change points (rows): {points}. A change is {rules['debounce']} windows in a row at p <= {rules['level']:g}; "
        f"by chance that takes {found['average_run_length']:,.0f} windows if windows were independent"
    )
