"""Meters blocks of work: CPU time, memory, elapsed time, and joules if the machine has counters.

Metered blocks do not nest: a process has one at a time, so that no second is counted twice. Joules come from RAPL and
NVML counters if they can be read; otherwise the CPU-time model of `infra.energy.model` estimates them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import psutil

from infra.energy.nvml import GpuCounter, open_devices
from infra.energy.processes import children, descendants
from infra.energy.rapl import Domain, RaplCounter, find_domains
from infra.energy.usage import Usage
from infra.errors import MeterBusy

Source = Literal["measured", "attributed", "modelled"]

SAMPLE_S = 0.5
FIRST_SAMPLE_S = 1.0
FOREIGN_LOAD = 0.1
WAIT_S = 0.05  # between two looks for the end of another task's block
MACHINE_LOCK = Path(tempfile.gettempdir()) / "ketcycle-meter.lock"

_busy = threading.Lock()
_holder: list[int] = []  # the thread whose block is open
os.register_at_fork(after_in_child=lambda: _renew_lock())


@dataclass(frozen=True)
class Counters:
    """The energy counters that a meter reads."""

    domains: tuple[Domain, ...] = ()
    gpus: tuple[Any, ...] = ()


@cache
def machine_counters() -> Counters:
    """Return the counters of this machine, probed once per process."""
    return Counters(find_domains()[0], open_devices()[0])


class Span:
    """CPU time, elapsed time and memory of a part of a metered block, or of work outside any; takes no lock.

    Counts this process and children that it waited for during the part.

    It reads no energy counters: `Usage.split` gives the part its share of the joules of the block.
    """

    def __init__(self) -> None:
        self.usage = Usage()
        self._start = (0.0, 0.0, 0.0)

    def __enter__(self) -> Self:
        self._start = (_rss_gb(()), time.perf_counter(), _own_cpu_s() + _reaped_cpu_s())
        return self

    def __exit__(self, *_: object) -> None:
        rss_gb, wall, cpu_s = self._start
        cpu_s, wall = _own_cpu_s() + _reaped_cpu_s() - cpu_s, time.perf_counter() - wall
        self.usage = Usage(cpu_s=cpu_s, wall_s=wall, rss_gb_s=0.5 * (rss_gb + _rss_gb(())) * wall)


class Family:
    """CPU time of declared processes and of those that this process starts, from `begin` on.

    An ended process is counted once its parent has waited for it, and before that while it is in the process table. A
    process that detaches itself (its parent ends first) is counted until then.

    Args:
        declared: running processes that are counted from `begin` on; they need not be children of this process.
    """

    def __init__(self, declared: Sequence[psutil.Process] = ()) -> None:
        self._declared = {process.pid: process for process in declared}
        self._start: dict[int, float] = {}
        self._others: set[int] = set()
        self._reaped_s = 0.0

    def begin(self) -> None:
        """Record the running processes and their CPU time so far."""
        running = children(psutil.Process())
        self._others = {c.pid for c in running if c.pid not in self._declared and _identity(c) not in _started}
        self._start = {c.pid: _cpu_s(c) for c in running} | {p: _cpu_s(c) for p, c in self._declared.items()}
        for child in running:
            if child.pid not in self._others:
                self._start |= {c.pid: _cpu_s(c) for c in descendants(child)}
        self._reaped_s = _reaped_cpu_s()

    def any_reaped(self) -> bool:
        """Return whether a child has ended and been waited for since `begin`."""
        return _reaped_cpu_s() > self._reaped_s

    def used_s(self, last_s: Mapping[int, float] | None = None) -> float:
        """Return the CPU seconds used since `begin`.

        Args:
            last_s: last known CPU seconds of declared processes, for those that ended and whose parent is another
                process.
        """
        reaped_s = _reaped_cpu_s() - self._reaped_s
        here = {child.pid: child for child in children(psutil.Process())}
        ours = {pid: c for pid, c in here.items() if pid not in self._others}
        _started.update(_identity(c) for pid, c in ours.items() if pid not in self._declared)
        running = {pid: process for pid, process in {**ours, **self._declared}.items() if process.is_running()}
        used = sum(_used_s(process, self._start) for process in running.values())
        gone = {pid: start for pid, start in self._start.items() if pid not in running and pid not in here}
        declared_s = sum((last_s or {}).get(pid, start) for pid, start in gone.items() if pid in self._declared)
        # The reaped time covers the whole life of an ended process; its time before `begin` is not counted.
        ended_s = max(declared_s, reaped_s - sum(s for p, s in gone.items() if p not in self._declared))
        return used + max(0.0, ended_s - sum(s for p, s in gone.items() if p in self._declared))


_started: set[tuple[int, float]] = set()  # children that metered blocks of this process have started


class Meter:
    """Meters the block of a `with` statement.

    Memory is the resident size integrated by the trapezoid rule over start, end and, in blocks longer than a second,
    a sample every half second. CPU time is that of all threads of this process and of the processes that it starts
    during the block, with all their descendants. Processes that already run (such as a server) are not counted,
    unless they are declared or were started during an earlier block of this process, as a pool of workers is.

    Args:
        children: process ids of running processes whose work belongs to the block.
        counters: the energy counters to read; this machine's by default.
        lock: file whose exclusive lock means that no other process meters on this machine.
        wait: in a task of a Dask worker, wait for the block of another task of this process to end. Such a task has
            given its place in the worker away while it waits for its parts.

    Attributes:
        usage: quantities that the block used, set at its end.
        peak_rss_mb: largest resident size of the process with its declared children among the samples, MiB, plus,
            where children ended in the block, that of the largest child that ended so far.
        source: `measured` if RAPL was read under the exclusive lock on an otherwise idle machine and no GPU was
            shared, `attributed` if the counters were shared, `modelled` if there is no CPU counter.

    Raises:
        MeterBusy: another metered block of this process is open, and it is not one to wait for.
    """

    def __init__(
        self,
        children: Sequence[int] = (),
        counters: Counters | None = None,
        lock: Path = MACHINE_LOCK,
        *,
        wait: bool = True,
    ) -> None:
        self.usage = Usage()
        self.peak_rss_mb = 0.0
        self.source: Source = "modelled"
        self._counters = counters if counters is not None else machine_counters()
        self._lock_path = lock
        self._children = [process for pid in children if (process := _find(pid)) is not None]
        self._family = Family(self._children)
        self._stack = contextlib.ExitStack()
        self._wait = wait

    def __enter__(self) -> Self:
        while not _busy.acquire(blocking=False):
            if threading.get_ident() in _holder or not (self._wait and _waited()):
                raise MeterBusy("a metered block is open in this process; metered blocks are leaves, one at a time")
        self._stack.callback(_busy.release)
        _holder.append(threading.get_ident())
        self._stack.callback(_holder.clear)
        try:
            self._exclusive = bool(self._counters.domains) and self._stack.enter_context(_machine_lock(self._lock_path))
            self._sampler = _Sampler(self._children, self._counters)
            self._stack.callback(self._sampler.stop)
            self._sampler.start()
            self._machine_s = _machine_cpu_s()
            self._family.begin()
            self._wall = self._sampler.begin()
            self._cpu_s = _own_cpu_s()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            cpu_s = _own_cpu_s() - self._cpu_s
            end = time.perf_counter()
            machine_s = _machine_cpu_s() - self._machine_s
            cpu_s += self._family.used_s(self._sampler.children_s)
            self._sampler.stop()
            self._sampler.sample(end)
            usage = Usage(cpu_s, end - self._wall, self._sampler.rss_gb_s)
            self.usage, self.source = self._joules(usage, machine_s)
            ended_mb = _largest_reaped_mb() if self._family.any_reaped() else 0.0
            self.peak_rss_mb = self._sampler.peak_rss_gb * 1e9 / 2**20 + ended_mb

    def _joules(self, usage: Usage, machine_s: float) -> tuple[Usage, Source]:
        rapl, gpu = self._sampler.rapl, self._sampler.gpu
        gpu_j = gpu.used_j() if gpu else 0.0
        alone = self._exclusive and not (gpu_j and gpu and gpu.shared)
        if rapl is None:
            return usage + Usage(gpu_j=gpu_j), "modelled"
        foreign_s = max(0.0, machine_s - usage.cpu_s)
        quiet = foreign_s <= FOREIGN_LOAD * usage.wall_s * (os.cpu_count() or 1)
        share = 1.0
        if not (self._exclusive and quiet):
            share = min(1.0, usage.cpu_s / machine_s) if machine_s > 0 else 1.0
        counted = Usage(
            package_j=share * rapl.package_j, dram_j=share * rapl.dram_j, gpu_j=gpu_j, counted_cpu_s=usage.cpu_s
        )
        return usage + counted, "measured" if alone and quiet else "attributed"


class _Sampler:
    """Samples memory, ended children and counter wraps; a block under a second is sampled only at start and end."""

    def __init__(self, children: Sequence[psutil.Process], counters: Counters) -> None:
        self.rapl: RaplCounter | None = None
        self.gpu: GpuCounter | None = None
        self.rss_gb_s = 0.0
        self.peak_rss_gb = 0.0
        self._counters = counters
        self.children_s: dict[int, float] = {}
        self._children = children
        self._done = threading.Event()
        self._mutex = threading.Lock()
        self._last = (time.perf_counter(), 0.0)
        self._thread = threading.Thread(target=self._follow, name="meter", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def begin(self) -> float:
        """Start counting and return the time."""
        rss_gb = _rss_gb(self._children)
        with self._mutex:
            if self._counters.domains:
                self.rapl = RaplCounter(self._counters.domains)
            if self._counters.gpus:
                self.gpu = GpuCounter(self._counters.gpus, [process.pid for process in self._children])
            self._last, self.peak_rss_gb = (time.perf_counter(), rss_gb), rss_gb
            return self._last[0]

    def stop(self) -> None:
        self._done.set()

    def sample(self, now: float | None = None) -> None:
        with self._mutex:
            now, rss_gb = now or time.perf_counter(), _rss_gb(self._children)
            then, before_gb = self._last
            self.rss_gb_s += 0.5 * (rss_gb + before_gb) * max(0.0, now - then)
            self._last, self.peak_rss_gb = (now, rss_gb), max(self.peak_rss_gb, rss_gb)
            for process in self._children:
                with contextlib.suppress(psutil.Error):
                    self.children_s[process.pid] = _cpu_s(process)
            if self.rapl is not None:
                self.rapl.update()

    def _follow(self) -> None:
        wait_s = FIRST_SAMPLE_S
        while not self._done.wait(wait_s):
            self.sample()
            wait_s = SAMPLE_S


def _waited() -> bool:
    """In a task of a Dask worker, wait until no block is open, the worker's place given away meanwhile; else False.

    The task that has the block open needs the place to end its work.
    """
    distributed: Any = sys.modules.get("distributed")
    try:
        if distributed is None or distributed.get_worker() is None:
            return False
        distributed.secede()
    except (ValueError, AttributeError):  # no worker, or no task of it
        return False
    while _busy.locked():
        time.sleep(WAIT_S)
    distributed.rejoin()
    return True


@contextlib.contextmanager
def _machine_lock(path: Path) -> Iterator[bool]:
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("a"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # another meter holds the lock, or the file belongs to another user
            yield False
        else:
            yield True


def _own_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _reaped_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _largest_reaped_mb() -> float:
    """Return the largest resident size of any ended and reaped child of this process, MiB."""
    scale = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * scale / 2**20


def _used_s(process: psutil.Process, start: Mapping[int, float]) -> float:
    """Return the CPU seconds of a running process and its descendants since the start value of each."""
    found = 0.0
    for one in (process, *descendants(process)):
        found += max(0.0, _cpu_s(one) - start.get(one.pid, 0.0))
    return found


def _identity(process: psutil.Process) -> tuple[int, float]:
    return process.pid, process.create_time()


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return times.user + times.system + getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)


def _machine_cpu_s() -> float:
    times = psutil.cpu_times()
    # Guest time is part of user time already; waiting for a disk is not work.
    return sum(getattr(times, n, 0.0) for n in ("user", "nice", "system", "irq", "softirq"))


def _rss_gb(children: Sequence[psutil.Process]) -> float:
    total = psutil.Process().memory_info().rss
    for process in children:
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return 1e-9 * total


def _find(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.Error:
        return None


def _renew_lock() -> None:
    global _busy
    _busy = threading.Lock()
    _holder.clear()
