"""What a column that moved looks like: histograms on common bins, shares of categories, texts that differ most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.monitoring.drift.problem import Drift
from tasks.monitoring.tables.features import shown
from tasks.monitoring.tables.layout import Column, Floats, Kind, numbers, present
from tasks.monitoring.two_sample import median_distance, rbf, squared_distances

BINS, LEVELS = 24, 12
WHOLE = 40  # range of whole numbers up to which each has a bin
EXAMPLES, LONGEST = 3, 240  # texts of each table that show a change, and their characters


def profile(column: Column, one: pa.ChunkedArray, two: pa.ChunkedArray) -> dict[str, Any] | None:
    """Return what a column looks like in both tables: shares by bin or by level; None for texts and vectors."""
    if column.kind is Kind.NUMBER:
        return _histogram(column, one, two)
    if column.kind is not Kind.CATEGORY:
        return None
    counts = [pc.value_counts(part.drop_null()).to_pylist() for part in (one, two)]
    shares = [{str(row["values"]): row["counts"] / sum(r["counts"] for r in part) for row in part} for part in counts]
    levels = sorted({*shares[0], *shares[1]}, key=lambda level: -max(s.get(level, 0.0) for s in shares))[:LEVELS]
    return {
        "column": column.name,
        "kind": "category",
        "levels": levels,
        "before": [shares[0].get(level, 0.0) for level in levels],
        "now": [shares[1].get(level, 0.0) for level in levels],
    }


def _histogram(column: Column, one: pa.ChunkedArray, two: pa.ChunkedArray) -> dict[str, Any] | None:
    """Return the shares of both samples in common bins between the 1 % and 99 % points; the ends hold the rest."""
    values = [numbers(column, part)[present(column, part)] for part in (one, two)]
    pooled = np.concatenate(values)
    pooled = pooled[np.isfinite(pooled)]
    if not len(pooled):
        return None
    edges = _edges(pooled)
    shares = [np.histogram(np.clip(v, edges[0], edges[-1]), edges)[0] / max(1, len(v)) for v in values]
    temporal = pa.types.is_temporal(one.type)
    return {
        "column": column.name,
        "kind": "number",
        "edges": [float(edge) + column.offset for edge in edges],
        "labels": [shown(float(edge) + column.offset, one.type) for edge in edges] if temporal else None,
        "before": shares[0].tolist(),
        "now": shares[1].tolist(),
    }


def _edges(values: Floats) -> Floats:
    """Return the edges of bins: one for each whole number where there are few, else equal ones."""
    low, high = float(values.min()), float(values.max())
    if high - low < WHOLE and (values == np.round(values)).all():
        return np.arange(low - 0.5, high + 1.0)
    inner = np.quantile(values, [0.01, 0.99])
    low, high = (float(inner[0]), float(inner[1])) if inner[0] < inner[1] else (low, high)
    if low == high:
        return np.array([low - 0.5, low + 0.5])
    if not np.isfinite(high - low):
        return 2 * np.linspace(low / 2, high / 2, BINS + 1)
    return np.linspace(low, high, BINS + 1)


def differing_texts(problem: Drift, before: Sequence[str], now: Sequence[str]) -> dict[str, list[str]]:
    """Return the texts at which the two samples differ most, by the witness function of the MMD.

    Gretton et al., JMLR 13 (2012), section 2.3: the difference of the mean kernel values to either sample.
    """
    bandwidth = median_distance(problem.calm)
    found = {}
    for name, texts, own, other in (
        ("before", before, problem.reference, problem.windows[0]),
        ("now", now, problem.windows[0], problem.reference),
    ):
        witness = rbf(squared_distances(own, own), bandwidth).mean(axis=1)
        witness -= rbf(squared_distances(own, other), bandwidth).mean(axis=1)
        order = np.argsort(-witness, kind="stable")
        found[name] = list(dict.fromkeys(texts[i][:LONGEST] for i in order))[:EXAMPLES]
    return found
