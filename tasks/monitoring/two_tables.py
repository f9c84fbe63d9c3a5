"""`ketcycle drift`: two tables compared, with every arm of the decision `drift` run; or one table walked in windows."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from infra.energy.model import Coefficients
from infra.errors import BadInput
from infra.settings import Settings
from tasks.contract import Arm, Kind, content_key
from tasks.monitoring.compare import Comparison, Question, compare, finite
from tasks.monitoring.drift.arms import linear_quadruples
from tasks.monitoring.drift.mmd import kernel_pairs
from tasks.monitoring.drift.problem import Drift, Verdicts
from tasks.monitoring.drift.subtask import DRIFT
from tasks.monitoring.service import service_bench
from tasks.monitoring.tables.reading import open_passing, open_table, sample_rows
from tasks.monitoring.watching.states import Rules, average_run_length
from tasks.monitoring.watching.watch import Step, walk
from tasks.settle import run_arms
from tasks.workbench import Workbench

CIRCUITS = 5_000  # an arm that needs more of them runs only when it is asked for by name
LOOP_S, BLOCKS = 0.1, 2
DETECTORS = tuple(arm for arm in DRIFT.arms if arm.kind is not Kind.CONTROL)

Row = dict[str, Any]


def compare_tables(
    loaded: Settings,
    reference: Any,
    current: Any,
    question: Question,
    *,
    arms: Sequence[str] = (),
    backend: str = "aer",
) -> tuple[Comparison, Row]:
    """Compare two tables by every arm, append the evidence and return what was found and what each arm said and spent.

    Args:
        loaded: the settings.
        reference: normal rows: a path, or a pandas, Polars or Arrow table.
        current: rows to be judged.
        question: what is asked.
        arms: names; empty = every detector whose circuits are few. The incumbent always runs, it decides.
        backend: of the circuits.

    Raises:
        BadInput: tables that cannot be compared, or an unknown arm.
    """
    chosen = _arms(arms)
    run_id = f"drift-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    bench = service_bench(loaded, run_id, seed=question.seed, backend=backend, minimum_s=LOOP_S, blocks=BLOCKS)
    views: list[Row] = []
    skipped: dict[str, str] = {}

    def judge(problems: Mapping[str, Drift]) -> dict[str, float]:
        for name, problem in problems.items():
            few = [arm for arm in chosen if arms or _costly(arm, problem) <= CIRCUITS]
            skipped.update(
                {
                    arm.name: f"{arm.name} ({_costly(arm, problem):,} "
                    f"{'circuits' if arm.kind is Kind.QUANTUM else 'sums over all amplitudes'})"
                    for arm in chosen
                    if arm not in few
                }
            )
            views.append(_judge(name, problem, few, len(problems), bench))
        return {view["view"]: _p_of(view, DRIFT.incumbent.name) for view in views}

    try:
        found = compare(reference, current, question, judge)
    except ValueError as error:
        raise BadInput(str(error)) from None
    plain = found.asdict()
    if skipped:
        plain["notes"].append(f"not run: {', '.join(skipped.values())}; ask for one with --arms NAME")
    level = views[0]["level"] * len(views) if views else question.level
    return found, {**plain, "run_id": run_id, "views": finite(views), "arms": _together(views, chosen, level)}


def _p_of(view: Row, arm: str) -> float:
    """Return the p-value of an arm in a view, 1 where it did not finish."""
    p_values = [row["p_value"] for row in view["arms"] if row["arm"] == arm and row["status"] == "done"]
    return float(p_values[0]) if p_values else 1.0


def _together(views: Sequence[Row], arms: Sequence[Arm[Drift, Verdicts]], level: float) -> Row:
    """Return what each arm that finished every view says of all views together (Bonferroni)."""
    found = {}
    for arm in arms:
        done = [row for view in views for row in view["arms"] if row["arm"] == arm.name and row["status"] == "done"]
        if views and len(done) == len(views):
            p = min(1.0, len(views) * min(row["p_value"] for row in done))
            found[arm.name] = {"p_value": p, "verdict": "drift" if p <= level else "no drift"}
    return found


def _arms(names: Sequence[str]) -> tuple[Arm[Drift, Verdicts], ...]:
    if not names:
        return DETECTORS
    known = {arm.name: arm for arm in DRIFT.arms}
    for name in names:
        if name not in known:
            raise BadInput(f"there is no arm {name!r}; {DRIFT.key} has {', '.join(known)}")
    return tuple(arm for arm in DRIFT.arms if arm.name in {*names, DRIFT.incumbent.name})


def _costly(arm: Arm[Drift, Verdicts], problem: Drift) -> int:
    """Return how many circuits an arm runs, or how many sums over all amplitudes its twin takes for them."""
    if arm.kind is not Kind.QUANTUM and arm.name != "hamming-kernel-exact":
        return 0
    match arm.name:
        case "quantum-kernel-linear":
            return sum(4 * len(q) for q in linear_quadruples(problem))
        case "projected-kernel":
            return 3 * (len(problem.reference) + sum(map(len, problem.windows)))
    return len(kernel_pairs(problem))


def _judge(name: str, problem: Drift, arms: Sequence[Arm[Drift, Verdicts]], views: int, bench: Workbench) -> Row:
    """Run the arms on one view and join what they said with what their evidence holds."""
    solutions = run_arms(DRIFT, problem, [arm.name for arm in arms], bench)
    coefficients = Coefficients.load()
    kept = {row.arm: row for row in bench.evidence.read(run_id=bench.run_id, problem=content_key(problem))}
    rows = []
    for arm in arms:
        row, said = kept[arm.name], solutions.get(arm.name)
        used = row.usage + row.prepare
        band = coefficients.cpu_energy_j(used, "narrow", row.energy_source)
        p = said.p_values[0] if said else 1.0
        rows.append(
            {
                "arm": arm.name,
                "kind": str(arm.kind),
                "status": row.status,
                "reason": row.reason,
                "statistic": said.statistics[0] if said else None,
                "p_value": p if said else None,
                "verdict": ("drift" if p <= problem.level else "no drift") if said else row.status,
                "circuits": used.circuits,
                "shots": used.shots,
                "qpu_s_projected": used.qpu_s_projected,
                "cpu_s": used.cpu_s,
                "energy_j": [band.p5, band.p50, band.p95],
                "energy_source": row.energy_source,
            }
        )
    sizes = {"reference": len(problem.reference), "current": len(problem.windows[0])}
    about = {"compared": sizes, "background": len(problem.background), "dimensions": problem.reference.shape[1]}
    return {"view": name, **about, "level": problem.level, "arms": rows, "views": views}


def stream(
    current: Any, window: int, rules: Rules, reference: Any, columns: Sequence[str], seed: int
) -> Iterator[Step]:
    """Walk a table in windows, in memory that does not grow with it, see `tasks.monitoring.watching.watch.walk`.

    Args:
        current: rows in the order in which they came: a path, or a pandas, Polars or Arrow table.
        window: rows of a window.
        rules: when the state changes.
        reference: normal rows, likewise; None = the first windows.
        columns: to be watched; empty = all that can be used.
        seed: of the sampling and the permutations.

    Raises:
        BadInput: a table or columns that cannot be walked.
    """
    rng = np.random.default_rng([seed, 11])
    normal = sample_rows(open_table(reference, "reference"), rng).table if reference is not None else None
    steps = walk(
        open_passing(current, rng, "current table"), window, rules, reference=normal, columns=columns, seed=seed
    )
    while True:
        try:
            yield next(steps)
        except StopIteration:
            return
        except ValueError as error:
            raise BadInput(str(error)) from None


def stream_report(steps: Sequence[Step], rules: Rules) -> Row:
    """Return a walk as plain values: its windows, its change points, and how seldom it alerts by chance."""
    return {
        "windows": [
            {
                "begin": s.begin,
                "end": s.end,
                "p_value": s.judged.p_value,
                "statistic": s.judged.statistic,
                "views": dict(s.judged.views),
                "state": str(s.watch.level),
                "change": s.change,
                "moved": [dict(row) for row in s.judged.moved],
            }
            for s in steps
        ],
        "change_points": [s.change for s in steps if s.change is not None],
        "rules": {"level": rules.level, "debounce": rules.debounce, "recovery": rules.recovery},
        "average_run_length": average_run_length(rules),
    }
