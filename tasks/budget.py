"""Stops an arm that exceeds the budget of its problem, and stores its use so far on disk in case it is killed."""

from __future__ import annotations

import ctypes
import json
import resource
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from infra.energy.model import Coefficients
from infra.energy.usage import Usage
from infra.lake import write_atomic
from tasks.contract import Budget, OverBudget

CHECK_S, KEEP_S = 0.2, 1.0


class BudgetWatch:
    """Counts what an arm uses while it runs in a `with` block, and stops it when a limit is exceeded.

    An arm that calls `spend` in its loop is stopped there. One that does not is stopped by an exception that is raised
    in its thread at the next Python instruction. Without a budget and without checkpoints nothing is watched, so that
    arms of a few microseconds are not slowed down.

    Args:
        budget: the limits; None = none.
        used: what the arm has used besides the CPU time of this process since it began.
    """

    def __init__(self, budget: Budget | None, used: Callable[[], Usage]) -> None:
        self._budget, self._used = budget, used
        self._tokens = 0
        self._began_s = 0.0
        self._kept: Path | None = None
        self._earlier = Usage()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._ended = False
        self._ticker: threading.Thread | None = None
        self._solving = 0
        self._said = ""

    def __enter__(self) -> Self:
        self._began_s, self._solving = _cpu_s(), threading.get_ident()
        if self._budget is not None:
            self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ticker is None:
            return
        with self._lock:
            self._ended = True
        self._stop.set()
        self._ticker.join()
        self._write()
        if isinstance(error, OverBudget):
            raise OverBudget(self._said or f"stopped: {error}") from None
        if error is None:
            self._check()

    def spend(self, *, tokens: int = 0) -> None:
        """Add training tokens and check every limit."""
        self._tokens += tokens
        if self._budget is not None:
            self._check()

    def keep(self, path: Path, earlier: Usage) -> None:
        """Write what the arm has used to a file from now on; `earlier` is what killed attempts of it used."""
        self._kept, self._earlier = path, earlier
        self._start()

    def _start(self) -> None:
        if self._ticker is None:
            self._ticker = threading.Thread(target=self._watch, name="budget", daemon=True)
            self._ticker.start()

    def _watch(self) -> None:
        ticks = 0
        while not self._stop.wait(CHECK_S):
            ticks += 1
            if ticks % round(KEEP_S / CHECK_S) == 0:
                self._write()
            if excess := self._excess():
                self._said = f"stopped at {excess}"
                with self._lock:
                    if not self._ended:
                        _raise_in(self._solving)
                return

    def _write(self) -> None:
        """Store the use so far once there is a checkpoint that it belongs to."""
        if self._kept is not None and any(path != self._kept for path in self._kept.parent.iterdir()):
            own = Usage(cpu_s=_cpu_s() - self._began_s)
            write_atomic(self._kept, json.dumps((self._earlier + own).asdict()))

    def _excess(self) -> str:
        if self._budget is None:
            return ""
        used = self._used()
        cpu_s = _cpu_s() - self._began_s + used.cpu_s
        return self._budget.exceeded(
            {
                "tokens": self._tokens,
                "cpu_s": cpu_s,
                "joules": cpu_s * joules_per_cpu_s() if self._budget.joules is not None else 0.0,
                "executions": used.shots,
            }
        )

    def _check(self) -> None:
        if excess := self._excess():
            self._said = f"stopped at {excess}"
            raise OverBudget(self._said)


def _cpu_s() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(item.ru_utime + item.ru_stime for item in used)


@cache
def joules_per_cpu_s() -> float:
    """Return the modelled joules of a CPU second (narrow boundary, median)."""
    return Coefficients.load().cpu_energy_j(Usage(cpu_s=1.0), source="modelled").p50


def _raise_in(thread: int) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(OverBudget))
