"""Looking into the ledger: what is open, what is parked, who leads, what a run's calls came to, metrics."""

import subprocess
import sys
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from infra.errors import BadInput
from infra.runtime.cancel import cancel_calls
from infra.runtime.figures.attention import attention
from infra.runtime.figures.inspect import full_key, lanes_with_work, list_leaders, list_open, list_parked
from infra.runtime.figures.metrics import QueueCollector, serve_metrics
from infra.runtime.figures.summary import as_markdown, summarise
from infra.runtime.ledger.batch import Delivery, Tariff
from infra.runtime.ledger.budget import set_limit
from infra.runtime.ledger.lane import Lane
from infra.runtime.ledger.ledger import CANCELLED, DONE, PREPARED, SUBMITTED, UNKNOWN, Call, Ledger, Part
from infra.runtime.ledger.schema import batches
from infra.runtime.limits import Limits


def call(key, run="run1", backend="aer"):
    scope = {"run": run, "stage": "inference", "subtask": "pruning", "problem": "p", "arm": "qaoa", "repetition": 0}
    return Call(key, scope, 0, "sampler", backend, "cal", f"mark-{key}", "c", 5, 200, "fake_torino", {})


def prepare(ledger, key, count=2, estimate_s=0.0, **named):
    pieces = [Part(key, i, 0, 0, "digest", b"request", 1, 100, estimate_s) for i in range(count)]
    ledger.prepare(call(key, **named), pieces, {})


USAGE = {"cpu_s": 0.5, "simulation_cpu_s": 0.5, "circuits": 1, "shots": 100, "qpu_s_projected": 2.0}


def finish(lane, batch, job="job-1"):
    lane.submitted(batch.tag, job)
    lane.deliver([Delivery(item.part, b"counts", USAGE) for item in batch.items], last_of=batch.tag)


@pytest.fixture
def ledger(tmp_path):
    """Four calls: one answered, one out, one parked, one waiting on another backend."""
    made = Ledger(tmp_path / "ledger.db", durable=False)
    lane = Lane.acquire(made, "aer", 60)
    for key in ("a0", "b0", "c0"):
        prepare(made, key)
        (batch,) = lane.claim("aer", Limits())
        if key == "a0":
            finish(lane, batch)
        elif key == "b0":
            lane.submitted(batch.tag, "job-2")
        else:
            lane.close(batch.tag, UNKNOWN, "it may or may not have been sent")
    prepare(made, "d0", run="run2", backend="noisy:fake_manila")
    return made


def test_what_is_open_is_listed_with_its_jobs_and_who_leads(ledger):
    url = ledger.database.url
    rows = list_open(url)
    assert [(row["key"], row["state"]) for row in rows] == [("b0", SUBMITTED), ("d0", PREPARED)]
    assert [job["job_id"] for job in rows[0]["jobs"]] == ["job-2"]
    assert rows[1]["jobs"] == []
    assert all(0 <= row["age_s"] < 60 for row in rows)
    assert [row["key"] for row in list_open(url, run="run2")] == ["d0"]
    assert set(list_leaders(url)) == {"aer"}
    assert lanes_with_work(url) == ["aer", "noisy:fake_manila"]
    assert lanes_with_work(url, run="run2") == ["noisy:fake_manila"]


def test_a_parked_batch_says_what_is_known_and_how_to_look(ledger):
    (batch,) = list_parked(ledger.database.url)
    assert batch["calls"] == ["c0"]
    assert batch["backend"] == "aer"
    assert batch["parts"] == 2
    assert batch["tag"] in batch["look"]
    assert "may or may not" in batch["reason"]


def test_a_key_may_be_given_by_its_first_characters(ledger):
    assert full_key(ledger.database.url, "b") == "b0"
    prepare(ledger, "b1")
    for wrong in ("b", "z"):
        with pytest.raises(BadInput):
            full_key(ledger.database.url, wrong)


def test_cancelling_ends_what_waits_and_tells_where_jobs_are_out(ledger):
    found = cancel_calls(ledger.database.url, key="d")
    assert found["cancelled"] == 1
    assert ledger.state("d0")[0] == CANCELLED
    found = cancel_calls(ledger.database.url, run="run1")
    assert found == {"cancelled": 1, "remote": ["aer"]}
    assert ledger.state("a0")[0] == DONE


