"""Tasks without a flow run: plain calls on the Dask cluster, whose results and errors are like those of Prefect."""

from __future__ import annotations

import operator
import os
import sys
import time
from collections.abc import Iterator

import distributed
import pytest

from infra import engine

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def client() -> Iterator[distributed.Client]:
    page = {"dashboard_address": "127.0.0.1:0"}  # Dask warns of a port in use
    with (
        distributed.LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=1,
            threads_per_worker=1,
            processes=False,
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs=page,
        ) as own,
        distributed.Client(own) as made,
    ):
        yield made


def test_a_task_is_a_call_on_a_worker_and_the_same_call_twice_runs_twice(client: distributed.Client) -> None:
    first, second = (engine.submit("now", time.perf_counter_ns) for _ in range(2))
    assert first.result() != second.result()
    assert engine.submit("add", operator.add, 2, 3).result() == 5


def test_an_error_is_raised_or_returned(client: distributed.Client) -> None:
    failed = engine.submit("divide", operator.truediv, 1, 0)
    with pytest.raises(ZeroDivisionError):
        failed.result()
    assert isinstance(engine.outcome(failed), ZeroDivisionError)
    assert engine.outcome(engine.submit("add", operator.add, 2, 3)) == 5


def test_an_error_of_the_task_is_told_from_one_that_takes_longer(client: distributed.Client) -> None:
    with pytest.raises(TimeoutError):
        engine.outcome(engine.submit("sleep", time.sleep, 0.5), 0.05)
    assert isinstance(engine.outcome(engine.submit("late", raise_timeout), 10), TimeoutError)


def test_a_task_has_a_worker_until_it_is_done(client: distributed.Client) -> None:
    begun, waiting = (engine.submit("sleep", time.sleep, 0.5) for _ in range(2))
    while not engine.has_worker(waiting):  # what is submitted reaches the scheduler a moment later
        time.sleep(0.01)
    assert engine.has_worker(begun)
    nowhere = client.submit(time.sleep, 0, workers=["tcp://127.0.0.1:1"], allow_other_workers=False, pure=False)
    assert not engine.has_worker(nowhere)
    engine.outcome(waiting)
    assert not engine.has_worker(waiting)


def raise_timeout() -> None:
    raise TimeoutError("of the task")


def test_without_a_flow_run_there_is_no_page_to_publish_on() -> None:
    before = set(sys.modules)
    assert not engine.in_flow()
    engine.publish("text", "ketcycle-test", "nothing")
    assert not {name for name in set(sys.modules) - before if name.startswith("prefect")}


def test_a_call_is_made_where_a_module_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sched", raising=False)
    assert engine.where_imported("sched", os.getpid) == os.getpid(), "without a cluster it is made here"
    with (
        distributed.LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=2,
            threads_per_worker=1,
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
        ) as own,
        distributed.Client(own) as client,
    ):
        assert engine.where_imported("sched", os.getpid) == os.getpid(), "no worker has imported it"
        there = client.submit(_import_sched, pure=False).result()
        assert there != os.getpid()
        assert {engine.where_imported("sched", os.getpid) for _ in range(4)} == {there}
        with pytest.raises(ZeroDivisionError):
            engine.where_imported("sched", operator.truediv, 1, 0)
        monkeypatch.setitem(sys.modules, "sched", sys)
        assert engine.where_imported("sched", os.getpid) == os.getpid(), "it is imported here, too"


def _import_sched() -> int:
    import sched

    assert sched
    return os.getpid()
