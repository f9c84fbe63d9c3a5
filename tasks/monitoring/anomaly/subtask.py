"""The decision `anomaly`: how a run poses the problem and applies the solution."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from tasks.contract import Subtask
from tasks.monitoring.anomaly.arms import CHALLENGER, INCUMBENT, OTHERS
from tasks.monitoring.anomaly.bank import bank, example
from tasks.monitoring.anomaly.options import Options
from tasks.monitoring.anomaly.problem import Anomaly, Scores, quality
from tasks.monitoring.windows import REFERENCE, SMALLEST, rows_of, vectors_of, window_names
from tasks.stage import Context, State
from tasks.terms import terms

TERMS = terms("monitoring/anomaly")


ANOMALIES = pa.schema([("window", pa.string()), ("position", pa.int32()), ("score", pa.float64())])


def pose(context: Context, state: State, options: Options) -> Anomaly | None:
    """Return all requests after the reference window in order of arrival; None if the reference is too small."""
    table = context.lake.read(state.refs["monitoring/windows"])
    reference = vectors_of(table, REFERENCE)
    requests = np.vstack([vectors_of(table, name) for name in window_names(table)])
    return Anomaly(reference, requests, shots=options.shots) if len(reference) >= SMALLEST else None


def apply(context: Context, state: State, problem: Anomaly, solution: Scores) -> State:
    """Store the anomaly score of each request, the highest first.

    Raises:
        ValueError: the solution belongs to another problem.
    """
    if len(solution.values) != len(problem.requests):
        raise ValueError(
            f"the solution is for {len(solution.values)} requests, the problem has {len(problem.requests)}"
        )
    table = context.lake.read(state.refs["monitoring/windows"])
    names = window_names(table)
    where = [(name, i) for name in names for i in range(rows_of(table, name).num_rows)]
    rows = sorted(((*at, score) for at, score in zip(where, solution.values, strict=True)), key=lambda row: -row[2])
    columns = [list(column) for column in zip(*rows, strict=True)]
    scores = context.lake.write("monitoring/anomalies", pa.table(columns, schema=ANOMALIES))
    strangest = [f"{name} {position}" for name, position, _ in rows[:5]]
    return state.add({"monitoring/anomalies": scores}, strangest=strangest)


ANOMALY: Subtask[Anomaly, Scores] = Subtask(
    stage="monitoring",
    name="anomaly",
    incumbent=INCUMBENT,
    challenger=CHALLENGER,
    others=OTHERS,
    quality=quality,
    metric=TERMS.metric,
    size=lambda problem: len(problem.reference) + len(problem.requests),
    tolerance=TERMS.tolerance,
    predictions=TERMS.predictions,
    bank=bank,
    example=example,
    oracle=lambda problem: (1.0,) * bool(any(problem.truth) and not all(problem.truth)),
    floor=0.8,
    options=Options,
    pose=pose,
    apply=apply,
)