def test_a_summary_adds_up_the_runs_own_calls(ledger, tmp_path):
    found = summarise(ledger.database.url, tmp_path, "run1")
    (entry,) = found["backends"]
    assert entry["calls"] == {SUBMITTED: 1, DONE: 1, UNKNOWN: 1}
    assert (entry["jobs"], entry["circuits"], entry["shots"]) == (3, 2, 200)
    assert entry["qpu_s_projected"] == pytest.approx(4.0)
    assert not entry["billed"]
    low, middle, high = entry["qpu_energy_j"]
    assert 0 < low < middle < high
    text = as_markdown(found)
    assert "projected, not spent" in text, "a projection is never printed as spent"
    assert "| backend | aer |" in text


def families(text):
    return {family.name: family for family in text_string_to_metric_families(text)}


def scraped(ledger):
    registry = CollectorRegistry()
    registry.register(QueueCollector(ledger.database.url))
    return families(generate_latest(registry).decode())


def value(family, **labels):
    return next(
        s.value for s in family.samples if labels.items() <= s.labels.items() and not s.name.endswith("created")
    )


def test_metrics_count_calls_jobs_seconds_and_what_the_budget_leaves(ledger):
    set_limit(ledger, "day", "qpu_s", 100.0)
    found = scraped(ledger)
    calls = found["ketcycle_queue_calls"]
    assert value(calls, backend="aer", state=DONE) == 1
    assert value(calls, backend="aer", state=UNKNOWN) == 1
    assert value(calls, backend="aer", state=PREPARED) == 0
    assert value(calls, backend="noisy:fake_manila", state=PREPARED) == 1
    assert value(found["ketcycle_queue_jobs"], backend="aer", state=SUBMITTED) == 1
    assert value(found["ketcycle_queue_oldest_open_call_seconds"], backend="aer") > 0
    assert value(found["ketcycle_queue_budget_left"], scope="day", unit="qpu_s") == pytest.approx(100.0)


def test_what_a_person_should_look_at_is_in_the_metrics_and_in_the_artifact(ledger, tmp_path):
    lane = Lane.acquire(ledger, "ibm:x", 60)
    for key, days in (("p0", 0.0), ("p1", 0.5), ("p2", 2.0)):
        prepare(ledger, key, backend="ibm:x", estimate_s=3.0)
        (batch,) = lane.claim("ibm:x", Limits(), Tariff(1.0, 1.5))
        lane.leaving(batch.tag)
        if key == "p0":
            lane.submitted(batch.tag, "job-p0", duplicates=["job-again"])
        if key == "p2":
            lane.close(batch.tag, UNKNOWN, "it may or may not have been sent")
        with ledger.database.write() as connection:
            aged = batches.update().where(batches.c.tag == batch.tag)
            connection.execute(aged.values(created=batches.c.created - 86_400 * days))
    (row,) = attention(ledger.database.url, "run1")
    once = row["reserved_s"]["over 1 day"]
    assert row == {
        "backend": "ibm:x",
        "unknown": 1,
        "flagged": 2,  # the batch and its duplicate
        "reserved_s": {"under 1 h": 2 * once, "1 h to 1 day": once, "over 1 day": once},
    }
    assert once >= 6.0, "two parts of 3 s"
    found = scraped(ledger)
    assert value(found["ketcycle_queue_unknown_jobs"], backend="ibm:x") == 1
    assert value(found["ketcycle_queue_flagged_jobs"], backend="ibm:x") == 2
    assert value(found["ketcycle_queue_reserved_seconds"], backend="ibm:x", age="over 1 day") == once
    text = as_markdown(summarise(ledger.database.url, tmp_path, "run1"))
    assert "2 flagged (made twice or billed implausibly), 1 of unknown outcome" in text
    assert f"under 1 h {2 * once:.4g}, 1 h to 1 day {once:.4g}, over 1 day {once:.4g}" in text


def test_metrics_are_served_on_loopback_before_there_is_a_ledger(tmp_path, ledger):
    address, stop = serve_metrics(tmp_path / "later.db", 0)
    try:
        assert address.startswith("http://127.0.0.1:")
        assert urllib.request.urlopen(address).read() == b""  # noqa: S310  (our own address)
    finally:
        stop()
    address, stop = serve_metrics(ledger.database.url, 0)
    try:
        assert b"ketcycle_queue_calls" in urllib.request.urlopen(address).read()  # noqa: S310
    finally:
        stop()


def test_looking_needs_no_circuits(ledger):
    code = (
        "import sys; from infra.runtime import cancel; from infra.runtime.figures import inspect, metrics; "
        f"inspect.list_open({ledger.database.url!r}); "
        "assert not {'qiskit', 'torch', 'prefect', 'mlflow'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
