"""Progress lines: what the tasks log on any Dask worker reaches the console and the log file of their run."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

TOPIC = "ketcycle-progress"
CURVES = "ketcycle-curves"

Take = Callable[[logging.LogRecord], object]
_takers: list[tuple[Take, str]] = []  # of this process: who takes the workers' records, and of which run


class _Forward(logging.Handler):
    """Sends the records of a worker process to the clients of its cluster."""

    run_id = ""

    def emit(self, record: logging.LogRecord) -> None:
        import distributed

        said = {"message": record.getMessage(), "level": record.levelno, "name": record.name, "at": record.created}
        with contextlib.suppress(ValueError):  # not on a worker: the console handler of this process shows it
            distributed.get_worker().log_event(TOPIC, said | {"run": self.run_id})


class _Show(logging.Handler):
    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__()
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        self._show(record.getMessage())


def forward_from_worker(run_id: str = "") -> None:
    """Send the project's log records of this worker process to the process that follows its run."""
    logger = logging.getLogger("ketcycle")
    logger.setLevel(logging.INFO)
    forward = next((handler for handler in logger.handlers if isinstance(handler, _Forward)), None)
    if forward is None:
        forward = _Forward()
        logger.addHandler(forward)
    forward.run_id = run_id


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


def listen(show: Callable[[str], None]) -> None:
    """Show the progress lines of the current Dask cluster's workers, of any run."""
    _takers.append((lambda record: show(record.getMessage()), ""))
    _subscribe()


def _subscribe() -> None:
    import distributed

    def received(event: tuple[float, dict[str, Any]]) -> None:
        said = event[1]
        if said["level"] < logging.INFO:
            return
        made = {"name": said["name"], "levelno": said["level"], "levelname": logging.getLevelName(said["level"])}
        record = logging.makeLogRecord(made | {"msg": said["message"], "created": said["at"]})
        record.msecs = said["at"] % 1 * 1000
        for take, run_id in _takers:
            if run_id in ("", said["run"]):
                take(record)

    distributed.get_client().subscribe_topic(TOPIC, received)


def console(show: Callable[[str], None]) -> Callable[[str], None]:
    """Return a function that shows a line with the seconds since now, and use it for this process' log lines."""
    began = time.monotonic()

    def timed(message: str) -> None:
        show(f"{time.monotonic() - began:6.1f} s  {message}")

    logger = logging.getLogger("ketcycle")
    logger.setLevel(logging.INFO)
    for earlier in [each for each in logger.handlers if isinstance(each, _Show)]:
        logger.removeHandler(earlier)
    logger.addHandler(_Show(timed))
    return timed
