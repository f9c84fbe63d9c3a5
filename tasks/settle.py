"""Chooses the arm of a decision, meters it and records it: the only bridge between arms and infrastructure."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TypeVar, cast

from infra import events
from infra.energy.usage import Usage
from infra.errors import BackendFailed, BudgetExceeded, StillQueued
from infra.shared import open_lake, shipped_evidence
from tasks import policy
from tasks.contract import Artifact, Decision, Method, NothingToGain, Outcome, OverBudget, Subtask, content_key
from tasks.execution import executed, resume_folder, status_of
from tasks.records import Scoring, record, trials
from tasks.workbench import Workbench

log = logging.getLogger("ketcycle.settle")

FALL_BACK = (BudgetExceeded, BackendFailed, StillQueued, OverBudget, NothingToGain)

P = TypeVar("P")
S = TypeVar("S")


def settle(
    subtask: Subtask[P, S], problem: P, bench: Workbench, scoring: Scoring = nullcontext
) -> tuple[Outcome[S], tuple[str, ...]]:
    """Run the arm that the method chooses; return its solution and the names of the shadow arms.

    Its quality is computed within `scoring`.

    A refused or exceeded budget, a failed backend or a late remote result falls back to the incumbent with the reason;
    a programming error raises. A solution that is an artifact is put into the lake.
    """
    problem_id = content_key(problem)
    decision, beside = _decide(subtask, problem, problem_id, bench)
    try:
        solution = _solve(subtask, problem, problem_id, decision, bench, scoring)
    except FALL_BACK as error:
        if decision.arm == subtask.incumbent.name:
            raise
        decision = Decision(
            subtask.incumbent.name, "fallback", f"{decision.arm} {status_of(error)}: {type(error).__name__}: {error}"
        )
        solution = _solve(subtask, problem, problem_id, decision, bench, scoring)
    log.info("%s: %s (%s)", subtask.key, decision.arm, decision.reason, extra={"count": ("arms", 0, 1)})
    left = tuple(name for name in beside if name != decision.arm)
    return Outcome(solution, decision, problem_id), left


def run_shadow(
    subtask: Subtask[P, S],
    problem: P,
    arms: Sequence[str],
    bench: Workbench,
    allowance_s: float = float("inf"),
    scoring: Scoring = nullcontext,
) -> int:
    """Run shadow arms; a failure is recorded, never raised. Returns the number of arms run.

    Args:
        subtask: the decision.
        problem: what is solved.
        arms: the arms.
        bench: what they work with.
        allowance_s: CPU seconds that the optional arms among them may use together.
        scoring: what the qualities are computed within.
    """
    problem_id = content_key(problem)
    ordered = [arm for arm in _by_least_evidence(subtask, bench) if arm in arms]
    with executed(subtask, problem, problem_id, ordered, bench, allowance_s) as executions:
        where = {"stage": subtask.stage, "subtask": subtask.name, "problem": problem_id, "status": "pending"}
        for row in bench.evidence.read(run_id=bench.run_id, **where):
            if row.arm in executions:
                # Add what the late execution used in this process; the new row has the use of its finished calls.
                own = Usage(row.total.cpu_s - row.total.simulation_cpu_s, row.total.wall_s, row.total.rss_gb_s)
                executions[row.arm].total = executions[row.arm].total + own
        record(subtask, problem, problem_id, executions, None, bench, scoring)
    if not any(execution.status == "pending" for execution in executions.values()):
        shutil.rmtree(resume_folder(bench, subtask, problem_id), ignore_errors=True)
    return sum(execution.status != "skipped" for execution in executions.values())


def run_arms(subtask: Subtask[P, S], problem: P, arms: Sequence[str], bench: Workbench) -> dict[str, S]:
    """Run arms on a problem outside a run, record them, and return the solutions of those that finished."""
    problem_id = content_key(problem)
    with executed(subtask, problem, problem_id, arms, bench) as executions:
        record(subtask, problem, problem_id, executions, None, bench)
        shutil.rmtree(resume_folder(bench, subtask, problem_id), ignore_errors=True)
        return {name: execution.value for name, execution in executions.items() if execution.status == "done"}


def _solve(
    subtask: Subtask[P, S],
    problem: P,
    problem_id: str,
    decision: Decision,
    bench: Workbench,
    scoring: Scoring = nullcontext,
) -> S:
    """Run the chosen arm, record it, and return its solution.

    Raises:
        Exception: what the arm raised; only recorded where the incumbent may replace it.
    """
    with executed(subtask, problem, problem_id, [decision.arm], bench) as executions:
        chosen = executions[decision.arm]
        error = chosen.measured.error
        if error is None:
            record(subtask, problem, problem_id, executions, decision, bench, scoring)
            return _kept(subtask, chosen.value, bench)
        if isinstance(error, FALL_BACK):
            record(subtask, problem, problem_id, executions, None, bench)
    if chosen.status == "refused":
        asked = f"{subtask.key}/{decision.arm}"
        payload = {"what": asked, "reason": chosen.reason, "run_id": bench.run_id}
        events.emit("budget.exhausted", payload, once=f"{bench.run_id} {asked}")
    raise error


def _kept(subtask: Subtask[P, S], solution: S, bench: Workbench) -> S:
    """Return the solution; an artifact is put into the lake, and the returned one points there."""
    if not isinstance(solution, Artifact):
        return solution
    lake = open_lake(bench.home)
    ref = lake.put_folder(f"{subtask.stage}/{subtask.name}_solution", solution.folder, {"digest": solution.digest})
    return cast("S", replace(solution, folder=lake.folder(ref)))


def _decide(subtask: Subtask[P, S], problem: P, problem_id: str, bench: Workbench) -> tuple[Decision, tuple[str, ...]]:
    everything = tuple(arm.name for arm in subtask.arms)
    match bench.method:
        case Method.CLASSICAL:
            return Decision(subtask.incumbent.name, "method", "the run asks for the classical method"), ()
        case Method.QUANTUM if subtask.challenger is not None:
            return Decision(subtask.challenger.name, "method", "the run asks for the quantum method"), ()
        case Method.QUANTUM:
            reason = "no form of this decision runs on a quantum device"
            return Decision(subtask.incumbent.name, "method", reason), ()
        case Method.SHADOW:
            reason = "the incumbent decides; the other arms are measured in shadow"
            return Decision(subtask.incumbent.name, "method", reason), everything
    setting = policy.Setting(
        backend=f"{bench.backend} {bench.runtime.calibration}",
        bucket=policy.size_bucket(subtask.size(problem)),
        data=bench.data,
        objective=bench.objective,
    )
    asked = {"stage": subtask.stage, "subtask": subtask.name, "backend": bench.backend}
    own = bench.evidence.read(**asked)
    # Evidence of an interrupted attempt of this run must not change its decision.
    own = [row for row in own if (row.run_id, row.problem) != (bench.run_id, problem_id)]
    known = {row.row_id for row in own}
    shipped = [row for row in shipped_evidence().read(**asked) if row.row_id not in known]
    # Others have paid for the executions that ship, so this installation need not save their cost again.
    free = [replace(trial, spent=0.0) for trial in trials(shipped, bench.objective)]
    found = [*free, *trials(own, bench.objective)]
    choice = policy.choose(subtask, setting, found, bench.generator(subtask.key, "reverse shadow"))
    used = sum(policy.counts(trial, subtask, setting) for trial in free)
    return _said(choice.decision, used), choice.explore


def _said(decision: Decision, shipped: int) -> Decision:
    """Add to the reason how much of the evidence was shipped and not collected by this installation."""
    if not shipped or decision.rule == "no alternative":
        return decision
    return replace(decision, reason=f"{decision.reason}; {shipped} executions of the evidence that ships were used")


def _by_least_evidence(subtask: Subtask[P, S], bench: Workbench) -> list[str]:
    """Return the arms that always run first, then the others in the order of their number of executions."""
    counts = {arm.name: 0 for arm in subtask.arms}
    for row in bench.evidence.read(stage=subtask.stage, subtask=subtask.name, status="done"):
        if row.arm in counts and row.arm_version == subtask.arm(row.arm).version:
            counts[row.arm] += 1
    always = {arm.name for arm in subtask.always}
    return sorted(counts, key=lambda name: (name not in always, counts[name]))
