"""Progress of a run: what tasks log on any Dask worker reaches the display and the log file of their run.

A log record may carry figures beside its text, given as `extra`, so that a display can draw them:

* `extra={"bar": (what, done, total)}`: how much of something long is done.
* `extra={"count": (what, done, total)}`: the same for what several processes do: the numbers are added up.
* `extra={"stage": (name, state)}`: a stage is `running`, `done`, `reused`, `failed` or `skipped`.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

TOPIC = "ketcycle-progress"
CURVES = "ketcycle-curves"
FIGURES = ("bar", "count", "stage")

Take = Callable[[logging.LogRecord], object]
_takers: list[tuple[Take, str]] = []  # of this process: who takes the workers' records, and of which run
_run: ContextVar[str] = ContextVar("run")  # of the task in this thread: a worker may have tasks of several runs


class _Forward(logging.Handler):
    """Sends the records of a worker process to the clients of its cluster."""

    # Of the task that began to forward last: the other threads of a task have none of their own.
    run_id = ""
    worker: Any = None

    def emit(self, record: logging.LogRecord) -> None:
        if self.worker is None:  # not on a worker: this process shows its records itself
            return
        said = {"message": record.getMessage(), "level": record.levelno, "name": record.name, "at": record.created}
        said |= {name: getattr(record, name) for name in FIGURES if hasattr(record, name)}
        self.worker.log_event(TOPIC, said | {"run": _run.get(self.run_id), "worker": str(self.worker.name)})


class _Shown(logging.Handler):
    def __init__(self, take: Take) -> None:
        super().__init__()
        self._take = take

    def emit(self, record: logging.LogRecord) -> None:
        self._take(record)


def forward_from_worker(run_id: str = "") -> None:
    """Send the project's log records of this worker process to the process that follows its run."""
    import distributed

    logger = logging.getLogger("ketcycle")
    logger.setLevel(logging.INFO)
    forward = next((handler for handler in logger.handlers if isinstance(handler, _Forward)), None)
    if forward is None:
        forward = _Forward()
        logger.addHandler(forward)
    forward.run_id = run_id
    _run.set(run_id)
    with contextlib.suppress(ValueError):  # not on a worker
        forward.worker = distributed.get_worker()


@contextlib.contextmanager
def followed(take: Take, run_id: str) -> Iterator[None]:
    """Hand the records that the workers of the current Dask cluster log for a run to a function."""
    _takers.append((take, run_id))
    _subscribe()
    try:
        yield
    finally:
        _takers.remove((take, run_id))


def publish_curve(run_id: str, stage: str, rows: Sequence[Mapping[str, float]]) -> None:
    """Send rows of a training curve to the process that follows the run; without a Dask worker they go nowhere."""
    import distributed

    with contextlib.suppress(ValueError):
        said = {"run": run_id, "stage": stage, "rows": [dict(row) for row in rows], "at": time.time()}
        distributed.get_worker().log_event(CURVES, said)


@contextlib.contextmanager
def curves(run_id: str, take: Callable[[Mapping[str, Any]], object]) -> Iterator[None]:
    """Hand the training curves that the workers of the current Dask cluster publish for a run to a function.

    Args:
        run_id: the run.
        take: is given `run`, `stage`, `rows` and `at`, seconds since the epoch.
    """
    import distributed

    def received(event: tuple[float, dict[str, Any]]) -> None:
        if event[1]["run"] == run_id:
            take(event[1])

    client = distributed.get_client()
    client.subscribe_topic(CURVES, received)
    try:
        yield
    finally:
        client.unsubscribe_topic(CURVES)


def listen(take: Take) -> None:
    """Hand the records of the current Dask cluster's workers, of any run, to a function."""
    _takers.append((take, ""))
    _subscribe()


def _subscribe() -> None:
    import distributed

    def received(event: tuple[float, dict[str, Any]]) -> None:
        said = event[1]
        if said["level"] < logging.INFO:
            return
        made = {"name": said["name"], "levelno": said["level"], "levelname": logging.getLevelName(said["level"])}
        made |= {name: said[name] for name in (*FIGURES, "worker") if name in said}
        record = logging.makeLogRecord(made | {"msg": said["message"], "created": said["at"]})
        record.msecs = said["at"] % 1 * 1000
        for take, run_id in _takers:
            if run_id in ("", said["run"]):
                take(record)

    distributed.get_client().subscribe_topic(TOPIC, received)


@contextlib.contextmanager
def own(take: Take) -> Iterator[None]:
    """Hand the project's records of this process to a function."""
    logger = logging.getLogger("ketcycle")
    before, handler = logger.level, _Shown(take)
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
