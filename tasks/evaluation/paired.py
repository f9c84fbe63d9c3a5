"""Paired differences between arms on the same instances, and their intervals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from infra.energy.usage import Usage
from infra.evidence import EvidenceRow
from tasks.statistics import lower_mean

Row = Mapping[str, Any]


Array = NDArray[np.float64]


T = TypeVar("T", int, str)


WEAKEST = ("measured", "attributed", "modelled")


def qualities(rows: Iterable[EvidenceRow]) -> dict[str, dict[str, float]]:
    """Return the quality of each arm on each instance, the mean over its repeats."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.status == "done" and row.qualities:
            found[row.arm][row.problem].append(float(np.mean(row.qualities)))
    return {arm: {problem: float(np.mean(v)) for problem, v in by.items()} for arm, by in found.items()}


def merge(rows: Sequence[EvidenceRow]) -> dict[str, EvidenceRow]:
    """Return one row for each arm: the mean usage of a solve, one quality and one optimum for each instance."""
    by_arm: dict[str, list[EvidenceRow]] = defaultdict(list)
    for row in rows:
        by_arm[row.arm].append(row)
    values = qualities(rows)
    optimum = {row.problem: float(np.mean(row.oracle)) for row in rows if row.oracle}
    merged = {}
    for arm, of_arm in by_arm.items():
        done = [row for row in of_arm if row.status == "done"]
        share = 1 / len(done) if done else 0.0
        problems = sorted(values.get(arm, {}))
        merged[arm] = replace(
            of_arm[0],
            problem="all",
            status="done" if done else of_arm[0].status,
            reason=of_arm[0].reason if not done else "",
            qualities=tuple(values[arm][p] for p in problems) if problems else (),
            oracle=tuple(optimum[p] for p in problems) if all(p in optimum for p in problems) else (),
            usage=sum((row.usage for row in done), Usage()).scaled(share),
            prepare=sum((row.prepare for row in done), Usage()).scaled(share),
            total=sum((row.total for row in of_arm), Usage()),
            loops=sum(row.loops for row in done),
            energy_source=max((row.energy_source for row in of_arm), key=WEAKEST.index),
        )
    return merged


def _best_values(rows: Sequence[EvidenceRow], values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the proven optimum of each instance, or the best value that any arm reached."""
    proven = {row.problem: float(np.mean(row.oracle)) for row in rows if row.oracle}
    problems = {problem for by in values.values() for problem in by}
    return {p: proven.get(p, max(by[p] for by in values.values() if p in by)) for p in problems}


def student(values: Array) -> list[float] | None:
    """Return the two-sided 95 % Student interval of a mean, None for fewer than two values."""
    if len(values) < 2:
        return None
    low = lower_mean(values, 0.025)
    return [low, 2 * float(values.mean()) - low]


def against(values: Mapping[str, Mapping[str, float]], arm: str, other: str) -> dict[str, Any]:
    """Return the paired difference of two arms."""
    mine, its = values.get(arm, {}), values.get(other, {})
    difference = np.array([mine[p] - its[p] for p in sorted(mine.keys() & its.keys())])
    mean = float(difference.mean()) if len(difference) else None
    return {"arm": arm, "other": other, "n": len(difference), "difference": mean, "interval": student(difference)}
