"""Two runs on the same Dask workers: a task that waits for its parts has its meter open while others come."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import distributed
import pytest

from infra.energy.meter import Meter
from infra.errors import MeterBusy
from infra.processes import stopping
from infra.processes.stopping import WorkStopped, stop_here
from tasks import steps
from tasks.parallel import metered_part
from tasks.stage import Context

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def client() -> Iterator[distributed.Client]:
    options = {"n_workers": 2, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as own:  # type: ignore[no-untyped-call]
        yield own


def burn(seconds: float) -> str:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return distributed.get_worker().address


def spreading(parts: int) -> float:
    """Do parts on any worker from within a metered block, as a stage does."""

    def part(seconds: float) -> float:
        return metered_part(lambda: burn(seconds))[1].cpu_s

    with Meter() as meter, distributed.worker_client() as client:
        used = client.gather(client.map(part, [0.3] * parts, pure=False, priority=10))
    assert all(0.29 < cpu_s < 1 for cpu_s in used)
    return meter.usage.cpu_s


def alone(seconds: float) -> float:
    with Meter() as meter:
        burn(seconds)
    return meter.usage.cpu_s


@pytest.mark.timeout(120)
def test_blocks_of_other_runs_wait_and_parts_do_not(client: distributed.Client) -> None:
    places = sorted(client.scheduler_info(n_workers=-1)["workers"])
    spread = [client.submit(spreading, 4, workers=[place], pure=False) for place in places]  # each waits for the other
    time.sleep(0.2)
    others = [client.submit(alone, 0.2, workers=[places[k % 2]], pure=False) for k in range(4)]
    assert all(0.19 < cpu_s < 1 for cpu_s in client.gather(others))
    client.gather(spread)


def occupied(seconds: float) -> None:
    with Meter(), distributed.worker_client():  # the place in the worker is given away, as by a task that waits
        time.sleep(seconds)


def at_work_on(run_id: str) -> bool:
    return any(run_id in runs for runs in stopping._working.values())


def step(stage: str, folder: str) -> str:
    try:
        with steps._work(Context("cancelled", stage, Path(folder), 0), "wait"):
            return "worked"
    except WorkStopped:
        return "stopped"


@pytest.mark.timeout(60)
def test_a_stop_ends_the_wait_for_the_block_of_another_run(client: distributed.Client, tmp_path: Path) -> None:
    place = sorted(client.scheduler_info(n_workers=-1)["workers"])[0]
    other = client.submit(occupied, 8.0, workers=[place], pure=False)
    time.sleep(0.5)
    waiting = client.submit(step, "curation", str(tmp_path), workers=[place], pure=False)
    while not client.run(at_work_on, "cancelled", workers=[place])[place]:
        time.sleep(0.1)
    client.run(stop_here, "cancelled", workers=[place])
    assert waiting.result() == "stopped"
    assert not other.done()


def nested() -> str:
    with Meter():
        try:
            with Meter():
                return "nested"
        except MeterBusy as error:
            return str(error)


@pytest.mark.timeout(60)
def test_a_block_inside_a_block_is_refused_in_a_task_as_well(client: distributed.Client) -> None:
    assert client.submit(nested, pure=False).result().startswith("a metered block is open in this process")
