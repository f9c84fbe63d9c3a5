"""Any table as vectors that a drift test can read: text as embedding and descriptors, numbers, categories, vectors.

A table gives one *view* for each text column (its embedding), one for each column of vectors, and one, `columns`, for
everything that is a number: numeric columns, categories as indicators, and descriptors of the text. Numbers are
replaced by their rank among *calm* rows, so that neither unit nor tail matters. Calm rows are in neither sample, or
all rows alike; either way the permutation p-values stay exact. Pure: knows neither the lake nor the request log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from tasks.monitoring.drift.problem import Vectors
from tasks.text.embeddings import embed

LEVELS = 20  # distinct values up to which a short string is a category and not a text
COLUMNS = "columns"  # the view of everything that is a number
DESCRIPTORS = ("characters", "words", "word length", "letters", "digits", "capitals", "distinct words")


class Kind(StrEnum):
    """What a column holds."""

    NUMBER = "number"
    CATEGORY = "category"
    TEXT = "text"
    VECTOR = "vector"


@dataclass(frozen=True)
class Column:
    """A column that is watched."""

    name: str
    kind: Kind


def choose_columns(
    reference: pa.Table, current: pa.Table, names: Sequence[str] = ()
) -> tuple[tuple[Column, ...], tuple[str, ...]]:
    """Return the columns to be watched and a note on each that is left out.

    Args:
        reference: normal rows.
        current: rows to be judged.
        names: columns to be watched; empty = all that both tables have and that can be used.

    Raises:
        ValueError: a named column that is not in both tables or cannot be used, or nothing that can be used.
    """
    common = [name for name in reference.schema.names if name in current.schema.names]
    if not common:
        raise ValueError(
            f"the tables have no common column: the reference has {_listed(reference)}, the current {_listed(current)}"
        )
    for name in names:
        if name not in common:
            raise ValueError(f"column {name!r} is not in both tables; common columns: {', '.join(common)}")
    chosen, notes = [], []
    for name in names or common:
        kind, unusable = _look(reference[name], current[name])
        if kind is not None and not unusable:
            chosen.append(Column(name, kind))
        elif names:
            raise ValueError(f"column {name!r} cannot be watched: {unusable}; choose others with --columns")
        else:
            notes.append(f"{name}: {unusable}")
    if not chosen:
        raise ValueError(f"no column can be watched ({'; '.join(notes)}); choose or repair them")
    return tuple(chosen), tuple(notes)


def _listed(table: pa.Table) -> str:
    return ", ".join(table.schema.names) or "none"


def _look(reference: pa.ChunkedArray, current: pa.ChunkedArray) -> tuple[Kind | None, str]:
    """Return the kind of a column and why it cannot be used, if so."""
    kinds = {_kind_of(part.type) for part in (reference, current)}
    if len(kinds) > 1:
        return None, f"it is {reference.type} in the reference and {current.type} in the current table"
    (kind,) = kinds
    if kind is None:
        return None, f"values of type {reference.type} are not compared"
    missing = [_missing(part) for part in (reference, current)]
    if any(missing):
        return kind, f"{missing[0]} values of the reference and {missing[1]} of the current table are missing or NaN"
    if kind is Kind.VECTOR:
        lengths = {int(n) for part in (reference, current) for n in pc.unique(pc.list_value_length(part)).to_pylist()}
        return kind, "" if len(lengths) == 1 else f"its vectors have several lengths ({sorted(lengths)[:4]})"
    values = pa.chunked_array([*reference.cast(current.type).chunks, *current.chunks], current.type)
    distinct = pc.count_distinct(values).as_py()
    if distinct < 2:
        return kind, f"it is constant ({values[0].as_py()!r})" if len(values) else "it is empty"
    if kind is Kind.TEXT and distinct <= min(LEVELS, len(values) // 4):
        kind = Kind.CATEGORY
    return kind, ""


def _kind_of(of: pa.DataType) -> Kind | None:
    if pa.types.is_boolean(of):
        return Kind.CATEGORY
    if pa.types.is_integer(of) or pa.types.is_floating(of) or pa.types.is_decimal(of):
        return Kind.NUMBER
    if pa.types.is_string(of) or pa.types.is_large_string(of):
        return Kind.TEXT
    if pa.types.is_dictionary(of):
        return Kind.CATEGORY
    listed = pa.types.is_list(of) or pa.types.is_large_list(of) or pa.types.is_fixed_size_list(of)
    return Kind.VECTOR if listed and pa.types.is_floating(of.value_type) else None


def _missing(column: pa.ChunkedArray) -> int:
    if not pa.types.is_floating(column.type):
        return int(column.null_count)
    return int(len(column) - pc.sum(pc.is_finite(column)).as_py()) if len(column) else 0


class Reader:
    """Turns rows into the vectors of each view, numbers by their rank among calm rows."""

    def __init__(self, columns: Sequence[Column], calm: pa.Table) -> None:
        self.columns = tuple(columns)
        self._levels = {c.name: _values(calm[c.name]) for c in columns if c.kind is Kind.CATEGORY}
        self.features, table = self._numbers(calm)
        self._calm = np.sort(table, axis=0)

    def views(self, table: pa.Table) -> dict[str, Vectors]:
        """Return the vectors of every view, one row for each row of the table."""
        found: dict[str, Vectors] = {}
        for column in self.columns:
            if column.kind is Kind.TEXT:
                found[column.name] = embed(table[column.name].to_pylist())
            elif column.kind is Kind.VECTOR:
                found[column.name] = _vectors(table[column.name])
        if self.features:
            found[COLUMNS] = self._ranks(self._numbers(table)[1])
        return found

    def moved(self, reference: pa.Table, current: pa.Table) -> list[dict[str, Any]]:
        """Return for each number the Kolmogorov-Smirnov distance of the two tables, the largest first.

        The p-values are corrected for the number of features (Bonferroni).
        """
        first, second = self._numbers(reference)[1], self._numbers(current)[1]
        rows = []
        for k, name in enumerate(self.features):
            test = ks_2samp(first[:, k], second[:, k], method="asymp")
            means = (float(first[:, k].mean()), float(second[:, k].mean()))
            p = min(1.0, float(test.pvalue) * len(self.features))
            rows.append({"feature": name, "distance": float(test.statistic), "p_value": p, "means": means})
        return sorted(rows, key=lambda row: -row["distance"])

    def _numbers(self, table: pa.Table) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        names, parts = [], []
        for column in self.columns:
            values = table[column.name]
            if column.kind is Kind.NUMBER:
                names.append(column.name)
                parts.append(np.asarray(values.cast(pa.float64()).to_numpy())[:, None])
            elif column.kind is Kind.CATEGORY:
                levels = self._levels[column.name]
                found = values.cast(pa.string()).to_pylist()
                names += [f"{column.name} = {level}" for level in levels] + [f"{column.name}: new"]
                parts.append(np.array([[v == level for level in levels] + [v not in levels] for v in found], float))
            elif column.kind is Kind.TEXT:
                names += [f"{column.name}: {what}" for what in DESCRIPTORS]
                parts.append(np.array([describe(text) for text in values.to_pylist()], float))
        return tuple(names), np.hstack(parts) if parts else np.zeros((table.num_rows, 0))

    def _ranks(self, values: NDArray[np.float64]) -> Vectors:
        ranks = np.empty_like(values)
        for k in range(values.shape[1]):
            below = np.searchsorted(self._calm[:, k], values[:, k], side="left")
            above = np.searchsorted(self._calm[:, k], values[:, k], side="right")
            ranks[:, k] = (below + above) / len(self._calm) - 1
        return ranks


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


def _values(column: pa.ChunkedArray) -> list[str]:
    counts: Mapping[str, int] = {
        row["values"]: row["counts"] for row in pc.value_counts(column.cast(pa.string())).to_pylist()
    }
    return sorted(counts, key=lambda value: (-counts[value], value))[:LEVELS]


def _vectors(column: pa.ChunkedArray) -> Vectors:
    flat = pc.list_flatten(column)
    values = np.concatenate(
        [np.asarray(chunk.to_numpy(zero_copy_only=False)) for chunk in flat.chunks] or [np.zeros(0)]
    )
    return np.asarray(values, np.float32).reshape(len(column), -1)
