"""CPU time and memory of a set of processes with everything they start."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import psutil

SAMPLE_S = 0.5


class ProcessTree:
    """CPU seconds used and peak memory of processes and their descendants since this object was made.

    A descendant that ended and was waited for counts through its parent's `children` times.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        self._roots = [psutil.Process(pid) for pid in dict.fromkeys(pids)]
        self._start = {process.pid: _cpu_s(process) for process in self._family()}
        self._stop = threading.Event()
        self.peak_rss_mb = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def cpu_s(self) -> float:
        """Return the CPU seconds used so far."""
        return sum(_cpu_s(process) - self._start.get(process.pid, 0.0) for process in self._family())

    def stop(self) -> None:
        """Stop watching the memory."""
        self._stop.set()

    def _family(self) -> list[psutil.Process]:
        found: dict[int, psutil.Process] = {}
        for root in self._roots:
            try:
                found |= {process.pid: process for process in (root, *root.children(recursive=True))}
            except psutil.NoSuchProcess:
                continue
        return list(found.values())

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            self.peak_rss_mb = max(self.peak_rss_mb, sum(_rss_mb(process) for process in self._family()))


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


def _rss_mb(process: psutil.Process) -> float:
    try:
        return float(process.memory_info().rss / 2**20)
    except psutil.NoSuchProcess:
        return 0.0
