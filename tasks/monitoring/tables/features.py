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
from scipy.stats import chi2_contingency, false_discovery_control, fisher_exact, gamma, ks_2samp

from tasks.monitoring.tables.layout import Column, Floats, Kind, Layout, numbers, present, strings
from tasks.monitoring.tables.views import DESCRIPTORS, descriptors

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
        p_value=independence(lost) if min(len(one), len(two)) else 1.0,
        before=before,
        now=now,
        how=f"missing {before:.1%} before, {now:.1%} now",
        values=(len(one), len(two)),
    )


def _number(feature: str, column: str, one: Floats, two: Floats, offset: int, of: pa.DataType) -> Feature:
    method: Literal["exact", "asymp"] = "exact" if max(len(one), len(two)) <= EXACT else "asymp"
    test = ks_2samp(one, two, method=method)
    what, (before, now) = "median", (float(np.median(v)) + offset for v in (one, two))
    if shown(before, of) == shown(now, of):
        what, (before, now) = "mean", (float(np.mean(v)) + offset for v in (one, two))
    return Feature(
        feature=feature,
        column=column,
        distance=float(test.statistic),
        p_value=float(test.pvalue),
        before=before if np.isfinite(before) else None,
        now=now if np.isfinite(now) else None,
        how=f"{what} {shown(before, of)} before, {shown(now, of)} now",
        values=(len(one), len(two)),
    )


def shown(value: float, of: pa.DataType | None = None) -> str:
    """Return a number in a few digits, a date or a time as such."""
    if not np.isfinite(value):
        return str(value)
    try:
        if of is not None and pa.types.is_date(of):
            return str(date(1970, 1, 1) + timedelta(days=value))
        if of is not None and pa.types.is_timestamp(of):
            return f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=value):%Y-%m-%d %H:%M}"
    except OverflowError:  # Python knows the years 1 to 9999
        return f"the year {1970 + value / (365.2425 * (1 if pa.types.is_date(of) else 86_400e6)):.0f}"
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
        p_value=independence(table),
        before=before,
        now=now,
        how=f"{levels[most]!r} {before:.1%} before, {now:.1%} now",
        values=(int(table[0].sum()), int(table[1].sum())),
    )


def independence(table: NDArray[Any]) -> float:
    """Return the p-value that two rows of counts have one distribution.

    Rare levels are counted together; whether rows are spread among them alike is a second test (Bonferroni), as new
    levels and gone ones would cancel.
    """
    table = np.asarray(table, float)
    rare = _expected(table).min(axis=0) < EXPECTED
    if rare.sum() < 2 or table.shape[1] == 2:
        return _few_levels(table)
    among = _many_levels(table[:, rare])
    if rare.all():
        return among
    return min(1.0, 2 * min(among, _few_levels(np.column_stack([table[:, ~rare], table[:, rare].sum(axis=1)]))))


def _expected(table: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(table.sum(axis=1, keepdims=True) * table.sum(axis=0) / max(1.0, table.sum()))


def _few_levels(table: NDArray[Any]) -> float:
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2 or not table.sum(axis=1).all():
        return 1.0
    if table.shape[1] == 2 and _expected(table).min() < EXPECTED:
        return float(fisher_exact(table.astype(int)).pvalue)
    return float(chi2_contingency(table, correction=False).pvalue)


def _many_levels(table: NDArray[Any]) -> float:
    """Return the p-value of the chi-squared statistic of many rare levels.

    By the gamma distribution with the statistic's own mean and variance given all sums (Haldane, Biometrika 31, 1940;
    Dawson, Am. Stat. 8(4), 1954): its asymptotic distribution would need five rows a level.
    """
    if len(table[0]) == 2:
        return _few_levels(table)
    rows, levels, n = table.sum(axis=1), table.sum(axis=0), float(table.sum())
    if n < 4 or not rows.all():
        return 1.0
    expected, r, c = _expected(table), len(rows), len(levels)
    statistic = float(((table - expected) ** 2 / expected).sum())
    v = [(k - 1) * (n - k) / (n - 1) for k in (r, c)]
    w = [(n * float((1 / sums).sum()) - k * k) / (n - 2) for k, sums in ((r, rows), (c, levels))]
    mean = n * (r - 1) * (c - 1) / (n - 1)
    variance = 2 * n / (n - 3) * (v[0] - w[0]) * (v[1] - w[1]) + n * n / (n - 1) * w[0] * w[1]
    if variance <= 0:
        return 1.0
    return float(gamma.sf(statistic, mean**2 / variance, scale=variance / mean))


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
