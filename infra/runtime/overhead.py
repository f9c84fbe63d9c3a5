"""What this process spends on the queue, for any caller: CPU time, elapsed time, memory."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import psutil

from infra.energy.usage import Usage

MEMORY_S = 0.1  # between two looks at the memory of the process, which take as long as a write to the ledger


class Overhead:
    """CPU time, elapsed time and memory that this process spends on the queue, for anybody.

    A settled arm takes the increase during its run out of its own consumption and adds what its own calls used.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._total = Usage()
        self._open: dict[int, tuple[float, float | None]] = {}

    @contextmanager
    def counted(self, *, elapsed: bool = True) -> Iterator[None]:
        """Count the work of this thread until the end of the block; what blocks within blocks count, they count once.

        Args:
            elapsed: count elapsed time and memory too; not where the thread only waits.
        """
        ident = threading.get_ident()
        outer = self._open.get(ident)
        if outer is not None and (outer[1] is not None or not elapsed):
            yield
            return
        began = time.thread_time()
        with self._lock:
            if outer is not None:  # it counts CPU time alone: its part ends here, and begins anew after this block
                self._total = self._total + _since(*outer, began)
            self._open[ident] = (began, time.perf_counter() if elapsed else None)
        try:
            yield
        finally:
            with self._lock:
                ended = time.thread_time()
                self._total = self._total + _since(*self._open.pop(ident), ended)
                if outer is not None:
                    self._open[ident] = (ended, None)

    def read(self) -> Usage:
        """Return the sum so far, blocks still open included."""
        with self._lock:
            total = self._total
            for ident, (cpu, wall) in self._open.items():
                # The lock keeps the thread inside its block, so its clock exists.
                total = total + _since(cpu, wall, time.clock_gettime(time.pthread_getcpuclockid(ident)))
            return total


def resident_gb() -> float:
    """Return the memory that this process holds, GB, looked up at most ten times a second."""
    return _resident_gb(os.getpid(), int(time.monotonic() / MEMORY_S))


@lru_cache(maxsize=1)
def _resident_gb(pid: int, _moment: int) -> float:
    return float(_process(pid).memory_info().rss) / 1e9


@lru_cache(maxsize=1)
def _process(pid: int) -> psutil.Process:
    """Return the process with this id, which is looked up anew after a fork."""
    return psutil.Process(pid)


def _since(cpu: float, wall: float | None, now: float) -> Usage:
    elapsed = 0.0 if wall is None else time.perf_counter() - wall
    memory_gb = resident_gb() if elapsed else 0.0
    return Usage(cpu_s=now - cpu, wall_s=elapsed, rss_gb_s=memory_gb * elapsed)


OVERHEAD = Overhead()


def _renew_after_fork() -> None:
    """Forget the parent's threads, which do not exist in the child."""
    OVERHEAD.__init__()  # type: ignore[misc]


os.register_at_fork(after_in_child=_renew_after_fork)
