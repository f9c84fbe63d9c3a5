"""Independent parts of a stage's own work, in parallel on the Dask workers of the run, or one after another.

The parts exchange files, so they run only on workers that share a home folder.

A part whose worker died is repeated on another worker. A worker in another process records what its parts used, so
that the evidence rows of a run add up to the use of all its processes.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import distributed
from threadpoolctl import threadpool_limits

from infra import settings
from infra.energy.meter import Meter
from infra.progress import forward_from_worker
from tasks.records import record_work
from tasks.stage import Context

log = logging.getLogger("ketcycle.steps")

LEAST = 2  # parts or workers below which everything runs in this process


@dataclass(frozen=True)
class Spread:
    """Runs independent parts of a stage's work, on the cluster if there is one.

    Attributes:
        context: of the stage.
        part: name of the work in the evidence.
    """

    context: Context
    part: str

    def __call__(self, function: Callable[[Any], Path], items: Sequence[Any], /) -> list[Path]:
        """Return `[function(item) for item in items]`."""
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
                return self._here(function, items)
            recorded = _Recorded(function, self.context, self.part, os.getpid())
            placed = {"workers": near, "allow_other_workers": not alone}
            self._tell(0, len(items))
            futures = client.map(recorded, list(items), pure=False, priority=10, **placed)
            for future in distributed.as_completed(futures):
                if future.status != "finished":
                    break  # its error is raised at once
                self._tell(1, 0)
            return list(client.gather(futures))

    def _here(self, function: Callable[[Any], Path], items: Sequence[Any]) -> list[Path]:
        self._tell(0, len(items))
        found = []
        for item in items:
            found.append(function(item))
            self._tell(1, 0)
        return found

    def _tell(self, done: int, more: int) -> None:
        what = f"{self.context.stage}: {self.part}"
        log.info("%s: %s", what, f"{more} parts" if more else "a part is done", extra={"count": (what, done, more)})


def _place(worker: Mapping[str, Any]) -> tuple[str, Path]:
    """Return the host of a worker and the folder that holds the local folders of all workers of its home."""
    return worker["host"], Path(worker["local_directory"]).parent


@dataclass(frozen=True)
class _Recorded:
    """Runs one part and records what it used, except in the calling process, which is metered already; picklable."""

    function: Callable[[Any], Path]
    context: Context
    part: str
    asked_by: int

    def __call__(self, item: Any) -> Path:
        forward_from_worker(self.context.run_id)
        with threadpool_limits(1):
            if os.getpid() == self.asked_by:
                return self.function(item)
            with Meter() as meter:
                found = self.function(item)
        name = hashlib.sha256(repr(item).encode()).hexdigest()[:12]
        record_work(self.context, f"{self.part} {name}", meter.usage, meter.source, 0.0)
        return found
