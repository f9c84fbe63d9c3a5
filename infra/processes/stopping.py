"""Stops the work of a run on Dask workers: Dask cancels only what has not begun, so running threads are interrupted.

Work declares itself with `at_work`; `stop_everywhere` raises `WorkStopped` in all threads that work for a run, and in
those that begin to do so within the next seconds.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

REFUSED_S = 5.0  # after a stop; tasks of the run that were waiting for a worker begin meanwhile
_working: dict[int, list[str]] = {}  # the runs that each thread of this process works for, the innermost last
_stopped: dict[str, float] = {}  # runs, and when they were stopped
_lock = threading.Lock()


class WorkStopped(BaseException):
    """The run of this work was stopped."""


@contextmanager
def at_work(run_id: str) -> Iterator[None]:
    """Declare that this thread works for a run.

    Raises:
        WorkStopped: the run was stopped, now or just before.
    """
    thread = threading.get_ident()
    with _lock:
        if time.monotonic() - _stopped.get(run_id, -REFUSED_S) < REFUSED_S:
            raise WorkStopped(run_id)
        _working.setdefault(thread, []).append(run_id)
    try:
        yield
    finally:
        with _lock:
            _working[thread].pop()
            if not _working[thread]:
                del _working[thread]


def stop_here(run_id: str) -> int:
    """Interrupt the threads of this process that work for a run; return their number."""
    with _lock:
        _stopped[run_id] = time.monotonic()
        threads = [thread for thread, runs in _working.items() if run_id in runs]
        for thread in threads:
            interrupt(thread)
    return len(threads)


def interrupt(thread: int) -> None:
    """Raise `WorkStopped` in a thread of this process as soon as it is in Python code."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(WorkStopped))


def stop_everywhere(run_id: str) -> int:
    """Interrupt the work for a run on all workers of the current Dask cluster; return the number of threads."""
    import distributed

    try:
        client = distributed.get_client()
    except ValueError:  # no cluster
        return 0
    found = client.run(stop_here, run_id, on_error="ignore")
    return sum(count for count in found.values() if isinstance(count, int))
