"""Runs the arms of a decision on one problem, each with its own bench, and meters what each of them used."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from numpy.random import Generator

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
from tasks.workbench import SHARED, Workbench

log = logging.getLogger("ketcycle.settle")

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


def resume_folder(bench: Workbench, subtask: Subtask[P, S], problem_id: str) -> Path:
    """Return where the arms of one decision keep checkpoints that survive a kill."""
    return bench.resume_root(subtask.stage) / subtask.name / problem_id


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
        queue = dispatched_usage() - before
        # The queue may have worked beside this, for another call, and longer.
        own = replace(span.usage.split(queue)[0], wall_s=max(0.0, span.usage.wall_s - queue.wall_s))
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
        self.arm, self.problem, self.bench, self.shared, self.scratch = arm, problem, bench, shared, scratch
        self.subtask, self._problem_id = subtask, problem_id
        self.queued, self.shared_cost, self.new_cost = Usage(), Usage(), Usage()
        self.shared_queued = Usage()
        self.elsewhere = Usage()  # on other workers
        self.earlier = Usage()  # by attempts of this arm that were killed
        self.reused = False
        self.drawn: Mapping[S, int] = {}
        self._runs = 0

    def solve(self) -> S:
        """Solve the problem once more, with the same random numbers as the first time."""
        first = self._runs == 0
        self._runs += 1
        attempt = _Attempt(self, first)
        given = attempt.bench()
        try:
            with attempt.watch:
                solution = self.arm.solve(self.problem, given)
        except StillQueued:
            self.shared.late = True
            raise
        finally:
            if first:
                self.elsewhere, self.earlier = attempt.elsewhere, attempt.earlier
        if first:
            self.queued = attempt.queued() - self.shared_queued
            self.reused = attempt.reused
        return solution

    def rng(self) -> Generator:
        """Return the random numbers of the arm on this problem, from the first one on."""
        return self.bench.generator(self.subtask.key, self._problem_id, self.arm.name)

    def resume_folder(self) -> Path:
        """Return the folder of the arm's checkpoints; it survives a kill."""
        name = f"{self.arm.name}-{self.arm.version}-{self.bench.repetition}".replace("/", "-")
        folder = resume_folder(self.bench, self.subtask, self._problem_id) / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def scope(self, asks: str, *arms: Arm[P, S]) -> Scope:
        """Return the ledger scope of an arm, or of a shared value, which depends on the versions of all arms."""
        bench, subtask = self.bench, self.subtask
        # Calls of another seed, backend or arm version are new calls, not a replay of recorded ones.
        variant = " ".join([str(bench.seed), bench.backend, *(str(arm.version) for arm in arms)])
        where = (bench.run_id, subtask.stage, subtask.name, self._problem_id)
        return Scope(*where, asks, bench.repetition, bench.seed, variant)

    def deadline(self) -> float | None:
        """Return the deadline for a remote result; None for a local backend."""
        if open_backend(self.bench.backend).local:
            return None
        # Shadow arms occupy a worker one after another: once one was late, the following ones do not wait.
        return time.time() + (0.0 if self.shared.late else self.bench.remote_deadline_s)


class _Attempt(Generic[P, S]):
    """One execution of an arm: its bench, and what it uses besides the CPU time of this process."""

    def __init__(self, handle: _Handle[P, S], first: bool) -> None:
        scope, self._deadline = handle.scope(handle.arm.name, handle.arm), handle.deadline()
        self._sampler = handle.bench.runtime.sampler(scope, self._deadline)
        self._estimator = handle.bench.runtime.estimator(scope, self._deadline)
        self._handle, self._first, self._asked = handle, first, set[str]()
        self.elsewhere = self.earlier = Usage()
        self.watch = BudgetWatch(getattr(handle.problem, "budget", None), self._used)

    def bench(self) -> Bench:
        """Return what the arm is given beside the problem."""
        handle = self._handle
        return Bench(
            rng=handle.rng(),
            sampler=self._sampler,
            estimator=self._estimator,
            map=self._map,
            once=self._once,
            scratch=handle.scratch,
            resume=self._resume,
            spend=self.watch.spend,
            deadline=self._deadline,
            drew=self._drew,
        )

    @property
    def reused(self) -> bool:
        """Whether a call was answered from the ledger."""
        return self._sampler.reused or self._estimator.reused

    def queued(self) -> Usage:
        """Return what the arm's calls of the runtime queue have used."""
        return self._sampler.usage + self._estimator.usage

    def _used(self) -> Usage:
        handle = self._handle
        return self.queued() + self.earlier + self.elsewhere + handle.shared_cost - handle.new_cost

    def _once(self, key: str, make: Callable[[], T], /) -> T:
        handle = self._handle
        before, shared = self.queued(), handle.scope(f"{SHARED} {key}", *handle.subtask.arms)
        with self._sampler.asking_as(shared), self._estimator.asking_as(shared):
            value, cost, new = handle.shared.get(key, make, self.queued)
        if self._first and key not in self._asked:
            self._asked.add(key)
            handle.shared_cost = handle.shared_cost + cost
            if new:
                handle.new_cost = handle.new_cost + cost
                handle.shared_queued = handle.shared_queued + (self.queued() - before)
        return value

    def _map(self, function: Callable[[T], U], items: Sequence[T], /) -> list[U]:
        results, used = map_on_free_workers(function, items)
        self.elsewhere = self.elsewhere + used
        return results

    def _drew(self, solutions: Mapping[S, int]) -> None:
        if self._first:
            self._handle.drawn = solutions

    def _resume(self) -> Path:
        handle = self._handle
        folder = handle.resume_folder() if self._first else Path(tempfile.mkdtemp(dir=handle.scratch))
        self.earlier = _read_spent(folder)
        self.watch.keep(folder / SPENT, self.earlier)
        return folder


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
