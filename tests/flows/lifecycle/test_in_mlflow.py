"""Training curves in MLflow: at once while a training lasts, at the end of a short one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import distributed
import pytest

from flows.lifecycle import in_mlflow
from flows.lifecycle.config import RunConfig
from flows.lifecycle.in_mlflow import curves_in_mlflow
from infra.progress import publish_curve
from infra.tracking import Tracking, open_tracking

pytestmark = pytest.mark.slow

ROWS = [{"step": 1.0, "loss": 3.0}, {"step": 2.0, "loss": 2.5}]


@pytest.fixture(scope="module")
def client() -> Iterator[distributed.Client]:
    with (
        distributed.LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=1,
            threads_per_worker=1,
            processes=False,
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
        ) as own,
        distributed.Client(own) as made,
    ):
        yield made


@pytest.fixture
def tracking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracking:
    monkeypatch.setenv("KETCYCLE_HOME", str(tmp_path))
    return open_tracking()


def losses(tracking: Tracking, run_id: str) -> list[tuple[int, float]]:
    found = tracking.find(run_id, "training")
    history = tracking._client.get_metric_history(found, "training/loss") if found else []
    return [(point.step, point.value) for point in history]


def test_the_curve_of_a_short_training_is_written_when_the_stages_have_ended(
    client: distributed.Client, tracking: Tracking
) -> None:
    began_s = time.time()
    with ThreadPoolExecutor(1) as background, curves_in_mlflow(RunConfig(run_id="short"), background):
        client.submit(publish_curve, "short", "training", ROWS, pure=False).result()
        client.submit(publish_curve, "another run", "training", ROWS, pure=False).result()
        time.sleep(0.3)
        assert losses(tracking, "short") == []
    assert losses(tracking, "short") == [(1, 3.0), (2, 2.5)]
    assert losses(tracking, "another run") == []
    parent = tracking.find("short")
    assert parent is not None
    assert abs(tracking._client.get_run(parent).info.start_time / 1000 - began_s) < 0.2, "not when it was written"


def test_the_curve_of_a_long_training_is_written_while_it_lasts(
    client: distributed.Client, tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_mlflow, "LIVE_AFTER_S", 0.1)
    with ThreadPoolExecutor(1) as background, curves_in_mlflow(RunConfig(run_id="long"), background):
        client.submit(publish_curve, "long", "training", ROWS[:1], pure=False).result()
        time.sleep(0.2)
        client.submit(publish_curve, "long", "training", ROWS[1:], pure=False).result()
        give_up = time.monotonic() + 20
        while len(losses(tracking, "long")) < 2 and time.monotonic() < give_up:
            time.sleep(0.05)
        assert losses(tracking, "long") == [(1, 3.0), (2, 2.5)]
    assert losses(tracking, "long") == [(1, 3.0), (2, 2.5)], "none twice"


def test_a_store_that_fails_stops_no_training(
    client: distributed.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "mlflow").write_text("a file where the folder should be")
    monkeypatch.setenv("KETCYCLE_HOME", str(tmp_path))
    with ThreadPoolExecutor(1) as background, curves_in_mlflow(RunConfig(run_id="none"), background):
        client.submit(publish_curve, "none", "training", ROWS, pure=False).result()
    assert "the curve of training is not in MLflow" in caplog.text
