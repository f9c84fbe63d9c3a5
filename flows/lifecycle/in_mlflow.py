"""A run in MLflow: a parent run, a child run for each stage, the curve while it trains.

MLflow takes longer to import than a short run takes to train. So it is called on a worker that has imported it, as the
one has that saved the model; this process imports it for a training that lasts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from flows.lifecycle.config import RunConfig
from infra import completion, runs, settings
from infra.progress import curves
from infra.settings import Settings
from infra.tracking import Tracking, open_tracking, where_open
from tasks.options import flat

log = logging.getLogger("ketcycle.lifecycle")

LIVE_AFTER_S = 60.0  # of a training; the curve of a shorter one is written when the stages have ended


@contextmanager
def curves_in_mlflow(config: RunConfig, background: Executor) -> Iterator[None]:
    """Log the curves that the stages of a run publish to their MLflow runs.

    Args:
        config: the run.
        background: runs one function after another, so that this process' thread of events never waits for MLflow.
    """
    writer = _Writer(config.run_id)
    waiting: list[Mapping[str, Any]] = []
    first_at: dict[str, float] = {}

    def take(said: Mapping[str, Any]) -> None:
        waiting.append(said)
        if said["at"] - first_at.setdefault(said["stage"], said["at"]) > LIVE_AFTER_S:
            writer.write(waiting)
            waiting.clear()

    with curves(config.run_id, lambda said: background.submit(take, said)):
        yield
    background.submit(lambda: None).result()  # what was published has been taken
    if waiting:
        where_open(writer.write, waiting)


class _Writer:
    """Writes rows of training curves."""

    def __init__(self, run_id: str) -> None:
        self._run_id, self._began_s = run_id, time.time()
        self._client: Tracking | None = None
        self._known: dict[str, str] = {}  # stage to MLflow run

    def write(self, published: Sequence[Mapping[str, Any]]) -> None:
        """Write what stages have published."""
        try:
            self._client = client = self._client or open_tracking()
            for said in published:
                stage = said["stage"]
                if stage not in self._known:
                    parent = client.open(self._run_id, "lifecycle", self._began_s, {}, {})
                    self._known[stage] = client.open(self._run_id, stage, said["at"], {}, {}, parent)
                client.curve(self._known[stage], said["rows"], said["at"])
        except Exception as error:  # noqa: BLE001  (a tracking server that fails must not stop a training)
            log.warning("the curve of %s is not in MLflow: %s", published[0]["stage"], error)


@dataclass(frozen=True)
class Figures:
    """What MLflow shows of a run, or of one of its stages.

    Attributes:
        began_s: when it began, seconds since the epoch.
        ended_s: when it ended.
        failed: whether it failed.
        metrics: figures by their fixed names.
    """

    began_s: float
    ended_s: float
    failed: bool
    metrics: Mapping[str, float | None]


def write_figures(run_id: str, whole: Figures, stages: Mapping[str, Figures]) -> None:
    """Write a finished run to MLflow: a parent run with its report, and a child run for each stage that began."""
    loaded = settings.load()
    config = RunConfig(**runs.read(loaded.home, run_id)[1]["config"])
    tracking = open_tracking()
    tags = {"ketcycle_profile": config.profile, "ketcycle_method": config.method, "ketcycle_backend": config.backend}
    params = config.model_dump(mode="json", exclude={"run_id"})
    options = {stage: _options(loaded, run_id, stage) for stage in stages}
    params |= {f"{stage}.{name}": value for stage, found in options.items() for name, value in found.items()}
    parent = tracking.open(run_id, "lifecycle", whole.began_s, params, tags)
    tracking.log(parent, whole.metrics)
    for path in runs.report_files(loaded.home, run_id):
        tracking.artifact(parent, path)
    for stage, figures in stages.items():
        params = {"seed": config.seed, "method": config.method, "backend": config.backend, **options[stage]}
        child = tracking.open(run_id, stage, figures.began_s, params, tags, parent)
        tracking.log(child, figures.metrics)
        tracking.finish(child, figures.ended_s, failed=figures.failed)
    tracking.finish(parent, whole.ended_s, failed=whole.failed)


def _options(loaded: Settings, run_id: str, stage: str) -> dict[str, Any]:
    found = completion.find(loaded.home, run_id, stage)
    return flat(found.parts["options"]) if found else {}
