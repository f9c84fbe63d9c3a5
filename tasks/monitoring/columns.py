"""Each column on its own: did its values move, by how much, and are more of them missing than before?

Numbers and descriptors of text by the Kolmogorov-Smirnov test, categories by the chi-squared test of independence
(Fisher's exact test for two small groups), missing values by the same test on the indicator. The effect size is on one
scale for all of them: the Kolmogorov-Smirnov distance of numbers and the total variation distance of categories and
of indicators, that is, the least share of the rows that would have to change for the two tables to agree. The p-values
are adjusted together by Benjamini and Hochberg (JRSS B 57, 1995): of the features that are said to have drifted, a
share of `level` is expected to be wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.stats import chi2_contingency, false_discovery_control, fisher_exact, ks_2samp

from tasks.monitoring.tables import Column, Floats, Kind, Layout, numbers, present, strings
from tasks.monitoring.views import DESCRIPTORS, descriptors

TEXTS = 5_000  # texts of a column that are described
EXACT = 200  # values of each sample up to which the distribution of the Kolmogorov-Smirnov distance is exact
EXPECTED = 5.0  # of a level, in either table, below which it is counted among the others
LEAST = 2  # values of each table that a test needs


@dataclass(frozen=True)
class Feature:
    """One property of a column in two tables.

    Attributes:
        feature: its name, e.g. `age`, `age: missing`, `question: words`.
        column: the column.
        distance: effect size, 0 to 1; see the head of this module.
        p_value: of the test on its own.
        adjusted: the same for all features together (Benjamini-Hochberg).
        drifted: whether `adjusted` is at most the level and `distance` at least the effect that matters.
        before: median of a number, share of a category's most changed level or of missing values; None where no
            finite figure describes it.
        now: the same of the current table.
        how: the change in words.
        values: values of the reference and of the current table that were compared.
    """

    feature: str
    column: str
    distance: float
    p_value: float
    before: float | None
    now: float | None
    how: str
    values: tuple[int, int]
    adjusted: float = 1.0
    drifted: bool = False

    def asdict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {**vars(self), "values": list(self.values)}


def column_features(layout: Layout, reference: pa.Table, current: pa.Table) -> list[Feature]:
    """Return every feature of two flat tables, not yet adjusted; see `Layout.flat`."""
    found: list[Feature] = []
    for column in layout.columns:
        one, two = reference[column.name], current[column.name]
        there = present(column, one), present(column, two)
        if column.missing:
            found.append(_missing(column, *there))
        if min(int(known.sum()) for known in there) < LEAST or column.constant:
            continue
        match column.kind:
            case Kind.NUMBER:
                values = numbers(column, one)[there[0]], numbers(column, two)[there[1]]
                found.append(_number(column.name, column.name, *values, column.offset, one.type))
            case Kind.CATEGORY:
                found.append(_category(column, _counts(one), _counts(two)))
            case Kind.TEXT:
                found += _texts(column, one, two)
    return found


def adjust(features: Sequence[Feature], level: float, effect: float) -> list[Feature]:
    """Adjust the p-values of a family and decide which features drifted.

    Args:
        features: of one comparison, all segments included.
        level: false discovery rate.
        effect: distance below which nothing is said to have drifted.
    """
    if not features:
        return []
    adjusted = false_discovery_control([f.p_value for f in features], method="bh")
    return [
        replace(f, adjusted=float(p), drifted=bool(p <= level and f.distance >= effect))
        for f, p in zip(features, adjusted, strict=True)
    ]


def farthest_first(features: Sequence[Feature]) -> list[Feature]:
    """Return the features that drifted and then the others, each by their distance."""
    return sorted(features, key=lambda f: (not f.drifted, -f.distance, f.feature))


def _missing(column: Column, one: NDArray[np.bool_], two: NDArray[np.bool_]) -> Feature:
    lost = np.array([[(~known).sum(), known.sum()] for known in (one, two)])
    before, now = (float(row[0] / max(1, row.sum())) for row in lost)
    return Feature(
        feature=f"{column.name}: missing",
        column=column.name,
        distance=abs(now - before),
        p_value=_independence(lost) if min(len(one), len(two)) else 1.0,
        before=before,
        now=now,
        how=f"missing {before:.1%} before, {now:.1%} now",
        values=(len(one), len(two)),
    )


def _number(feature: str, column: str, one: Floats, two: Floats, offset: int, of: pa.DataType) -> Feature:
    method: Literal["exact", "asymp"] = "exact" if max(len(one), len(two)) <= EXACT else "asymp"
    test = ks_2samp(one, two, method=method)
    before, now = (float(np.median(v)) + offset for v in (one, two))
    return Feature(
        feature=feature,
        column=column,
        distance=float(test.statistic),
        p_value=float(test.pvalue),
        before=before if np.isfinite(before) else None,
        now=now if np.isfinite(now) else None,
        how=f"median {shown(before, of)} before, {shown(now, of)} now",
        values=(len(one), len(two)),
    )


def shown(value: float, of: pa.DataType | None = None) -> str:
    """Return a number in a few digits, a date or a time as such."""
    if not np.isfinite(value):
        return str(value)
    if of is not None and pa.types.is_date(of):
        return str(date(1970, 1, 1) + timedelta(days=value))
    if of is not None and pa.types.is_timestamp(of):
        return f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=value):%Y-%m-%d %H:%M}"
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e15 else f"{value:.4g}"


def _counts(values: pa.ChunkedArray) -> dict[str, int]:
    return {str(row["values"]): row["counts"] for row in pc.value_counts(values.drop_null()).to_pylist()}


def _category(column: Column, one: Mapping[str, int], two: Mapping[str, int]) -> Feature:
    levels = sorted({*one, *two})
    table = np.array([[counts.get(level, 0) for level in levels] for counts in (one, two)], float)
    shares = table / table.sum(axis=1, keepdims=True)
    change = np.abs(shares[1] - shares[0])
    most = int(change.argmax())
    before, now = float(shares[0, most]), float(shares[1, most])
    return Feature(
        feature=column.name,
        column=column.name,
        distance=float(change.sum() / 2),
        p_value=_independence(table),
        before=before,
        now=now,
        how=f"{levels[most]!r} {before:.1%} before, {now:.1%} now",
        values=(int(table[0].sum()), int(table[1].sum())),
    )


def _independence(table: NDArray[Any]) -> float:
    """Return the p-value that two rows of counts have one distribution; rare levels are counted together."""
    table = np.asarray(table, float)
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    rare = expected.min(axis=0) < EXPECTED
    if rare.any() and table.shape[1] > 2:
        table = np.column_stack([table[:, ~rare], table[:, rare].sum(axis=1)])
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2 or not table.sum(axis=1).all():
        return 1.0
    if table.shape[1] == 2 and (table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()).min() < EXPECTED:
        return float(fisher_exact(table.astype(int)).pvalue)
    return float(chi2_contingency(table, correction=False).pvalue)


def _texts(column: Column, one: pa.ChunkedArray, two: pa.ChunkedArray) -> list[Feature]:
    tables = [descriptors(strings(_spread(part.drop_null(), TEXTS))) for part in (one, two)]
    return [
        _number(f"{column.name}: {what}", column.name, tables[0][:, k], tables[1][:, k], 0, pa.float64())
        for k, what in enumerate(DESCRIPTORS)
    ]


def _spread(values: pa.ChunkedArray, count: int) -> pa.ChunkedArray:
    """Return so many values, evenly spread over the column."""
    if len(values) <= count:
        return values
    return values.take(pa.array(np.linspace(0, len(values) - 1, count).astype(np.int64)))
