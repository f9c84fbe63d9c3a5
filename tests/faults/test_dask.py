"""A Dask worker is killed while it leads: the task runs again elsewhere, finds its job, and pays once."""

import distributed
import harness
import pytest
import scripted

from infra.runtime.ledger import Ledger

EDGES = ("submit: after", "status: before", "deliver: before", "release: before")


@pytest.fixture(scope="module")
def cluster():
    with (
        distributed.LocalCluster(2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as workers,
        distributed.Client(workers) as client,
    ):
        yield client


@pytest.mark.engine
@pytest.mark.parametrize("edge", EDGES)
def test_a_killed_worker_pays_once_and_its_task_gets_its_own_result(tmp_path, cluster, edge):
    case, world = harness.Case(edge, "none", dispatchers=2, polls=2), scripted.World()
    right = world.prepare(tmp_path / "alone")
    world.start(tmp_path, case)
    ledger = Ledger(tmp_path / "ledger.db")
    harness.set_limits(ledger)
    futures = {name: cluster.submit(harness.on_a_worker, case, world, str(tmp_path), name, pure=False) for name in "ab"}
    outcomes = cluster.gather(futures)
    assert {name: outcome["trace"] for name, outcome in outcomes.items()} == right, outcomes
    assert (tmp_path / "killed").exists(), "a worker was killed"
    harness.check(case, world, tmp_path, ledger, harness.Story(killed=True))
