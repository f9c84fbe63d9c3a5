"""The Prefect tasks of every stage: prepare, decide, publish, shadow. Few and coarse; each is metered."""

from __future__ import annotations

import logging
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

import psutil
from prefect import task

from infra.energy.meter import Meter
from infra.energy.usage import Usage
from infra.progress import forward_from_worker
from tasks.contract import Decision
from tasks.settle import Shadow, Workbench, record_work, run_shadow, settle
from tasks.stage import Context, Stage, State

log = logging.getLogger("ketcycle.steps")

SAMPLE_S = 0.25


@dataclass(frozen=True)
class Decided:
    """What a decision left behind; `beside` holds what is needed to run further arms of it, if there are any or not."""

    state: State
    decision: Decision | None = None
    beside: Shadow | None = None


def _module(stage: str) -> Stage:
    return cast("Stage", import_module(f"tasks.{stage}.stage"))


@task(name="prepare", task_run_name="{context.stage}: prepare")
def prepare(context: Context) -> State:
    """Walk the classical road of a stage up to its first decision."""
    with _work(context, "prepare"):
        return _module(context.stage).prepare(context)


@task(name="decide", task_run_name="{context.stage}: decide {subtask}")
def decide(context: Context, state: State, subtask: str, bench: Workbench, since: str) -> Decided:
    """Pose one decision, settle it and do what follows from it; the stage began at `since`."""
    module = _module(context.stage)
    found = next(s for s in module.SUBTASKS if s.name == subtask)
    with _work(context, f"pose {subtask}"):
        problem = module.pose(context, state, subtask)
    if problem is None:
        return Decided(state)
    outcome, left = settle(found, problem, bench)
    with _work(context, f"apply {subtask}"):
        after = module.apply(context, state, subtask, outcome.solution)
    return Decided(after, outcome.decision, Shadow(context, state, subtask, outcome.problem, left, bench, since))


@task(name="publish", task_run_name="{context.stage}: publish")
def publish(context: Context, state: State) -> State:
    """Put the products of a stage into the lake."""
    module = _module(context.stage)
    with _work(context, "publish"):
        published = module.publish(context, state)
    line = module.headline(published)
    log.info("%s: %s", context.stage, line)
    return published.add(headline=line)


@task(name="shadow", task_run_name="{shadow.context.stage}: shadow {shadow.subtask}")
def shadow(shadow: Shadow) -> int:
    """Run the arms that were not chosen, beside the run; return how many there were.

    Arms that have left their evidence are not run again: a cluster repeats finished tasks when a worker dies.
    """
    left = shadow.left()
    return run_beside(left) if left.arms else 0


def run_beside(shadow: Shadow) -> int:
    """Pose a decision again as it was and run arms on it; return how many."""
    module = _module(shadow.context.stage)
    found = next(s for s in module.SUBTASKS if s.name == shadow.subtask)
    with _work(shadow.context, f"pose {shadow.subtask} again"):
        problem = module.pose(shadow.context, shadow.state, shadow.subtask)
    return run_shadow(found, problem, shadow.arms, shadow.bench)


@contextmanager
def _work(context: Context, part: str) -> Iterator[None]:
    """Meter a stage's own work and record it, failed or not, with the peak memory of this process and its children."""
    forward_from_worker()
    log.info("%s: %s", context.stage, part)
    before_s = _ended_children_s()
    failure: Exception | None = None
    with _peak_rss() as peak, Meter() as meter:
        try:
            yield
        except Exception as error:
            failure = error
    usage = meter.usage + Usage(cpu_s=_ended_children_s() - before_s)  # a server started and stopped meanwhile
    record_work(context, part, usage, meter.source, peak[0])
    if failure is not None:
        raise failure


def _ended_children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def _peak_rss() -> Iterator[list[float]]:
    me, stop, peak = psutil.Process(), threading.Event(), [0.0]

    def sample() -> None:
        while True:
            family: list[Any] = [me, *me.children(recursive=True)]
            total = 0.0
            for process in family:
                try:
                    total += process.memory_info().rss / 2**20
                except psutil.NoSuchProcess:
                    continue
            peak[0] = max(peak[0], total)
            if stop.wait(SAMPLE_S):
                return

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
