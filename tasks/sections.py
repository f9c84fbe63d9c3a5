"""The sections of a report: what a stage shows of its result, as plain values that any page can render.

A stage offers them in `sections(facts)`; the report stores them, and pages are made from the stored report.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Cell = str | int | float | None


@dataclass(frozen=True)
class Series:
    """Named points (x, y), in the order in which a line joins them."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Chart:
    """Series over one x axis.

    Attributes:
        x: label of the x axis, with its unit.
        y: label of the y axis, with its unit.
        series: the lines.
        levels: named values of y to compare the lines with.
        log: the axes that are logarithmic.
    """

    x: str
    y: str
    series: tuple[Series, ...]
    levels: tuple[tuple[str, float], ...] = ()
    log: Literal["", "x", "y", "xy"] = ""

    def __post_init__(self) -> None:
        points = [point for series in self.series for point in series.points]
        if not points:
            raise ValueError("a chart needs at least one point")
        values = {"x": [x for x, _ in points], "y": [*(y for _, y in points), *(y for _, y in self.levels)]}
        if not all(math.isfinite(value) for axis in values.values() for value in axis):
            raise ValueError("the points of a chart are finite numbers")
        if any(value <= 0 for axis in self.log for value in values[axis]):
            raise ValueError("a logarithmic axis needs values above 0")


@dataclass(frozen=True)
class Step:
    """A bar of a waterfall.

    Attributes:
        name: what the bar is.
        part: what it belongs to; bars of one part have one colour.
        amount: by how much the height changes, negative for a saving.
    """

    name: str
    part: str
    amount: float


@dataclass(frozen=True)
class Waterfall:
    """Amounts that add up one after another, as bars from one height to the next.

    Attributes:
        axis: label of the axis, with its unit.
        steps: the bars in order.
        totals: names of the heights that are reached, each with the number of steps before it.
    """

    axis: str
    steps: tuple[Step, ...]
    totals: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        if not self.steps or not all(math.isfinite(step.amount) for step in self.steps):
            raise ValueError("a waterfall needs at least one step, and finite amounts")
        if not all(0 < at <= len(self.steps) for _, at in self.totals):
            raise ValueError(f"the totals {self.totals} should lie behind one of {len(self.steps)} steps")


@dataclass(frozen=True)
class Section:
    """A part of a stage's report: a title with a sentence, a table, a chart, or several of them.

    Attributes:
        title: the heading.
        sentence: what is shown, in words.
        header: names of the table's columns.
        rows: the cells of the table, each row as long as the header.
        chart: series of points, or a waterfall.
    """

    title: str
    sentence: str = ""
    header: tuple[str, ...] = ()
    rows: tuple[tuple[Cell, ...], ...] = ()
    chart: Chart | Waterfall | None = None

    def __post_init__(self) -> None:
        if not (self.sentence or self.rows or self.chart):
            raise ValueError(f"the section {self.title!r} shows nothing")
        if any(len(row) != len(self.header) for row in self.rows):
            raise ValueError(f"the section {self.title!r} has rows that are not as long as its header {self.header}")


def plain(sections: Iterable[Section]) -> list[dict[str, Any]]:
    """Return the sections as values that JSON can hold."""
    return [asdict(section) for section in sections]


def counts(title: str, names: tuple[str, str], values: Mapping[str, int], sentence: str = "") -> tuple[Section, ...]:
    """Return a section with a table of names and counts; none where there is no count."""
    return (Section(title, sentence, names, tuple(values.items())),) if values else ()


def line(name: str, points: Sequence[Sequence[float]]) -> tuple[Series, ...]:
    """Return the points as one series; none where fewer than two points make no line."""
    return (Series(name, tuple((x, y) for x, y in points)),) if len(points) > 1 else ()
