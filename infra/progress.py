"""Progress lines: what the stages log on any worker reaches the console of the run."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

TOPIC = "ketcycle-progress"


class _Forward(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        import distributed

        with contextlib.suppress(ValueError):  # not on a worker: the console handler of this process shows it
            distributed.get_worker().log_event(TOPIC, {"message": record.getMessage(), "level": record.levelno})


class _Show(logging.Handler):
    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__()
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        self._show(record.getMessage())


def forward_from_worker() -> None:
    """Let the project's log lines of this worker process travel to whoever listens."""
    logger = logging.getLogger("ketcycle")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _Forward) for handler in logger.handlers):
        logger.addHandler(_Forward())


def listen(show: Callable[[str], None]) -> None:
    """Show the progress lines of the current Dask cluster's workers."""
    import distributed

    def received(event: tuple[float, dict[str, Any]]) -> None:
        if event[1]["level"] >= logging.INFO:
            show(event[1]["message"])

    distributed.get_client().subscribe_topic(TOPIC, received)


def console(show: Callable[[str], None]) -> Callable[[str], None]:
    """Return a function that shows a line with the seconds since now, and let this process' log lines use it."""
    began = time.monotonic()

    def timed(message: str) -> None:
        show(f"{time.monotonic() - began:6.1f} s  {message}")

    logger = logging.getLogger("ketcycle")
    logger.setLevel(logging.INFO)
    for earlier in [each for each in logger.handlers if isinstance(each, _Show)]:
        logger.removeHandler(earlier)
    logger.addHandler(_Show(timed))
    return timed
