"""Frees the workers of a shared Dask cluster from tasks without a waiting client.

Dask cancels only what has not begun. A task whose run was cancelled or killed would keep its worker, and the next run
would wait for it.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING

from distributed.diagnostics.plugin import WorkerPlugin
from tornado.ioloop import PeriodicCallback

from infra.processes.stopping import interrupt

if TYPE_CHECKING:
    from dask.typing import Key
    from distributed import Worker

log = logging.getLogger("ketcycle.abandoned")

INTERRUPTED_S, ENDED_S = 3.0, 15.0


class Abandoned(WorkerPlugin):
    """Ends tasks that a worker still executes although they are cancelled or their client is gone.

    Their thread is interrupted. One that does not end, because it is in a library's call, ends with its worker
    process, which the nanny starts again; a worker without a nanny goes on until the call returns.

    Args:
        interrupted_s: seconds from when a task was abandoned until its thread is interrupted.
        ended_s: seconds until its worker process ends.
    """

    name = "ketcycle-abandoned"

    def __init__(self, interrupted_s: float = INTERRUPTED_S, ended_s: float = ENDED_S) -> None:
        self._interrupted_s, self._ended_s = interrupted_s, ended_s
        self._since: dict[Key, float] = {}  # keys of abandoned tasks, and when they were first seen
        self._interrupted: set[Key] = set()

    def setup(self, worker: Worker) -> None:
        """Start checking every second, in the event loop of the worker."""
        looking = PeriodicCallback(lambda: self._look(worker), 1000)
        worker.periodic_callbacks[self.name] = looking
        looking.start()

    def teardown(self, worker: Worker) -> None:
        """Stop checking."""
        worker.periodic_callbacks.pop(self.name).stop()

    def _look(self, worker: Worker) -> None:
        now = time.monotonic()
        running = {key: thread for thread, key in worker.active_threads.items()}
        abandoned = {task.key for task in worker.state.executing if task.state == "cancelled"} & running.keys()
        self._since = {key: self._since.get(key, now) for key in abandoned}
        self._interrupted &= abandoned
        for key, since in self._since.items():
            if now - since > self._interrupted_s and key not in self._interrupted:
                self._interrupted.add(key)
                interrupt(running[key])
            if now - since > self._ended_s and worker.nanny:
                log.warning("task %s was abandoned and does not end; its worker process is started again", key)
                os._exit(1)
