"""Two tables compared: schema, every column on its own, all columns together, and segments.

Usable as a library:

    from tasks.monitoring.compare import Question, compare

    found = compare(march, april, Question(by="plan"))   # paths, pandas, Polars or Arrow tables
    print(found.verdict, found.line())

The level is split evenly between what is asked: the columns together (the kernel pool on each view, Bonferroni over the
views), each column (Benjamini-Hochberg over all features) and, with `by`, each column in each segment (the same over
all segments). A table may be of any size: `reading.SAMPLE` rows of it are looked at, `rows` of them by the kernel pool.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.random import Generator

from tasks.monitoring.drift.arms import ReferencePool
from tasks.monitoring.drift.problem import Drift
from tasks.monitoring.tables.features import Feature, adjust, column_features, farthest_first
from tasks.monitoring.tables.layout import Layout, LeftOut, choose_columns
from tasks.monitoring.tables.profiles import differing_texts, profile
from tasks.monitoring.tables.reading import Sample, open_table, sample_rows
from tasks.monitoring.tables.views import COLUMNS, Sizes, pose_views
from tasks.monitoring.tables.written import written_numbers

VERSION = 2  # of the report
SEGMENTS = 20  # largest segments that are compared
PICTURES = 8  # columns of which a profile is kept

Values = Mapping[str, float]
Judge = Callable[[Mapping[str, Drift]], Values]


@dataclass(frozen=True)
class Question:
    """How two tables are compared.

    Attributes:
        columns: to be compared; empty = all that can be.
        by: column by whose values segments are compared too; empty = none.
        level: probability of saying drift where there is none.
        effect: effect size below which no column counts as drifted, 0 to 1; see `tasks.monitoring.tables.features`.
        rows: of each table that the kernel pool compares at most.
        permutations: of each of its tests.
        shots: for each circuit of the quantum arms.
        minimum: rows that each table, and each segment, has at least.
        seed: of sampling and permutations.

    Raises:
        ValueError: a level or an effect that is no share.
    """

    columns: tuple[str, ...] = ()
    by: str = ""
    level: float = 0.05
    effect: float = 0.05
    rows: int = 200
    permutations: int = 499
    shots: int = 256
    minimum: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"the level is a probability between 0 and 1, not {self.level}")
        if not 0 <= self.effect < 1:
            raise ValueError(f"the effect is a share from 0 to below 1, not {self.effect}")


@dataclass(frozen=True)
class View:
    """All columns together, one column of text or one of vectors: what the kernel pool found.

    Attributes:
        name: `columns`, or the column's name.
        p_value: of no drift.
        level: at or below which it says drift.
        compared: rows of the reference and of the current table.
    """

    name: str
    p_value: float
    level: float
    compared: tuple[int, int]

    @property
    def drifted(self) -> bool:
        """Whether the view drifted."""
        return self.p_value <= self.level


@dataclass(frozen=True)
class Segment:
    """The rows of one value of the column `by`.

    Attributes:
        value: that value.
        rows: looked at in the reference and in the current table.
        share: of all rows, in both.
        features: those that drifted, first what moved farther here than in the whole tables.
        note: why the segment was not compared, empty if it was.
    """

    value: str
    rows: tuple[int, int]
    share: tuple[float, float]
    features: tuple[Feature, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """What two tables came to.

    Attributes:
        question: how they were compared.
        rows: of the whole tables.
        looked_at: rows of the samples.
        layout: columns compared, schema changes, columns left out.
        features: of every column, those that drifted first, then by distance.
        views: what the kernel pool found.
        segments: in the order of their rows, empty without `by`.
        profiles: what the columns that moved most look like, for pictures.
        examples: texts that are typical of one table and not of the other, by column.
    """

    question: Question
    rows: tuple[int, int]
    looked_at: tuple[int, int]
    layout: Layout
    features: tuple[Feature, ...]
    views: tuple[View, ...]
    segments: tuple[Segment, ...] = ()
    profiles: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    examples: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict, repr=False)

    @property
    def verdict(self) -> str:
        """`drift`; `schema drift`; `incomplete` where a column was not compared; or `no drift`."""
        if self.drifted_columns or self.drifted_views or self.drifted_segments:
            return "drift"
        if self.layout.schema:
            return "schema drift"
        untested = {column.name for column in self.layout.columns} - self._tested
        return "incomplete" if untested or not all(out.harmless for out in self.layout.left_out) else "no drift"

    @property
    def _tested(self) -> set[str]:
        return {feature.column for feature in self.features} | {view.name for view in self.views}

    @property
    def drifted_columns(self) -> tuple[str, ...]:
        """Columns of which a feature drifted, the farthest first."""
        return tuple(dict.fromkeys(f.column for f in self.features if f.drifted))

    @property
    def drifted_views(self) -> tuple[str, ...]:
        """Views that the kernel pool says drifted."""
        return tuple(view.name for view in self.views if view.drifted)

    @property
    def drifted_segments(self) -> tuple[str, ...]:
        """Segments in which a feature drifted."""
        return tuple(segment.value for segment in self.segments if segment.features)

    def line(self) -> str:
        """Say in one line what was found, over which columns, and what was not looked at."""
        total = len(self.layout.columns) + len(self.layout.left_out)
        over = f"{len(self.layout.columns)} of {total} common columns compared"
        parts = [f"{self.verdict} at the level {self.question.level:g} and the effect {self.question.effect:g}, {over}"]
        if self.drifted_columns:
            parts.append(f"moved: {_listed(self.drifted_columns)}")
        if self.drifted_views:
            names = ["all columns together" if name == COLUMNS else name for name in self.drifted_views]
            parts.append(f"kernel pool: {_listed(names)}")
        if self.drifted_segments:
            parts.append(f"moved within {self.question.by} = {_listed(self.drifted_segments)}")
        if self.layout.schema:
            parts.append(f"schema: {_listed([str(change) for change in self.layout.schema])}")
        if self.layout.left_out:
            parts.append(f"not compared: {_listed([out.column for out in self.layout.left_out])}")
        return "; ".join(parts)

    def asdict(self) -> dict[str, Any]:
        """Return the comparison as plain values that are valid JSON."""
        plain: dict[str, Any] = finite(
            {
                "version": VERSION,
                "verdict": self.verdict,
                "line": self.line(),
                "level": self.question.level,
                "effect": self.question.effect,
                "rows": dict(zip(("reference", "current"), self.rows, strict=True)),
                "looked_at": dict(zip(("reference", "current"), self.looked_at, strict=True)),
                "columns": [{"name": c.name, "kind": str(c.kind)} for c in self.layout.columns],
                "schema": [asdict(change) for change in self.layout.schema],
                "left_out": [asdict(out) for out in self.layout.left_out],
                "notes": list(self.layout.notes),
                "drifted": list(self.drifted_columns),
                "moved": [feature.asdict() for feature in self.features],
                "pool": [asdict(view) | {"drifted": view.drifted} for view in self.views],
                "by": self.question.by or None,
                "segments": [asdict(segment) for segment in self.segments],
                "profiles": list(self.profiles),
                "examples": dict(self.examples),
            }
        )
        return plain


def finite(value: Any) -> Any:
    """Return nested plain values in which numbers that are not finite are None, as JSON has none."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def _listed(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


