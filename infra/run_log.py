"""The log of a run in one file, `runs/RUN/log.txt`: every line has the time, the run, the level and the source."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra import progress
from infra.errors import BadInput

NAME = "log.txt"
POLL_S = 0.5


class _Utc(logging.Formatter):
    def converter(self, seconds: float | None = None) -> time.struct_time:
        return time.gmtime(seconds)


@contextmanager
def logged(folder: Path, run_id: str) -> Iterator[None]:
    """Append what this process and the Dask workers log for a run to its file; a resumed run continues the file."""
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(folder / NAME, encoding="utf-8")
    line = f"%(asctime)s.%(msecs)03dZ {run_id} %(levelname)s %(name)s: %(message)s"
    handler.setFormatter(_Utc(line, "%Y-%m-%dT%H:%M:%S"))
    logger = logging.getLogger("ketcycle")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        with progress.followed(handler.handle, run_id):
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()


def lines(home: Path, run_id: str, *, follow: bool = False) -> Iterator[str]:
    """Yield the lines of the log of a run.

    Args:
        home: the state folder.
        run_id: the run.
        follow: whether to wait for further lines, until interrupted.

    Raises:
        BadInput: the run has no log.
    """
    path = home / "runs" / run_id / NAME
    if not path.exists():
        known = ", ".join(sorted(found.parent.name for found in (home / "runs").glob(f"*/{NAME}"))) or "none"
        raise BadInput(f"no log of a run {run_id} in {home / 'runs'}; runs with a log: {known}")
    with path.open(encoding="utf-8", errors="replace") as stream:
        while True:
            yield from (line.rstrip("\n") for line in stream)
            if not follow:
                return
            time.sleep(POLL_S)
