"""Training curves in MLflow while a run trains."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any

from flows.lifecycle.config import RunConfig
from infra.progress import curves
from infra.tracking import Tracking

log = logging.getLogger("ketcycle.lifecycle")


@contextmanager
def curves_in_mlflow(config: RunConfig, tracking: Future[Tracking], background: Executor) -> Iterator[None]:
    """Log the curves that the stages of a run publish to their MLflow runs, in the background.

    Args:
        config: the run.
        tracking: the MLflow store, perhaps still being opened.
        background: runs one function after another, so that this process' thread of events never waits for MLflow.
    """
    began_s, known = time.time(), dict[str, str]()

    def put(said: Mapping[str, Any]) -> None:
        stage, client = said["stage"], tracking.result()
        try:
            if stage not in known:
                parent = client.open(config.run_id, "lifecycle", began_s, {}, {})
                known[stage] = client.open(config.run_id, stage, said["at"], {}, {}, parent)
            client.curve(known[stage], said["rows"], said["at"])
        except Exception as error:  # noqa: BLE001  (a tracking server that fails must not stop a training)
            log.warning("the curve of %s is not in MLflow: %s", stage, error)

    with curves(config.run_id, lambda said: background.submit(put, said)):
        yield
