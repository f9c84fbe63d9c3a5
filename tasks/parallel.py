"""Applies a function to many items on the Dask workers that have nothing to do, and here."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import distributed
from distributed.protocol.pickle import dumps, loads
from threadpoolctl import threadpool_limits

from infra.energy.meter import Meter, Source
from infra.energy.usage import Usage
from infra.errors import MeterBusy

T = TypeVar("T")
U = TypeVar("U")


def map_on_free_workers(function: Callable[[T], U], items: Sequence[T]) -> tuple[list[U], Usage]:
    """Return `[function(item) for item in items]` and what other workers used for it.

    Outside a Dask worker, with a single item, or while every other worker is busy, all of it happens here. A worker
    that is lost has its items done here. The results do not depend on where an item was done.
    """
    others = free_workers() if len(items) > 1 else []
    share = len(others) + 1
    sent: dict[int, Any] = {}
    client = distributed.get_client() if others else None
    if client is not None:
        there = _There(dumps(function), os.getpid())
        for index, item in enumerate(items):
            if index % share:
                place = {"workers": [others[index % share - 1]], "allow_other_workers": False}
                sent[index] = client.submit(there, dumps(item), pure=False, priority=10, retries=0, **place)
    results: dict[int, U] = {i: function(item) for i, item in enumerate(items) if i not in sent}
    used = Usage()
    for index, future in sent.items():
        try:
            results[index], spent = future.result()
            used = used + spent
        except (distributed.KilledWorker, distributed.client.FutureCancelledError):
            results[index] = function(items[index])
    return [results[index] for index in range(len(items))], used


def free_workers() -> list[str]:
    """Return the addresses of the other workers that have no task."""
    try:
        here = distributed.get_worker().address
    except ValueError:
        return []
    client = distributed.get_client()
    return sorted(address for address, tasks in client.processing().items() if not tasks and address != here)


def metered_part(function: Callable[[], U]) -> tuple[U, Usage, Source]:
    """Do a part of another task's work and return its result, what it used and the source of its joules.

    A part does not wait for the meter: the task that has it open may wait for a part of its own, on a worker whose task
    waits for this one. The part then counts the CPU time of its thread; the open block of that process counts it, too.
    """
    with contextlib.ExitStack() as stack:
        try:
            meter = stack.enter_context(Meter(wait=False))
        except MeterBusy:
            cpu_s, wall_s = time.thread_time(), time.perf_counter()
            found = function()
            return found, Usage(cpu_s=time.thread_time() - cpu_s, wall_s=time.perf_counter() - wall_s), "modelled"
        found = function()
    return found, meter.usage, meter.source


@dataclass(frozen=True)
class _There:
    """Computes one item and returns its usage, unless the calling process is metered itself; picklable.

    Function and items travel as bytes: the scheduler unpickles what it passes on, and would import their modules.
    """

    function: bytes
    asked_by: int

    def __call__(self, packed: bytes) -> tuple[Any, Usage]:
        function, item = loads(self.function), loads(packed)
        with threadpool_limits(1):
            if os.getpid() == self.asked_by:
                return function(item), Usage()
            found, used, _ = metered_part(partial(function, item))
        return found, used
