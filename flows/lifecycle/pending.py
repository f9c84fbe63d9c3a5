"""Pending rows: an arm is executed again once its late remote result is available, and the report is regenerated.

The second execution uses no QPU time, since finished calls are answered from the ledger. The run's products stay.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import sqlalchemy as sa

from flows.lifecycle.walk import bench_of, context_of, shadows_of
from flows.reports.run.report import remake
from infra import completion, runs
from infra.errors import BadInput
from infra.evidence import Evidence, EvidenceRow, Status
from infra.runtime.ledger.ledger import CANCELLED, FAILED, FINAL, UNKNOWN, Ledger
from infra.runtime.ledger.schema import calls
from infra.settings import Settings
from infra.shared import open_evidence
from tasks import steps
from tasks.workbench import SHARED

log = logging.getLogger("ketcycle.pending")


@dataclass(frozen=True)
class Completed:
    """The new status of a pending row, or `pending` if it has not changed."""

    run_id: str
    stage: str
    subtask: str
    arm: str
    status: str


def complete_pending(loaded: Settings, run_id: str | None = None) -> list[Completed]:
    """Complete the pending rows whose calls have ended, and regenerate the reports of their runs.

    Rows of a run that is still running are left to that run.

    Args:
        loaded: the settings.
        run_id: complete only this run; None = all runs.
    """
    rows = open_evidence(loaded.home).read(run_id=run_id, status="pending")
    completed: list[Completed] = []
    for name in sorted({row.run_id for row in rows}):
        try:
            with completion.claimed(loaded.home, name):
                found = complete_run(loaded, name)
                if runs.find(loaded.home, name) and any(item.status != "pending" for item in found):
                    log.info("report of %s regenerated: %s", name, remake(loaded, name))
                completed += found
        except BadInput as error:
            log.info("pending rows of %s are left: %s", name, error)
    return completed


def complete_run(loaded: Settings, run_id: str) -> list[Completed]:
    """Complete the pending rows of one run whose calls have ended; its report is left to the caller."""
    by_decision: dict[tuple[str, str, str], list[EvidenceRow]] = defaultdict(list)
    for row in open_evidence(loaded.home).read(run_id=run_id, status="pending"):
        by_decision[row.stage, row.subtask, row.problem].append(row)
    found: list[Completed] = []
    for decision in by_decision.values():
        found += _complete_decision(loaded, run_id, decision)
    return found


def _complete_decision(loaded: Settings, run_id: str, rows: Sequence[EvidenceRow]) -> list[Completed]:
    stage, subtask, problem = rows[0].stage, rows[0].subtask, rows[0].problem
    done = completion.find(loaded.home, run_id, stage)
    if done is None:
        return []  # the stage was stopped; a resumed run will make the decision again
    context = context_of(loaded, run_id, stage, done.parts)
    # Does not wait: the next dispatch sends further calls of an arm.
    bench = replace(bench_of(loaded, run_id, done.parts, done.result["data"]), remote_deadline_s=0.0)
    left = shadows_of(done, context, bench)
    shadow = next((s for s in left if (s.subtask, s.problem) == (subtask, problem)), None)
    ready = []
    for row in rows:
        states = _states(loaded, row)
        if shadow is None:
            _end(bench.evidence, row, "skipped", "the run continued with other parameters")
        elif ended := sorted(states & {FAILED, CANCELLED, UNKNOWN}):
            _end(bench.evidence, row, "failed", f"{row.reason}; its call is {', '.join(ended)} now")
        elif states <= set(FINAL):
            ready.append(row.arm)
    if shadow is not None and ready:
        log.info("%s/%s of %s: results of %s are in", stage, subtask, run_id, ", ".join(ready))
        steps.run_beside(replace(shadow, arms=tuple(ready)))
    now = bench.evidence.read(run_id=run_id, stage=stage, subtask=subtask, problem=problem)
    arms = {row.arm for row in rows}
    return [Completed(run_id, stage, subtask, row.arm, row.status) for row in now if row.arm in arms]


def _end(evidence: Evidence, row: EvidenceRow, status: Status, reason: str) -> None:
    stamp = datetime.now(UTC).isoformat(timespec="microseconds")
    evidence.append([replace(row, status=status, reason=reason, created_at=stamp)])


def _states(loaded: Settings, row: EvidenceRow) -> set[str]:
    """Return the states of the calls that an arm waits for: its own calls, or those of shared values."""
    same = {"run": row.run_id, "stage": row.stage, "subtask": row.subtask, "problem": row.problem}
    query = sa.select(calls.c.state).where(*(calls.c[name] == value for name, value in same.items()))
    query = query.where(calls.c.repetition == row.repetition)
    with Ledger(loaded.ledger, create=False).database.read() as connection:
        own = set(connection.scalars(query.where(calls.c.arm == row.arm)))
        return own or set(connection.scalars(query.where(calls.c.arm.startswith(f"{SHARED} "))))
