"""Independent parts of a stage's own work, in parallel on the Dask workers of the run, or one after another.

The parts exchange files, so they run only on workers that share a home folder, unless the function can carry its parts
through the lake (`Portable`): then they run on all workers.

A part whose worker died is repeated on another worker. A worker in another process records what its parts used, so
that the evidence rows of a run add up to the use of all its processes.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import distributed
from distributed.protocol.pickle import dumps, loads
from threadpoolctl import threadpool_limits

from infra import settings
from infra.processes.stopping import at_work
from infra.progress import forward_from_worker
from tasks.parallel import metered_part
from tasks.records import record_work
from tasks.stage import Context

log = logging.getLogger("ketcycle.steps")

LEAST = 2  # parts or workers below which everything runs in this process


@runtime_checkable
class Portable(Protocol):
    """Work that can also be done on a machine with another home; picklable."""

    def __call__(self, item: Any, /) -> Path:
        """Do a part where the caller's folders are."""
        ...

    def send(self, items: Sequence[Any], everywhere: Callable[[Callable[[], bool]], bool], /) -> None:
        """Put what the parts need into the lake; `everywhere` calls a function on all machines with another home."""
        ...

    def there(self, item: Any, /) -> str:
        """Do a part on another machine, put the result into the lake and return its name."""
        ...

    def fetch(self, name: str, /) -> Path:
        """Return the result of another machine."""
        ...


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
            far = [address for address in workers if address not in near]
            if far and isinstance(function, Portable):
                return self._anywhere(client, function, items, near, far)
            if len(near) < LEAST:
                return self._here(function, items)
            recorded = _Recorded(dumps(function), self.context, self.part, os.getpid())
            placed = {"workers": near, "allow_other_workers": not alone}
            self._tell(0, len(items))
            futures = client.map(recorded, [dumps(item) for item in items], pure=False, priority=10, **placed)
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

    def _anywhere(
        self, client: distributed.Client, function: Portable, items: Sequence[Any], near: list[str], far: list[str]
    ) -> list[Path]:
        function.send(
            items, lambda ask: all(client.run(ask, workers=far, on_error="return")[one] is True for one in far)
        )
        recorded = _Recorded(dumps(_Anywhere(function, frozenset(near))), self.context, self.part, os.getpid())
        found = client.gather(client.map(recorded, [dumps(item) for item in items], pure=False, priority=10))
        return [Path(name) if is_here else function.fetch(name) for is_here, name in found]


@dataclass(frozen=True)
class _Anywhere:
    """Does a part on the worker where it is; picklable.

    Attributes:
        function: the work.
        near: addresses of the workers that share the caller's home.
    """

    function: Portable
    near: frozenset[str]

    def __call__(self, item: Any) -> tuple[bool, str]:
        if distributed.get_worker().address in self.near:
            return True, str(self.function(item))
        return False, self.function.there(item)


def _place(worker: Mapping[str, Any]) -> tuple[str, Path]:
    """Return the host of a worker and the folder that holds the local folders of all workers of its home."""
    return worker["host"], Path(worker["local_directory"]).parent


@dataclass(frozen=True)
class _Recorded:
    """Runs one part and records what it used, except in the calling process, which is metered already; picklable.

    Function and items travel as bytes: the scheduler unpickles what it passes on, and would import their modules.
    """

    function: bytes
    context: Context
    part: str
    asked_by: int

    def __call__(self, packed: bytes) -> Any:
        forward_from_worker(self.context.run_id)
        function, item = loads(self.function), loads(packed)
        with threadpool_limits(1), at_work(self.context.run_id):
            if os.getpid() == self.asked_by:
                return function(item)
            found, used, source = metered_part(partial(function, item))
        name = hashlib.sha256(repr(item).encode()).hexdigest()[:12]
        record_work(self.context, f"{self.part} {name}", used, source, 0.0)
        return found
