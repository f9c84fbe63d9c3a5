"""The decision `drift`: how it is posed in a run, and what follows from it."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.contract import Subtask
from tasks.monitoring.drift.arms import CHALLENGER, INCUMBENT, OTHERS
from tasks.monitoring.drift.bank import bank, example, measured_power
from tasks.monitoring.drift.options import Options
from tasks.monitoring.drift.problem import Drift, Verdicts, quality
from tasks.monitoring.watching.harm import compare_quality
from tasks.monitoring.watching.standing import Standing
from tasks.monitoring.watching.states import Rules
from tasks.monitoring.windows import (
    ALIEN,
    BACKGROUND,
    REFERENCE,
    likelihoods_of,
    mean_logprob_of,
    rows_of,
    vectors_of,
    window_names,
)
from tasks.stage import Context, State
from tasks.terms import terms

log = logging.getLogger("ketcycle.monitoring")

TERMS = terms("monitoring/drift")


VERDICTS = pa.schema(
    [
        ("window", pa.string()),
        ("requests", pa.int32()),
        ("drifted", pa.bool_()),
        ("p_value", pa.float64()),
        ("statistic", pa.float64()),
        ("alert", pa.bool_()),
        ("state", pa.string()),
        ("announced", pa.string()),
        ("mean_logprob", pa.float64()),
        ("quality", pa.string()),
        ("quality_difference", pa.float64()),
    ]
)


def pose(context: Context, state: State, options: Options) -> Drift:
    """Return the windows of the request log, in the order in which they came."""
    table = context.lake.read(state.refs["monitoring/windows"])
    names = window_names(table)
    return Drift(
        reference=vectors_of(table, REFERENCE),
        windows=tuple(vectors_of(table, name) for name in names),
        background=vectors_of(table, BACKGROUND),
        truth=tuple(bool(rows_of(table, name)["drifted"][0].as_py()) for name in names),
        level=options.level,
        permutations=options.permutations,
        shots=options.shots,
        least_gain=options.least_gain,
        alien=vectors_of(table, ALIEN),
    )


def apply(context: Context, state: State, problem: Drift, solution: Verdicts) -> State:
    """Walk the states of the watches on drift and on quality through the windows, in the order in which they came."""
    options = context.parsed(Options, "drift")
    table = context.lake.read(state.refs["monitoring/windows"])
    names = window_names(table)
    rules = Rules(options.alarm_level, options.minimum, options.debounce, options.recovery, options.cool_down)
    reference, standing, rows = likelihoods_of(table, REFERENCE), Standing(), list[dict[str, Any]]()
    judged = zip(names, solution.p_values, solution.statistics, solution.alerts, strict=True)
    for name, p_value, statistic, alert in judged:
        window = rows_of(table, name)
        harm = compare_quality(reference, likelihoods_of(table, name), options.margin)
        standing, event = standing.after(window.num_rows, p_value, harm, rules)
        rows.append(
            {
                "window": name,
                "requests": window.num_rows,
                "drifted": window["drifted"][0].as_py(),
                "p_value": p_value,
                "statistic": statistic,
                "alert": alert,
                "state": str(standing.drift.level),
                "announced": event,
                "mean_logprob": mean_logprob_of(window),
                "quality": str(harm.verdict) if harm else None,
                "quality_difference": round(harm.difference, 4) if harm else None,
            }
        )
    verdicts = context.lake.write("monitoring/verdicts", pa.Table.from_pylist(rows, schema=VERDICTS))
    for row in rows:
        log.info("%s: %s (p = %.3f, %d requests)", row["window"], row["state"], row["p_value"], row["requests"])
    return state.add(
        {"monitoring/verdicts": verdicts},
        windows=names,
        drifted=[row["drifted"] for row in rows],
        states=[row["state"] for row in rows],
        announced=[row["announced"] for row in rows],
        p_values=[row["p_value"] for row in rows],
        quality={row["window"]: row["quality"] for row in rows},
        alarm_level=options.alarm_level,
        power_at_level=_power(problem, options, context.seed),
    )


def _power(problem: Drift, options: Options, seed: int) -> dict[str, float]:
    """Return how often planted drift is found at these sizes, by the share of foreign requests."""
    about: dict[str, float] = {"level": options.level, "trials": options.power_trials}
    if options.power_trials:
        power = measured_power(problem, np.random.default_rng([seed, 2]), options.power_trials)
        about |= {f"{rate:g}": round(share, 3) for rate, share in power.items()}
    return about


DRIFT: Subtask[Drift, Verdicts] = Subtask(
    stage="monitoring",
    name="drift",
    incumbent=INCUMBENT,
    challenger=CHALLENGER,
    others=OTHERS,
    quality=quality,
    metric=TERMS.metric,
    size=lambda problem: len(problem.reference) + max((len(w) for w in problem.windows), default=0),
    tolerance=TERMS.tolerance,
    predictions=TERMS.predictions,
    bank=bank,
    example=example,
    oracle=lambda problem: (1.0,) * len(problem.truth),
    floor=0.6,
    options=Options,
    pose=pose,
    apply=apply,
)
