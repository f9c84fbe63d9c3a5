"""Applies a function to many items on the Dask workers that have nothing to do, and here."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import distributed
from threadpoolctl import threadpool_limits

from infra.energy.meter import Meter
from infra.energy.usage import Usage

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
        there = _There(function, os.getpid())
        for index, item in enumerate(items):
            if index % share:
                place = {"workers": [others[index % share - 1]], "allow_other_workers": False}
                sent[index] = client.submit(there, item, pure=False, priority=10, retries=0, **place)
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


@dataclass(frozen=True)
class _There(Generic[T, U]):
    """Does one item and says what that used, unless the process that asked meters itself; picklable."""

    function: Callable[[T], U]
    asked_by: int

    def __call__(self, item: T) -> tuple[U, Usage]:
        with threadpool_limits(1):
            if os.getpid() == self.asked_by:
                return self.function(item), Usage()
            with Meter() as meter:
                found = self.function(item)
        return found, meter.usage
