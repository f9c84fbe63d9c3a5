from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import distributed
import pytest

from tasks.model.training.checkpoint import Place
from tasks.model.training.peers import LostPeer
from tasks.stage import Context, State
from tasks.training import stage
from tasks.training.together import _bytes_of

OPTIONS: dict[str, Any] = {"samples": 0, "parts": 2, "evaluate_every": 0, "checkpoint_every": 5}


def trained(context: Context, run_id: str, **options: Any) -> State:
    given = replace(context, run_id=run_id, options={**context.options, **OPTIONS, **options})
    return stage.train_model(given, State())


@pytest.fixture(scope="module")
def client() -> Iterator[distributed.Client]:
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as made,  # type: ignore[no-untyped-call]
        distributed.Client(made) as client,  # type: ignore[no-untyped-call]
    ):
        yield client


def workers_of(client: Any) -> list[str]:
    return sorted(client.scheduler_info(n_workers=-1)["workers"])


@pytest.mark.faults
def test_two_workers_train_the_model_that_one_trains(context: Context, client: Any) -> None:
    first = workers_of(client)[0]
    place = {"workers": [first], "allow_other_workers": False, "pure": False}
    both = client.submit(_two, context, "both", **place).result(timeout=280)
    alone = trained(context, "alone")
    assert both.facts["shared"]["workers"] == 2
    assert len(both.facts["shared"]["bytes_sent"]) == 2
    assert both.refs["training/model"] == alone.refs["training/model"], "the same bits"


def _two(context: Context, run_id: str) -> State:
    return trained(context, run_id, workers=2)


def _long(context: Context, run_id: str) -> State:
    return trained(context, run_id, workers=2, tokens=300 * 8 * 16)


@pytest.mark.faults
def test_a_lost_worker_does_not_end_the_training(context: Context, client: Any) -> None:
    first, second = workers_of(client)
    place = {"workers": [first], "allow_other_workers": False, "pure": False}
    [victim] = client.run(os.getpid, workers=[second]).values()
    future = client.submit(_long, context, "lost", **place)
    lake, where = context.lake, Place.of(replace(context, run_id="lost"))
    while not any(lake.versions(name) for name in lake.names(where.name)):
        assert not future.done(), future
        time.sleep(0.05)
    os.kill(victim, signal.SIGKILL)
    state = future.result(timeout=240)
    assert state.facts["shared"]["attempts"] > 1
    assert state.facts["resumed_at"] >= 5
    assert state.facts["tokens"] == 300 * 8 * 16


def test_a_worker_that_is_lost_after_the_last_exchange_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Future:
        cancelled = False

        def __init__(self, outcome: int | Exception) -> None:
            self.outcome = outcome

        def result(self, timeout: float) -> int:
            assert timeout > 0
            if isinstance(self.outcome, Exception):
                raise self.outcome
            return self.outcome

        def cancel(self) -> None:
            self.cancelled = True

    assert _bytes_of("a", Future(7)) == 7
    for error in (TimeoutError(), distributed.client.FutureCancelledError("take_part", "gone"), LostPeer("gone")):
        lost = Future(error)
        assert _bytes_of("tcp://there", lost) is None
        assert lost.cancelled
    assert caplog.text.count("worker tcp://there was lost after the training was done") == 3
    with pytest.raises(ValueError, match="no windows"):
        _bytes_of("a", Future(ValueError("no windows")))
