"""Tasks that nobody waits for leave the worker of a shared cluster, also from within a library's call."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator

import distributed
import pytest

from infra.processes.abandoned import Abandoned

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]


def in_python() -> None:
    while True:
        time.sleep(0.01)


def in_a_library() -> None:
    ctypes.CDLL(None).sleep(600)


@pytest.fixture(scope="module")
def shared() -> Iterator[str]:
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield cluster.scheduler_address


def pid_of_worker(client: distributed.Client) -> int:
    return int(next(iter(client.run(os.getpid).values())))


def begin(client: distributed.Client, work: object) -> distributed.Future:
    future: distributed.Future = client.submit(work, pure=False)
    while not any(client.processing().values()) or not any(client.run(running).values()):
        time.sleep(0.05)
    return future


def running(dask_worker: distributed.Worker) -> int:
    return len(dask_worker.active_threads)


@pytest.mark.parametrize("ending", ["cancelled", "client gone"])
def test_an_abandoned_task_is_interrupted_and_its_worker_takes_the_next_one(shared: str, ending: str) -> None:
    with distributed.Client(shared) as watching:
        pid = pid_of_worker(watching)
        leaving = distributed.Client(shared, set_as_default=False)
        leaving.register_plugin(Abandoned(1.0, 3.0))
        future = begin(leaving, in_python)
        if ending == "cancelled":
            future.cancel()
        else:
            leaving.close()
        assert watching.submit(sum, [1, 2], pure=False).result(timeout=30) == 3
        assert pid_of_worker(watching) == pid
        leaving.close()


def test_one_in_a_library_ends_with_its_worker_process(shared: str) -> None:
    with distributed.Client(shared) as watching:
        pid = pid_of_worker(watching)
        leaving = distributed.Client(shared, set_as_default=False)
        leaving.register_plugin(Abandoned(1.0, 3.0))
        begin(leaving, in_a_library)
        leaving.close()
        assert watching.submit(sum, [1, 2], pure=False).result(timeout=60) == 3
        assert pid_of_worker(watching) != pid
