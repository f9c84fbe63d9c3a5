"""What an upstream server uses, shared among the requests that run on it.

The server is read from outside: CPU time and memory of its process tree, joules of the machine's counters, or a page
of Prometheus metrics. CPU time between two readings is shared by the requests open meanwhile, in proportion to the time
each was open; memory and joules likewise, but only their part of the seconds in which a request was open, for a server
that waits draws power too.
"""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol
from urllib.parse import urlsplit

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from infra.energy.meter import machine_counters
from infra.energy.nvml import GpuCounter
from infra.energy.rapl import RaplCounter
from infra.energy.usage import Usage

log = logging.getLogger("ketcycle.serving")

EVERY_S = 1.0  # between two readings at least
POINTS = 4096  # readings that are remembered

# Counters of known exporters: name without `_total`, factor to joules.
JOULES = {
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": 1e-3,
    "nvidia_gpu_energy_joules": 1.0,
    "kepler_container_joules": 1.0,
    "kepler_process_cpu_joules": 1.0,
    "hw_energy_joules": 1.0,
}


class Source(Protocol):
    """Reads what a server has used so far."""

    name: str

    def read(self) -> Usage:
        """Return the quantities since some moment; each reading is at least the one before.

        Raises:
            OSError: the server cannot be read now.
        """


class Tree:
    """CPU time and memory of the process that listens on a local port and of its children, and joules of counters."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._process: psutil.Process | None = None
        self._used = Usage()
        self._cpu_s: dict[int, float] = {}
        self._last: float | None = None
        counters = machine_counters()
        self._rapl = RaplCounter(counters.domains) if counters.domains else None
        self._gpus = counters.gpus
        self._gpu: GpuCounter | None = None
        self._machine_s = _machine_s()
        self._counted = (0.0, 0.0, 0.0)
        names = ["CPU time of its processes, modelled"]
        names += ["RAPL by CPU share, attributed"] if self._rapl else []
        names += ["NVML, measured"] if self._gpus else []
        self.name = "; ".join(names)

    def read(self) -> Usage:
        """Return CPU seconds, GB s and joules since the first reading."""
        if self._process is None or not self._process.is_running():
            self._process = _listening(self._port)
        if self._process is None:
            raise OSError(f"no process of this machine that we may read listens on port {self._port}")
        now, cpu_s, rss = time.monotonic(), 0.0, 0
        seen: dict[int, float] = {}
        for process in _tree(self._process):
            try:
                times = process.cpu_times()
                rss += process.memory_info().rss
            except psutil.Error:
                continue
            seen[process.pid] = times.user + times.system
            if self._cpu_s:
                cpu_s += max(0.0, seen[process.pid] - self._cpu_s.get(process.pid, 0.0))
        self._cpu_s = seen
        wall = now - self._last if self._last is not None else 0.0
        self._last = now
        self._used += Usage(cpu_s=cpu_s, wall_s=wall, rss_gb_s=1e-9 * rss * wall) + self._joules(cpu_s, list(seen))
        return self._used

    def _joules(self, cpu_s: float, pids: Sequence[int]) -> Usage:
        machine_s, package_j, dram_j, gpu_j = _machine_s(), 0.0, 0.0, 0.0
        if self._rapl:
            self._rapl.update()
            package_j, dram_j = self._rapl.package_j, self._rapl.dram_j
        if self._gpus:
            self._gpu = self._gpu or GpuCounter(self._gpus, pids)
            gpu_j = self._gpu.used_j()
        before, self._counted = self._counted, (package_j, dram_j, gpu_j)
        spent = machine_s - self._machine_s
        share = min(1.0, cpu_s / spent) if spent > 0 else 0.0
        self._machine_s = machine_s
        return Usage(
            package_j=share * (package_j - before[0]),
            dram_j=share * (dram_j - before[1]),
            gpu_j=max(0.0, gpu_j - before[2]),
            counted_cpu_s=cpu_s if self._rapl else 0.0,
        )


class Page:
    """Counters of a page of Prometheus metrics: CPU seconds, joules of known exporters."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.name = f"counters of {urlsplit(url).hostname}, reported"
        self._last: tuple[float, dict[str, float]] | None = None
        self._used = Usage()

    def read(self) -> Usage:
        """Return CPU seconds, GB s and joules since the first reading."""
        try:
            text = httpx.get(self._url, timeout=5.0, trust_env=False).raise_for_status().text
        except httpx.HTTPError as error:
            raise OSError(f"{self._url} cannot be read: {error}") from None
        now, found = time.monotonic(), {"cpu_s": 0.0, "rss": 0.0, "joules": 0.0}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                name = sample.name.removesuffix("_total")
                if name == "process_cpu_seconds":
                    found["cpu_s"] += sample.value
                elif name == "process_resident_memory_bytes":
                    found["rss"] += sample.value
                elif name in JOULES:
                    found["joules"] += JOULES[name] * sample.value
        if self._last is not None:
            then, before = self._last
            grew = {name: max(0.0, found[name] - before[name]) for name in ("cpu_s", "joules")}
            gb_s = 1e-9 * found["rss"] * (now - then)
            self._used += Usage(cpu_s=grew["cpu_s"], rss_gb_s=gb_s, gpu_j=grew["joules"])
        self._last = now, found
        return self._used


