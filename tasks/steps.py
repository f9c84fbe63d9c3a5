"""The tasks of every stage: work, decide, shadow. Few and coarse; each is metered."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from infra.energy.meter import Meter
from infra.processes.stopping import at_work
from infra.progress import forward_from_worker
from tasks.contract import Decision, Subtask
from tasks.records import record_work
from tasks.stage import Context, State, load_decision, load_step
from tasks.workbench import Shadow, Workbench

log = logging.getLogger("ketcycle.steps")


@dataclass(frozen=True)
class Decided:
    """Result of a decision: the new state and the chosen arm; `decision` is None if there was nothing to decide."""

    state: State
    decision: Decision | None = None
    beside: Shadow | None = None


def work(context: Context, state: State, step: str) -> State:
    """Do one step of a stage's road, given by the name of its function."""
    with _work(context, step):
        return load_step(context.stage, step)(context, state)


def decide(context: Context, state: State, subtask: str, bench: Workbench, since: str) -> Decided:
    """Pose one decision, choose and run its arm, and apply the solution; the stage began at `since`."""
    from tasks.settle import settle  # needs Qiskit, which the process that submits does not

    found = load_decision(context.stage, subtask)
    with _work(context, f"pose {subtask}"):
        problem = posed(found, context, state)
    if problem is None:
        return Decided(state)
    outcome, left = settle(found, problem, bench, partial(_work, context, f"score {subtask}"))
    with _work(context, f"apply {subtask}"):
        after: State = found.apply(context, state, problem, outcome.solution)
    return Decided(after, outcome.decision, Shadow(context, state, subtask, outcome.problem, left, bench, since))


def shadow(shadow: Shadow) -> int:
    """Run the arms that were not chosen, for comparison; return their number.

    Arms that already have evidence are skipped: Dask repeats finished tasks when a worker dies.
    """
    left = shadow.left()
    return run_beside(left) if left.arms else 0


def run_beside(shadow: Shadow) -> int:
    """Pose a decision again from the stored state and run its shadow arms; return their number."""
    from tasks.settle import run_shadow

    found = load_decision(shadow.context.stage, shadow.subtask)
    with _work(shadow.context, f"pose {shadow.subtask} again"):
        problem = posed(found, shadow.context, shadow.state)
    scoring = partial(_work, shadow.context, f"score {shadow.subtask} again")
    return run_shadow(found, problem, shadow.arms, shadow.bench, shadow.allowance_s, scoring)


def posed(subtask: Subtask[Any, Any], context: Context, state: State) -> Any:
    """Return the problem of a decision in a stage, or None where there is nothing to decide."""
    options = context.parsed(subtask.options, subtask.name) if subtask.options else None
    return subtask.pose(context, state, options)


@contextmanager
def _work(context: Context, part: str) -> Iterator[None]:
    """Meter a stage's own work and record it, failed or not, with the peak memory of this process and its children."""
    forward_from_worker(context.run_id)
    log.info("%s: %s", context.stage, part)
    failure: Exception | None = None
    with at_work(context.run_id), Meter() as meter:  # a stop also ends the wait for the meter
        try:
            yield
        except Exception as error:  # noqa: BLE001  (work that fails is recorded, then the error is raised)
            failure = error
    record_work(context, part, meter.usage, meter.source, meter.peak_rss_mb)
    if failure is not None:
        raise failure
