"""CPU time and memory of a set of processes with their descendants."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

SAMPLE_S = 10.0
GROWN = 1.02  # times the resident memory at the peak so far: less is not worth a reading in full


def machine() -> str:
    """Return an identifier of the process-id namespace: a kernel boot, or a container in it."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return socket.gethostname()


def children(process: psutil.Process) -> list[psutil.Process]:
    """Return the children of a process.

    Linux lists children by thread; elsewhere psutil scans all processes of the machine, which takes milliseconds.
    """
    tasks = Path(f"/proc/{process.pid}/task")
    if not (tasks / str(process.pid) / "children").exists():
        with suppress(psutil.Error):
            return process.children()
        return []
    if process.pid == os.getpid() and _childless():  # else a file for each thread is read
        return []
    found = []
    with suppress(OSError):  # the process, or one of its threads, is gone
        for task in tasks.iterdir():
            with suppress(OSError):
                found += (task / "children").read_text().split()
    alive = []
    for pid in found:
        with suppress(psutil.Error):
            alive.append(psutil.Process(int(pid)))
    return alive


def _childless() -> bool:
    """Whether this process has no children, neither running nor ended ones that were not waited for."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # it only looks
    except ChildProcessError:
        return True
    return False


def descendants(process: psutil.Process) -> list[psutil.Process]:
    """Return the children of a process, their children, and so on."""
    found = children(process)
    for child in found:  # the list grows while it is read
        found += children(child)
    return found


def whereabouts() -> tuple[str, int, float]:
    """Return machine, id and CPU seconds of this process with its descendants."""
    me = psutil.Process()
    return machine(), me.pid, sum(_cpu_s(process) for process in (me, *descendants(me)))


class ProcessTree:
    """CPU seconds and peak memory of this process and of further processes, each with its descendants.

    This process and its descendants are counted from their start; the others (such as workers of a shared cluster)
    from the creation of this object. An ended and reaped descendant is counted through the `children` times of its
    parent. Memory is the proportional set size: a page that several processes share is counted once in total. Every ten
    seconds and at the end it is read, which takes milliseconds, if the resident sizes add up to 2 % more than at the
    peak so far. A peak between two readings is missed, and one that only unshares pages.

    Args:
        others: further process ids; a descendant of this process may be among them.
        far: function that returns the CPU seconds, by name, of processes on other machines with their descendants;
            their memory is not measured.
    """

    def __init__(self, others: Iterable[int] = (), far: Callable[[], Mapping[str, float]] = dict) -> None:
        self._far, self._far_start = far, dict(far())
        me = psutil.Process()
        self._roots = [me, *(psutil.Process(pid) for pid in dict.fromkeys(others) if pid != me.pid)]
        own = {process.pid for process in (me, *descendants(me))}
        self._start = {process.pid: _cpu_s(process) for process in self._family() if process.pid not in own}
        self._stop = threading.Event()
        self.peak_mb = 0.0
        self._resident = 0  # bytes in all processes at that peak, shared pages counted again
        threading.Thread(target=self._watch, daemon=True).start()

    def cpu_s(self) -> float:
        """Return the CPU seconds used so far."""
        near = sum(_cpu_s(process) - self._start.get(process.pid, 0.0) for process in self._family())
        return near + self._far_cpu_s()

    def elsewhere_cpu_s(self) -> float:
        """Return the part of `cpu_s` that was not used by this process and its descendants."""
        own = {process.pid for process in (self._roots[0], *descendants(self._roots[0]))}
        others = (process for process in self._family() if process.pid not in own)
        return sum(_cpu_s(process) - self._start.get(process.pid, 0.0) for process in others) + self._far_cpu_s()

    def _far_cpu_s(self) -> float:
        return sum(now - self._far_start.get(name, 0.0) for name, now in self._far().items())

    def stop(self) -> None:
        """Read the memory a last time and stop."""
        self._stop.set()
        self._sample()

    def _family(self) -> list[psutil.Process]:
        found: dict[int, psutil.Process] = {}
        for root in self._roots:
            if root.is_running():
                found |= {process.pid: process for process in (root, *descendants(root))}
        return list(found.values())

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            self._sample()

    def _sample(self) -> None:
        family = self._family()
        resident = sum(_resident(process) for process in family)
        if resident > GROWN * self._resident and (now_mb := sum(_pss_mb(process) for process in family)) > self.peak_mb:
            self.peak_mb, self._resident = now_mb, resident


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _pss_mb(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().pss / 2**20)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0.0
