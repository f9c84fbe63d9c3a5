"""Rows as vectors that a drift test can read, by view, and the drift problem that two tables pose in each view.

A table gives one *view* for each text column (its embedding), one for each column of vectors, and one, `columns`, for
everything that is a number: numeric columns, dates, categories as indicators, descriptors of the text, and an
indicator for each column with missing values. Numbers are replaced by their rank among *calm* rows, so that neither
unit nor tail matters; a missing number takes the middle rank. Calm rows are in neither sample, or all rows alike;
either way the permutation p-values stay exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.random import Generator
from numpy.typing import NDArray

from tasks.monitoring.drift.problem import Drift, Vectors
from tasks.monitoring.tables.layout import Column, Floats, Kind, Layout, numbers, present, strings, vectors_of
from tasks.text.embeddings import embed

BACKGROUND = 400  # further rows of the reference that fix centre, bandwidth and ranks
LEVELS = 20  # most frequent values of a category that have an indicator of their own
COLUMNS = "columns"  # the view of everything that is a number
DESCRIPTORS = ("characters", "words", "word length", "letters", "digits", "capitals", "distinct words")

Texts = tuple[list[str], list[str]]


@dataclass(frozen=True)
class Sizes:
    """Of a test: rows of each table at most, permutations, and shots for each circuit."""

    rows: int = 200
    permutations: int = 499
    shots: int = 256


class Reader:
    """Turns rows into the vectors of each view, numbers by their rank among calm rows.

    Args:
        layout: how tables are read.
        calm: flat rows that fix ranks and levels, see `Layout.flat`.
    """

    def __init__(self, layout: Layout, calm: pa.Table) -> None:
        self.columns = layout.columns
        self._levels = {c.name: _frequent(calm[c.name]) for c in self.columns if c.kind is Kind.CATEGORY}
        self.features, table = self._numbers(calm)
        self._calm = [np.sort(column[~np.isnan(column)]) for column in table.T]

    def views(self, table: pa.Table) -> dict[str, Vectors]:
        """Return the vectors of every view, one for each row that has a value there."""
        found: dict[str, Vectors] = {}
        for column in self.columns:
            if column.kind in (Kind.TEXT, Kind.VECTOR):
                found[column.name] = self._of_column(column, table[column.name])
        if self.features:
            found[COLUMNS] = self._ranks(self._numbers(table)[1])
        return found

    def _of_column(self, column: Column, values: pa.ChunkedArray) -> Vectors:
        known = values.filter(pa.array(present(column, values)))
        if column.kind is Kind.VECTOR:
            return vectors_of(known)
        return embed([text for text in strings(known) if text is not None]) if len(known) else embed([""])[:0]

    def _numbers(self, table: pa.Table) -> tuple[tuple[str, ...], Floats]:
        names: list[str] = []
        parts: list[Floats] = []
        for column in self.columns:
            values = table[column.name]
            if column.kind is Kind.NUMBER and not column.constant:
                names.append(column.name)
                parts.append(numbers(column, values)[:, None])
            elif column.kind is Kind.CATEGORY and not column.constant:
                levels = self._levels[column.name]
                found = strings(values)
                names += [f"{column.name} = {level}" for level in levels] + [f"{column.name}: other"]
                indicators = [[v == level for level in levels] + [v not in levels] for v in found]
                parts.append(np.array(indicators, float).reshape(len(found), -1))
                parts[-1][[v is None for v in found]] = 0.0
            elif column.kind is Kind.TEXT:
                names += [f"{column.name}: {what}" for what in DESCRIPTORS]
                parts.append(descriptors(strings(values)))
            if column.missing:
                names.append(f"{column.name}: missing")
                parts.append((~present(column, values)).astype(float)[:, None])
        return tuple(names), np.hstack(parts) if parts else np.zeros((table.num_rows, 0))

    def _ranks(self, values: Floats) -> Vectors:
        ranks = np.zeros_like(values)
        for k, calm in enumerate(self._calm):
            if len(calm):
                below = np.searchsorted(calm, values[:, k], side="left")
                above = np.searchsorted(calm, values[:, k], side="right")
                ranks[:, k] = np.where(np.isnan(values[:, k]), 0.0, (below + above) / len(calm) - 1)
        return ranks


def descriptors(texts: Sequence[str | None]) -> Floats:
    """Return the descriptors of texts (n, 7), NaN where one is missing."""
    nothing = (np.nan,) * len(DESCRIPTORS)
    return np.array([nothing if t is None else describe(t) for t in texts], float).reshape(len(texts), -1)


def describe(text: str) -> tuple[float, ...]:
    """Return the descriptors of a text, in the order of `DESCRIPTORS`; shares are of its characters or words."""
    words = text.split()
    n, count = max(1, len(text)), max(1, len(words))
    return (
        len(text),
        len(words),
        sum(map(len, words)) / count,
        sum(map(str.isalpha, text)) / n,
        sum(map(str.isdigit, text)) / n,
        sum(map(str.isupper, text)) / n,
        len(set(words)) / count,
    )


def _frequent(column: pa.ChunkedArray) -> list[str]:
    counts = {str(row["values"]): row["counts"] for row in pc.value_counts(column.drop_null()).to_pylist()}
    return sorted(counts, key=lambda value: (-counts[value], value))[:LEVELS]


def split_reference(count: int, rows: int, rng: Generator) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Deal a reference's rows to the sample, two thirds and at most `rows`, and to the background.

    Raises:
        ValueError: fewer than six rows.
    """
    if count < 6:
        raise ValueError(f"the reference has {count} rows; at least 6 are needed")
    order, size = rng.permutation(count), min(rows, -(-2 * count // 3))
    return order[:size], order[size : size + BACKGROUND]


def pose_views(
    layout: Layout, reference: pa.Table, current: pa.Table, sizes: Sizes, level: float, rng: Generator
) -> tuple[dict[str, Drift], dict[str, Texts]]:
    """Return the drift problem of each view of two flat tables, and the texts behind the vectors of text columns.

    A view of which either table has fewer than two values is left out.

    Args:
        layout: how the tables are read.
        reference: flat rows, see `Layout.flat`.
        current: flat rows.
        sizes: of the tests.
        level: of all views together.
        rng: draws the rows.

    Raises:
        ValueError: a reference of fewer than six rows.
    """
    chosen, calm = split_reference(reference.num_rows, sizes.rows, rng)
    window = current.take(pa.array(np.sort(rng.permutation(current.num_rows)[: sizes.rows])))
    sample, background = reference.take(pa.array(chosen)), reference.take(pa.array(calm))
    reader = Reader(layout, background)
    views = [reader.views(table) for table in (sample, window, background)]
    names = [name for name in views[0] if min(len(views[0][name]), len(views[1][name])) >= 2]
    problems = {
        name: Drift(
            views[0][name],
            (views[1][name],),
            views[2][name] if len(views[2][name]) >= 2 else views[2][name][:0],
            level=level / len(names),
            permutations=sizes.permutations,
            shots=sizes.shots,
        )
        for name in names
    }
    kinds = {column.name: column.kind for column in layout.columns}
    texts = {
        name: ([t for t in strings(sample[name]) if t is not None], [t for t in strings(window[name]) if t is not None])
        for name in names
        if kinds.get(name) is Kind.TEXT
    }
    return problems, texts
