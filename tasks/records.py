"""Rows of evidence: what arms, stages and orchestration used, written and read back."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from infra.energy.model import Band, Coefficients
from infra.energy.usage import Usage
from infra.evidence import EvidenceRow, orchestration_row, stage_row
from infra.settings import Objective
from infra.shared import open_evidence
from tasks import policy
from tasks.contract import Decision, Subtask
from tasks.stage import Context
from tasks.workbench import Workbench

if TYPE_CHECKING:
    from tasks.execution import Execution

P = TypeVar("P")
S = TypeVar("S")
Scoring = Callable[[], AbstractContextManager[object]]


def record(
    subtask: Subtask[P, S],
    problem: P,
    problem_id: str,
    executions: Mapping[str, Execution[S]],
    decision: Decision | None,
    bench: Workbench,
    scoring: Scoring = nullcontext,
) -> None:
    """Score the solutions (charged to no arm) within `scoring`, and append one evidence row for each arm."""
    with scoring():
        oracle, part = subtask.oracle(problem) if subtask.oracle else (), 1 / subtask.serves(problem)
        rows = [
            EvidenceRow(
                run_id=bench.run_id,
                stage=subtask.stage,
                subtask=subtask.name,
                problem=problem_id,
                probe=bench.probe,
                size=subtask.size(problem),
                arm=name,
                kind=str(subtask.arm(name).kind),
                role=_role(subtask, name),
                arm_version=subtask.arm(name).version,
                repetition=bench.repetition,
                backend=bench.backend,
                calibration=bench.runtime.calibration,
                quality_backend=bench.backend if execution.usage.circuits or execution.prepare.circuits else "cpu",
                status=execution.status,
                reason=execution.reason,
                metric=subtask.metric,
                tolerance=subtask.tolerance,
                qualities=tuple(subtask.quality(problem, execution.value)) if execution.status == "done" else (),
                oracle=oracle,
                measures=json.dumps(
                    dict(subtask.measures(problem, execution.value)) if execution.status == "done" else {}
                ),
                twin=subtask.arm(name).twin,
                hit_rates=hit_rates(subtask, problem, execution.drawn, oracle),
                usage=execution.usage,
                prepare=execution.prepare.scaled(part),
                total=execution.total,
                loops=execution.measured.loops,
                energy_source=execution.source,
                reused=execution.reused,
                chosen=decision is not None and decision.arm == name,
                method=str(bench.method),
                data=bench.data,
                unit=bench.unit,
                decision=json.dumps(asdict(decision)) if decision else "",
                **_provenance(),
            )
            for name, execution in executions.items()
        ]
    bench.evidence.append(rows)


def hit_rates(subtask: Subtask[P, S], problem: P, drawn: Mapping[S, int], oracle: Sequence[float]) -> tuple[float, ...]:
    """Return for each instance the probability that one execution hits: that any of its repetitions does.

    A repetition hits where its solution comes within the tolerance of the best quality; 1 - (1 - p)^r of r
    repetitions of which a share p hits. Empty where the arm did not say what it drew or no best quality is known.
    """
    repetitions = sum(drawn.values())
    if not repetitions or not oracle:
        return ()
    floor = np.asarray(oracle) - subtask.tolerance
    hits = np.zeros(len(oracle))
    for solution, count in drawn.items():
        hits += count * (np.asarray(subtask.quality(problem, solution)) >= floor)
    return tuple((1 - (1 - hits / repetitions) ** repetitions).tolist())


def _role(subtask: Subtask[P, S], name: str) -> str:
    if name == subtask.incumbent.name:
        return "incumbent"
    return "challenger" if subtask.challenger is not None and name == subtask.challenger.name else ""


def record_work(context: Context, part: str, usage: Usage, source: str, peak_rss_mb: float) -> None:
    """Record the work of a stage that belongs to no decision."""
    note = json.dumps({"peak_rss_mb": round(peak_rss_mb, 1)})
    row = stage_row(
        context.run_id, context.stage, usage, problem=part, energy_source=source, decision=note, **_provenance()
    )
    open_evidence(context.home).append([row])


def record_orchestration(home: Path, run_id: str, since: str, tree_cpu_s: float) -> None:
    """Record the CPU time of a run (or of its continuation) that no row has been charged with since it began.

    It was spent on scheduling, tracking and the ledger. Each call adds a row for the time since the last call.
    """
    evidence = open_evidence(home)
    rows = evidence.read(run_id=run_id)
    charged = sum(row.total.cpu_s for row in rows if row.created_at >= since)
    before = sum(row.arm == "orchestration" for row in rows)
    usage = Usage(cpu_s=tree_cpu_s - charged)
    evidence.append([orchestration_row(run_id, usage, repetition=before, **_provenance())])


Costs = dict[int, tuple[NDArray[np.float64], float]]  # of rows, by their `id`: the draws, and what was spent


def trials(rows: Sequence[EvidenceRow], objective: Objective, known: Costs | None = None) -> list[policy.Trial]:
    """Return the evidence as the policy sees it: one trial for each instance, costs under shared draws.

    An execution that failed counts as one without quality on every instance that the other arms solved there; what
    a chosen arm spent was no shadow's spending.

    Args:
        rows: the evidence.
        objective: of the decision.
        known: costs of rows that another call has worked out, and those of this one; for the same objective.
    """
    coefficients, known = Coefficients.load(), {} if known is None else known
    instances = {row.problem: len(row.qualities) for row in rows if row.qualities}
    found = []
    for row in rows:
        n = instances.get(row.problem, 0)
        if not n or row.status not in ("done", "failed", "stopped"):
            continue
        if id(row) not in known:
            known[id(row)] = _costs(row, objective, coefficients)
        cost, spent = known[id(row)]
        cost = cost / n
        found += [
            policy.Trial(
                instance=f"{row.problem}/{position}",
                arm=row.arm,
                arm_version=row.arm_version,
                backend=f"{row.backend} {row.calibration}",
                bucket=policy.size_bucket(row.size),
                data=row.data,
                unit=row.unit or f"{row.problem}/{position}",
                quality=quality,
                cost=cost,
                spent=spent / n,
            )
            for position, quality in enumerate(row.qualities or (float("nan"),) * n)
        ]
    return found


def _costs(row: EvidenceRow, objective: Objective, coefficients: Coefficients) -> tuple[NDArray[np.float64], float]:
    about = (objective, row.backend, f"{row.subtask}/{row.arm}")
    cost = coefficients.cost_draws(row.usage + row.prepare, *about, source=row.energy_source)
    if row.chosen:
        return cost, 0.0
    return cost, Band.of(coefficients.cost_draws(row.total, *about, source=row.energy_source)).p50


@cache
def _provenance() -> dict[str, Any]:
    versions = {name: version(name) for name in ("ketcycle", "qiskit", "qiskit-aer", "torch", "numpy")}
    return {"versions": json.dumps(versions), "host": platform.node()}