@np.errstate(over="ignore", invalid="ignore")  # sums and steps of values at the ends of the floats are not finite
def compare(reference: Any, current: Any, question: Question | None = None, judge: Judge | None = None) -> Comparison:
    """Compare two tables.

    Args:
        reference: normal rows: a path, or a pandas, Polars or Arrow table.
        current: rows to be judged.
        question: what is asked; None = the defaults.
        judge: gives the p-value of each view; None = the kernel pool, run here.

    Raises:
        BadInput: a table cannot be read.
        ValueError: too few rows, or no column that can be compared.
    """
    asked = question or Question()
    rng = np.random.default_rng([asked.seed, 11])
    samples = [
        sample_rows(open_table(source, name), rng, name=name)
        for name, source in (("reference", reference), ("current table", current))
    ]
    for name, sample in zip(("reference", "current table"), samples, strict=True):
        if sample.total < asked.minimum:
            raise ValueError(f"the {name} has {sample.total} rows; at least {asked.minimum} are needed (--minimum)")
    if asked.by:
        _check_by(asked.by, samples)
    tables, written = written_numbers([sample.table for sample in samples])
    samples = [replace(sample, table=table) for sample, table in zip(samples, tables, strict=True)]
    whole = samples[0].total, samples[1].total
    layout = choose_columns(tables[0], tables[1], asked.columns, none=True, whole=whole)
    notes = tuple(f"{name} holds numbers as text; compared as numbers" for name in written)
    layout = _with_unreadable(replace(layout, notes=layout.notes + notes), samples, asked)
    flat = layout.flat(tables[0]), layout.flat(tables[1])
    parts = 3 if asked.by else 2
    features = farthest_first(adjust(column_features(layout, *flat), asked.level / parts, asked.effect))
    sizes = Sizes(asked.rows, asked.permutations, asked.shots)
    problems, texts = pose_views(layout, *flat, sizes, asked.level / parts, rng) if layout.columns else ({}, {})
    p_values = (judge or judge_by_pool(rng))(problems)
    views = tuple(
        View(name, p_values[name], problem.level, (len(problem.reference), len(problem.windows[0])))
        for name, problem in problems.items()
    )
    segments = _segments(asked, layout, samples, flat, asked.level / parts, features) if asked.by else ()
    moved = list(dict.fromkeys(f.column for f in features))[:PICTURES]
    by_name = {column.name: column for column in layout.columns}
    profiles = [profile(by_name[name], flat[0][name], flat[1][name]) for name in moved]
    return Comparison(
        question=asked,
        rows=whole,
        looked_at=(samples[0].table.num_rows, samples[1].table.num_rows),
        layout=layout,
        features=tuple(features),
        views=views,
        segments=segments,
        profiles=tuple(found for found in profiles if found),
        examples={name: differing_texts(problems[name], *texts[name]) for name in texts},
    )


