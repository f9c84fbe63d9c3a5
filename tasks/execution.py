"""Runs the arms of a decision on one problem, each with its own bench, and meters what each of them used."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from infra.energy.arms import Measured, measure_arms
from infra.energy.meter import Span
from infra.energy.usage import Usage
from infra.errors import BudgetExceeded, StillQueued
from infra.evidence import Status
from infra.runtime.backends.registry import open_backend
from infra.runtime.queue import Scope, dispatched_usage
from tasks.budget import BudgetWatch
from tasks.contract import Arm, Bench, Kind, NothingToGain, OverBudget, Subtask
from tasks.parallel import map_on_free_workers
from tasks.workbench import Workbench

log = logging.getLogger("ketcycle.settle")

SHARED = "shared"  # prefix of the ledger name of calls that compute a value shared by several arms
SPENT = "spent.json"

P = TypeVar("P")
S = TypeVar("S")
T = TypeVar("T")
U = TypeVar("U")


class LeftOut(Exception):
    """An optional arm was not run because the run's shadow budget is used up."""


@dataclass
class Execution(Generic[S]):
    """One arm's execution: what it returned, what it used, how it ended."""

    measured: Measured[S]
    status: Status
    reason: str
    usage: Usage
    prepare: Usage
    total: Usage
    source: str
    reused: bool
    drawn: Mapping[S, int]  # counts of the solutions of its repetitions, as reported to `Bench.drew`; else empty

    @property
    def value(self) -> S:
        """The solution.

        Raises:
            Exception: what the arm raised.
        """
        if self.measured.error is not None:
            raise self.measured.error
        return self.measured.value  # type: ignore[return-value]  # an execution without error has a value


@contextmanager
def executed(
    subtask: Subtask[P, S],
    problem: P,
    problem_id: str,
    names: Sequence[str],
    bench: Workbench,
    allowance_s: float = float("inf"),
) -> Iterator[dict[str, Execution[S]]]:
    """Run arms on one problem, one at a time; short ones are repeated in further rounds for a better measurement.

    The arms' scratch folders, and artifacts in them, exist until the block ends.

    Args:
        subtask: the decision.
        problem: what is solved.
        problem_id: its content key.
        names: the arms; optional ones (not in `Subtask.always`) are started last, in this order.
        bench: what they work with.
        allowance_s: CPU seconds that the optional arms may use together; above it no further one starts.
    """
    always = {arm.name for arm in subtask.always}
    rng = bench.generator(subtask.key, problem_id, "order")
    first = [name for name in names if name in always]
    order = [*(first[i] for i in rng.permutation(len(first))), *(name for name in names if name not in always)]
    with _scratch(bench.home, names) as scratch:
        shared, optional = _Shared(), _Allowance(allowance_s)
        handles = {
            name: _Handle(subtask, subtask.arm(name), problem, problem_id, bench, shared, scratch[name])
            for name in order
        }
        measured = measure_arms(
            {
                name: handle.solve if name in always else optional.limit(handle.solve)
                for name, handle in handles.items()
            },
            rng=rng,
            blocks=bench.blocks,
            minimum_s=bench.minimum_s,
            loopable={name for name, handle in handles.items() if handle.arm.kind is not Kind.QUANTUM},
            foreign=lambda: dispatched_usage() + shared.spent,
            around=lambda name: _told(subtask.key, name),
        )
        in_order = [arm.name for arm in subtask.arms if arm.name in handles]
        yield {name: _finish(handles[name], measured[name]) for name in in_order}


@contextmanager
def _told(subtask: str, arm: str) -> Iterator[None]:
    """Log that an arm runs, and that it ran; the latter counts for the display."""
    log.info("%s: arm %s runs", subtask, arm)
    began = time.monotonic()
    yield
    took_s = time.monotonic() - began
    log.info("%s: arm %s ran for %.3g s", subtask, arm, took_s, extra={"count": ("arms", 1, 0)})


