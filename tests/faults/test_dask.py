"""A Dask worker is killed: what it did is done again elsewhere, and only that, and nothing is paid twice."""

import json
from collections import Counter

import deadly
import distributed
import harness
import pytest
import scripted

from infra.runtime.ledger.ledger import Ledger
from tasks.text.samples import sample_documents

EDGES = ("submit: after", "status: before", "deliver: before", "release: before")


@pytest.fixture(scope="module")
def cluster():
    with (
        distributed.LocalCluster(2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as workers,
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


@pytest.mark.engine
def test_a_worker_killed_in_curation_costs_its_shard_only(tmp_path, cluster):
    texts, notes = [text for _, text in sample_documents("base")], tmp_path / "notes"
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for part in range(6):
        first = f"NOTES {notes} PART {part} {'DIE' if part == 3 else 'LIVE'} {texts[part]}"
        lines = [first, *texts[part * 100 : part * 100 + 150]]
        (corpus / f"{part}.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
        with (corpus / f"{part}.jsonl").open("a") as target:
            target.write(" " * 2**20 + "\n")  # a shard of its own
    found = cluster.submit(deadly.curated, tmp_path / "home", str(corpus), pure=False).result(timeout=120)
    assert notes.with_suffix(".killed").exists(), "a worker was killed"
    read = [line.split() for line in notes.read_text().splitlines()]
    assert Counter(part for part, _ in read) == {**dict.fromkeys("01245", 1), "3": 2}
    assert len({pid for _, pid in read}) > 1
    assert found == deadly.curated(tmp_path / "alone", str(corpus)), "the same versions of all tables"
