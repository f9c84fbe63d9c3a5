"""Independent parts of a stage's own work, beside each other on the Dask workers of the run, or one after another.

They pass files to each other, so they stay on workers that see the same home.

A part that was on a worker that died is done again on another one. What parts on other workers took is recorded there,
so that the sum over the rows stays the sum over the processes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import distributed
from threadpoolctl import threadpool_limits

from infra import settings
from infra.energy.meter import Meter
from tasks.records import record_work
from tasks.stage import Context

LEAST = 2  # parts for which other workers are asked


@dataclass(frozen=True)
class Spread:
    """Does parts of a stage's work.

    Attributes:
        context: of the stage.
        part: what the work is called in the books.
    """

    context: Context
    part: str

    def __call__(self, function: Callable[[Any], Path], items: Sequence[Any], /) -> list[Path]:
        """Return what a function makes of each item, in their order."""
        try:
            distributed.get_worker()
        except ValueError:
            return [function(item) for item in items]
        if len(items) < LEAST:
            return [function(item) for item in items]
        with distributed.worker_client() as client:
            workers, alone = client.scheduler_info(n_workers=-1)["workers"], bool(settings.load().lake_url)
            here = _place(workers[distributed.get_worker().address])
            near = [address for address, about in workers.items() if not alone or _place(about) == here]
            if len(near) < LEAST:
                return [function(item) for item in items]
            booked = _Booked(function, self.context, self.part, os.getpid())
            placed = {"workers": near, "allow_other_workers": not alone}
            return list(client.gather(client.map(booked, list(items), pure=False, priority=10, **placed)))


def _place(worker: Mapping[str, Any]) -> tuple[str, Path]:
    """Return the machine of a worker and the folder in which all workers of its home have theirs."""
    return worker["host"], Path(worker["local_directory"]).parent


@dataclass(frozen=True)
class _Booked:
    """Does one part and books it, unless the process that asked meters itself; picklable."""

    function: Callable[[Any], Path]
    context: Context
    part: str
    asked_by: int

    def __call__(self, item: Any) -> Path:
        with threadpool_limits(1):
            if os.getpid() == self.asked_by:
                return self.function(item)
            with Meter() as meter:
                found = self.function(item)
        name = hashlib.sha256(repr(item).encode()).hexdigest()[:12]
        record_work(self.context, f"{self.part} {name}", meter.usage, meter.source, 0.0)
        return found