def resume_root(bench: Workbench, stage: str) -> Path:
    """Return where the arms of a stage's decisions keep checkpoints that survive a kill."""
    return bench.home / "scratch" / "resume" / bench.run_id / stage


def resume_folder(bench: Workbench, subtask: Subtask[P, S], problem_id: str) -> Path:
    """Return where the arms of one decision keep such checkpoints."""
    return resume_root(bench, subtask.stage) / subtask.name / problem_id


class _Allowance:
    """CPU seconds that optional arms share."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s, self._spent_s = limit_s, 0.0

    def limit(self, solve: Callable[[], S]) -> Callable[[], S]:
        """Return the function; its first call raises LeftOut instead once the allowance is used up."""
        begun = False

        def limited() -> S:
            nonlocal begun
            if not begun and self._spent_s >= self._limit_s:
                raise LeftOut(f"the shadow budget is used up: {self._spent_s:.3g} of {self._limit_s:.3g} CPU s")
            begun, span = True, Span()
            try:
                with span:
                    return solve()
            finally:
                self._spent_s += span.usage.cpu_s

        return limited


class _Shared:
    """Values that several arms derive from one problem, each computed once, with its cost."""

    def __init__(self) -> None:
        self.values: dict[str, tuple[Any, Usage]] = {}
        self.spent = Usage()  # of this process; subtracted from the arm that happened to compute the value
        self.late = False  # whether an arm's remote result missed its deadline

    def get(self, key: str, make: Callable[[], T], queued: Callable[[], Usage]) -> tuple[T, Usage, bool]:
        """Return the value, its cost, and whether this call computed it."""
        if key in self.values:
            value, cost = self.values[key]
            return value, cost, False
        before, sent = dispatched_usage(), queued()
        with Span() as span:
            value = make()
        own = span.usage - (dispatched_usage() - before)
        self.spent = self.spent + own
        cost = own + (queued() - sent)
        self.values[key] = (value, cost)
        return value, cost, True


class _Handle(Generic[P, S]):
    """Runs one arm with its own bench and meters its first run."""

    def __init__(
        self,
        subtask: Subtask[P, S],
        arm: Arm[P, S],
        problem: P,
        problem_id: str,
        bench: Workbench,
        shared: _Shared,
        scratch: Path,
    ) -> None:
        self.arm, self._problem, self._bench, self._shared, self._scratch = arm, problem, bench, shared, scratch
        self._subtask, self._problem_id = subtask, problem_id
        self.queued, self.shared_cost, self.new_cost = Usage(), Usage(), Usage()
        self.shared_queued = Usage()
        self.elsewhere = Usage()  # on other workers
        self.earlier = Usage()  # by attempts of this arm that were killed
        self.reused = False
        self.drawn: Mapping[S, int] = {}
        self._runs = 0

    def solve(self) -> S:
        """Solve the problem once more, with the same random numbers as the first time."""
        bench, arm, scope = self._bench, self.arm, self._scope(self.arm.name, self.arm)
        deadline = self._deadline()
        sampler, estimator = bench.runtime.sampler(scope, deadline), bench.runtime.estimator(scope, deadline)
        first, asked = self._runs == 0, set[str]()
        self._runs += 1
        elsewhere = earlier = Usage()

        def queued() -> Usage:
            return sampler.usage + estimator.usage

        def used() -> Usage:
            """Return what the arm has used besides the CPU time of this process since it began."""
            return queued() + earlier + elsewhere + self.shared_cost - self.new_cost

        watch = BudgetWatch(getattr(self._problem, "budget", None), used)

        def once(key: str, make: Callable[[], T], /) -> T:
            before, shared = queued(), self._scope(f"{SHARED} {key}", *self._subtask.arms)
            with sampler.asking_as(shared), estimator.asking_as(shared):
                value, cost, new = self._shared.get(key, make, queued)
            if first and key not in asked:
                asked.add(key)
                self.shared_cost = self.shared_cost + cost
                if new:
                    self.new_cost = self.new_cost + cost
                    self.shared_queued = self.shared_queued + (queued() - before)
            return value

        def mapped(function: Callable[[T], U], items: Sequence[T], /) -> list[U]:
            nonlocal elsewhere
            results, used = map_on_free_workers(function, items)
            elsewhere = elsewhere + used
            return results

        def drew(solutions: Mapping[S, int]) -> None:
            if first:
                self.drawn = solutions

        def resume() -> Path:
            nonlocal earlier
            folder = self._resume_folder() if first else Path(tempfile.mkdtemp(dir=self._scratch))
            earlier = _read_spent(folder)
            watch.keep(folder / SPENT, earlier)
            return folder

        rng = bench.generator(self._subtask.key, self._problem_id, arm.name)
        given = Bench(rng, sampler, estimator, mapped, once, self._scratch, resume, watch.spend, deadline, drew)
        try:
            with watch:
                solution = arm.solve(self._problem, given)
        except StillQueued:
            self._shared.late = True
            raise
        finally:
            if first:
                self.elsewhere, self.earlier = elsewhere, earlier
        if first:
            self.queued = queued() - self.shared_queued
            self.reused = sampler.reused or estimator.reused
        return solution

    def _resume_folder(self) -> Path:
        name = f"{self.arm.name}-{self.arm.version}-{self._bench.repetition}".replace("/", "-")
        folder = resume_folder(self._bench, self._subtask, self._problem_id) / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _scope(self, asks: str, *arms: Arm[P, S]) -> Scope:
        """Return the ledger scope of an arm, or of a shared value, which depends on the versions of all arms."""
        bench, subtask = self._bench, self._subtask
        # Calls of another seed, backend or arm version are new calls, not a replay of recorded ones.
        variant = " ".join([str(bench.seed), bench.backend, *(str(arm.version) for arm in arms)])
        where = (bench.run_id, subtask.stage, subtask.name, self._problem_id)
        return Scope(*where, asks, bench.repetition, bench.seed, variant)

    def _deadline(self) -> float | None:
        """Return the deadline for a remote result; None for a local backend."""
        if open_backend(self._bench.backend).local:
            return None
        # Shadow arms occupy a worker one after another: once one was late, the following ones do not wait.
        return time.time() + (0.0 if self._shared.late else self._bench.remote_deadline_s)


def _finish(handle: _Handle[P, S], measured: Measured[S]) -> Execution[S]:
    """Add up an arm's use: cost of one solution, shared cost, and what was spent in total."""
    status: Status = "done"
    reason = ""
    if measured.error is not None:
        status, reason = status_of(measured.error), f"{type(measured.error).__name__}: {measured.error}"
        if status == "skipped":
            reason = str(measured.error)
        else:
            log.warning("%s %s: %s", handle.arm.name, status, reason)
    return Execution(
        measured=measured,
        status=status,
        reason=reason,
        usage=measured.per_run + handle.queued + handle.elsewhere + handle.earlier,
        prepare=handle.shared_cost,
        total=measured.total + handle.queued + handle.new_cost + handle.elsewhere,
        source=measured.source,
        reused=handle.reused,
        drawn=handle.drawn,
    )


def status_of(error: Exception) -> Status:
    """Return how an execution that raised is recorded."""
    match error:
        case BudgetExceeded():
            return "refused"
        case StillQueued():
            return "pending"
        case LeftOut() | NothingToGain():
            return "skipped"
        case OverBudget():
            return "stopped"
        case _:
            return "failed"


def _read_spent(folder: Path) -> Usage:
    """Return the use of killed attempts of an arm, as recorded with its checkpoints."""
    try:
        return Usage(**json.loads((folder / SPENT).read_text()))
    except FileNotFoundError:
        return Usage()


@contextmanager
def _scratch(home: Path, arms: Sequence[str]) -> Iterator[dict[str, Path]]:
    """Yield a folder for each arm; created before metering: creating one takes longer than the quickest arms."""
    base = home / "scratch"
    base.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=base, ignore_cleanup_errors=True) as folder:
        yield {arm: Path(tempfile.mkdtemp(dir=folder)) for arm in arms}