@dataclass(frozen=True)
class _Point:
    """A reading: when, and what one request open since the first reading would have got so far."""

    at: float
    each: Usage


class Shares:
    """Shares what a server uses among requests; `opened` and `closed` are called at their begin and end.

    Attributes:
        name: of the source.
    """

    def __init__(self, source: Source, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = source.name
        self._source, self._clock = source, clock
        self._lock = threading.Lock()
        self._open, self._since = 0, clock()
        self._open_s = self._busy_s = 0.0  # since the last reading: of all requests together, of any
        self._read: Usage | None = None
        self._points: list[_Point] = []
        self._failed = False

    def opened(self) -> None:
        """Count a request."""
        self._change(1)

    def closed(self) -> None:
        """Count it no more."""
        self._change(-1)

    def between(self, begin: float, end: float) -> Usage | None:
        """Return the share of a request that was open from `begin` to `end`; None where the server cannot be read.

        Takes a reading where none was made since `end`. Called by one thread.
        """
        if not self._points or self._points[-1].at < end:
            self.read()
        if not self._points or self._points[-1].at < end or self._points[0].at > begin:
            return None
        return self._at(end) - self._at(begin)

    def read(self) -> None:
        """Take a reading, unless the last one is fresh."""
        if self._points and self._clock() - self._points[-1].at < EVERY_S:
            time.sleep(max(0.0, EVERY_S - (self._clock() - self._points[-1].at)))
        try:
            used = self._source.read()
        except OSError as error:
            if not self._failed:
                log.warning("energy of the upstream: %s; rows of the request log have none", error)
            self._failed = True
            return
        self._failed = False
        now = self._clock()
        open_s, busy_s = self._opened_s()
        last = self._points[-1].each if self._points else Usage()
        if self._read is not None and open_s > 0:
            grew, wall_s = used - self._read, now - self._points[-1].at
            part = replace(grew.scaled(min(1.0, busy_s / wall_s)), cpu_s=grew.cpu_s, counted_cpu_s=grew.counted_cpu_s)
            last += part.scaled(wall_s / open_s)
        self._read = used
        self._points.append(_Point(now, last))
        del self._points[:-POINTS]

    def _change(self, by: int) -> None:
        with self._lock:
            now = self._clock()
            self._open_s += self._open * (now - self._since)
            self._busy_s += (self._open > 0) * (now - self._since)
            self._open, self._since = self._open + by, now

    def _opened_s(self) -> tuple[float, float]:
        """Return the seconds since the last call that requests were open, added up, and that any was open."""
        self._change(0)
        with self._lock:
            found = self._open_s, self._busy_s
            self._open_s = self._busy_s = 0.0
        return found

    def _at(self, moment: float) -> Usage:
        after = min(max(1, bisect_right(self._points, moment, key=lambda p: p.at)), len(self._points) - 1)
        if after < 1:
            return self._points[0].each
        one, two = self._points[after - 1], self._points[after]
        share = min(1.0, max(0.0, (moment - one.at) / (two.at - one.at)))
        return one.each + (two.each - one.each).scaled(share)


def source_of(url: str, page: str = "") -> Source | None:
    """Return how the server behind an address can be read, None where it is another machine's without a page."""
    if page:
        return Page(page)
    parts = urlsplit(url)
    if parts.hostname in ("127.0.0.1", "localhost", "::1"):
        return Tree(parts.port or 80)
    return None


def _listening(port: int) -> psutil.Process | None:
    """Return the process that listens on a port of this machine, None where there is none that we may read."""
    try:
        listening = (c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.pid)
        found = (c.pid for c in listening if c.laddr and c.laddr.port == port)
        return psutil.Process(next(found))
    except (psutil.Error, StopIteration):
        return None


def _tree(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return [process]


def _machine_s() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.system)