def _check_by(by: str, samples: Sequence[Sample]) -> None:
    for name, sample in zip(("reference", "current table"), samples, strict=True):
        if by not in sample.table.schema.names:
            raise ValueError(f"the {name} has no column {by!r} to divide it by (--by)")
        of = sample.table.schema.field(by).type
        if pa.types.is_nested(of) or pa.types.is_binary(of) or pa.types.is_large_binary(of):
            raise ValueError(f"column {by!r} holds {of}, whose values name no segments (--by); choose another")


def _with_unreadable(layout: Layout, samples: Sequence[Sample], asked: Question) -> Layout:
    """Name the columns whose type not even a sample could be drawn from."""
    found = {name: of for sample in samples for name, of in sample.unreadable if not asked.columns}
    more = tuple(LeftOut(name, f"values of type {of} are not compared") for name, of in found.items())
    schema = tuple(change for change in layout.schema if change.column not in found)
    return Layout(layout.columns, schema, layout.left_out + more, layout.notes, layout.vectors)


def judge_by_pool(rng: Generator) -> Judge:
    """Return a judge that runs the kernel pool here, unrecorded."""

    def judge(problems: Mapping[str, Drift]) -> dict[str, float]:
        return {
            name: ReferencePool(p.reference, p.calm).test(p.windows[0], p.permutations, rng)[0]
            for name, p in problems.items()
        }

    return judge


def _segments(
    asked: Question,
    layout: Layout,
    samples: Sequence[Sample],
    flat: tuple[pa.Table, pa.Table],
    level: float,
    overall: Sequence[Feature],
) -> tuple[Segment, ...]:
    """Compare the rows of each value of a column; the p-values of all segments are one family.

    What moved in a segment more than in the whole table comes first.
    """
    keys = [pc.fill_null(sample.table[asked.by].cast(pa.large_string()), "missing") for sample in samples]
    counts = [{str(row["values"]): row["counts"] for row in pc.value_counts(key).to_pylist()} for key in keys]
    values = sorted({*counts[0], *counts[1]}, key=lambda value: -max(c.get(value, 0) for c in counts))
    rest = Layout(tuple(c for c in layout.columns if c.name != asked.by), vectors=layout.vectors)
    sizes = {value: (counts[0].get(value, 0), counts[1].get(value, 0)) for value in values}
    compared = [value for value in values[:SEGMENTS] if min(sizes[value]) >= asked.minimum]
    family: list[tuple[str, Feature]] = []
    for value in compared:
        parts = [table.filter(pc.equal(key, value)) for table, key in zip(flat, keys, strict=True)]
        family += [(value, feature) for feature in column_features(rest, parts[0], parts[1])]
    decided = adjust([feature for _, feature in family], level, asked.effect)
    totals = [max(1, sample.table.num_rows) for sample in samples]
    whole = {feature.feature: feature.distance for feature in overall}
    found = []
    for value in values:
        drifted = [d for (of, _), d in zip(family, decided, strict=True) if of == value and d.drifted]
        few = f"fewer than {asked.minimum} rows" if min(sizes[value]) < asked.minimum else "a smaller segment"
        share = (sizes[value][0] / totals[0], sizes[value][1] / totals[1])
        note = "" if value in compared else few
        drifted.sort(key=lambda f: whole.get(f.feature, 0.0) - f.distance)
        found.append(Segment(value, sizes[value], share, tuple(drifted), note))
    return tuple(found)
