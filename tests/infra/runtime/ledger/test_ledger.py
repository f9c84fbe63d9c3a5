import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy.pool import QueuePool

from infra.errors import BadInput, RuntimeQueueError
from infra.runtime.figures.inspect import list_calls, show_call
from infra.runtime.ledger import database
from infra.runtime.ledger.batch import Delivery
from infra.runtime.ledger.lane import Lane
from infra.runtime.ledger.ledger import (
    CANCELLED,
    DONE,
    FAILED,
    PREPARED,
    SUBMITTED,
    SUBMITTING,
    Call,
    Ledger,
    Part,
)
from infra.runtime.limits import Limits


def call(key="k0", run="run1", content="c", backend="aer"):
    scope = {"run": run, "stage": "inference", "subtask": "pruning", "problem": "p", "arm": "qaoa", "repetition": 0}
    return Call(key, scope, 0, "sampler", backend, "cal", f"mark-{key}", content, 5, 200, "fake_torino", {})


def parts(key="k0", count=2, request=b"request"):
    return [Part(key, i, 0, 0, "digest", request, 1, 100) for i in range(count)]


@pytest.fixture
def ledger(location):
    return Ledger(location, durable=False)


@pytest.fixture
def in_file(tmp_path):
    return Ledger(tmp_path / "ledger.db", durable=False)


def finish(ledger, lane, usage=None):
    for batch in lane.claim("aer", Limits()):
        lane.submitted(batch.tag, "job")
        results = [Delivery(item.part, b"counts", usage or {"cpu_s": 0.5}) for item in batch.items]
        lane.deliver(results, last_of=batch.tag)


def test_a_call_walks_through_its_states(ledger):
    assert ledger.prepare(call(), parts(), {"digest": b"qpy"})
    assert ledger.state("k0") == (PREPARED, None)
    lane = Lane.acquire(ledger, "aer", 60)
    (batch,) = lane.claim("aer", Limits())
    assert ledger.state("k0")[0] == SUBMITTING
    lane.submitted(batch.tag, "job-1")
    assert ledger.state("k0")[0] == SUBMITTED
    lane.deliver([Delivery(batch.items[0].part, b"a", {"cpu_s": 1.0})])
    assert ledger.state("k0")[0] == SUBMITTED, "one of two parts is missing"
    lane.deliver([Delivery(batch.items[1].part, b"b", {"cpu_s": 2.0})])
    assert ledger.state("k0")[0] == DONE
    assert [row["result"] for row in ledger.results("k0")] == [b"a", b"b"]
    assert [row["usage"]["cpu_s"] for row in ledger.results("k0")] == [1.0, 2.0]


def test_an_intent_is_written_once(ledger):
    assert ledger.prepare(call(), parts(), {"digest": b"qpy"})
    assert not ledger.prepare(call(), parts(), {"digest": b"qpy"})
    assert ledger.missing_circuits({"digest", "other"}) == {"other"}


def test_a_stored_result_is_never_replaced(ledger):
    ledger.prepare(call(), parts(count=1), {})
    lane = Lane.acquire(ledger, "aer", 60)
    (batch,) = lane.claim("aer", Limits())
    part = batch.items[0].part
    lane.deliver([Delivery(part, b"first", {})])
    lane.deliver([Delivery(part, b"second", {})])
    assert ledger.results("k0")[0]["result"] == b"first"


def test_a_failed_part_fails_its_call_only_and_another_attempt_keeps_what_was_done(ledger):
    ledger.prepare(call("k0"), parts("k0"), {})
    ledger.prepare(call("k1"), parts("k1", 1), {})
    lane = Lane.acquire(ledger, "aer", 60)
    (batch,) = lane.claim("aer", Limits())
    good, bad, other = (item.part for item in batch.items)
    lane.deliver(
        [Delivery(good, b"good", {}), Delivery(bad, error="broken"), Delivery(other, b"other", {})], last_of=batch.tag
    )
    assert ledger.state("k0") == (FAILED, "broken")
    assert ledger.state("k1")[0] == DONE
    ledger.prepare_again("k0")
    (again,) = lane.claim("aer", Limits())
    assert [item.part.position for item in again.items] == [1]
    assert ledger.find("k0")["attempt"] == 2


def test_a_waiting_call_is_cancelled_at_once_one_that_is_out_is_marked(ledger):
    ledger.prepare(call("k0"), parts("k0"), {})
    assert ledger.request_cancel(key="k0") == 1
    assert ledger.state("k0")[0] == CANCELLED
    ledger.prepare(call("k1"), parts("k1"), {})
    lane = Lane.acquire(ledger, "aer", 60)
    assert {item.part.call for item in lane.claim("aer", Limits())[0].items} == {"k1"}
    assert ledger.request_cancel(key="k1") == 1
    assert ledger.state("k1")[0] == SUBMITTING, "its job is out; who leads cancels it"
    assert ledger.find("k1")["cancel_requested"] is not None
    assert ledger.request_cancel(key="k0") == 0


def test_a_finished_call_of_another_run_is_adopted_with_its_usage(ledger):
    ledger.prepare(call("k0"), parts("k0"), {})
    assert not ledger.adopt(call("k9", run="run2")), "nothing is finished yet"
    finish(ledger, Lane.acquire(ledger, "aer", 60))
    assert ledger.adopt(call("k9", run="run2"))
    assert ledger.state("k9")[0] == DONE
    assert ledger.results("k9") == ledger.results("k0")
    assert ledger.find("k9")["reused_from"] == "k0"
    assert not ledger.adopt(call("k8", run="run3", content="other"))


def test_requests_are_dropped_once_the_call_is_done(in_file, tmp_path):
    in_file.prepare(call(), parts(request=b"x" * 1000), {})
    finish(in_file, Lane.acquire(in_file, "aer", 60))
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        assert connection.execute("select max(length(request)) from parts").fetchone() == (0,)


def test_list_and_show_tell_what_was_sent_and_used(in_file, tmp_path):
    in_file.prepare(call("abc0"), parts("abc0"), {})
    finish(in_file, Lane.acquire(in_file, "aer", 60))
    in_file.prepare(call("abd1", run="run2"), parts("abd1"), {})
    path = tmp_path / "ledger.db"
    rows = list_calls(path)
    assert [row["key"] for row in rows] == ["abd1", "abc0"]
    assert rows[1]["circuits"] == 2
    assert rows[1]["shots"] == 200
    assert rows[1]["cpu_s"] == 1.0
    assert [row["key"] for row in list_calls(path, state="done")] == ["abc0"]
    assert [row["key"] for row in list_calls(path, run="run2")] == ["abd1"]
    shown = show_call(path, "abc")
    assert shown["jobs"][0]["job_id"] == "job"
    assert [part["result_bytes"] for part in shown["parts"]] == [6, 6]
    json.dumps([rows, shown])  # plain values
    for wrong in ("ab", "zzz"):
        with pytest.raises(BadInput, match="ketcycle queue list"):
            show_call(path, wrong)
    with pytest.raises(BadInput, match="PREPARED"):
        list_calls(path, state="sleeping")


def test_reading_the_ledger_loads_no_quantum_library(tmp_path):
    Ledger(tmp_path / "ledger.db", durable=False)
    code = (
        "import sys; from infra.runtime.figures.inspect import list_calls; "
        f"print(list_calls({str(tmp_path / 'ledger.db')!r})); "
        "heavy = {'qiskit', 'numpy', 'qiskit_aer', 'qiskit_ibm_runtime'} & set(sys.modules); sys.exit(str(heavy or 0))"
    )
    done = subprocess.run([sys.executable, "-c", code + " if heavy else None"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_a_missing_ledger_is_not_created_by_looking(tmp_path):
    with pytest.raises(BadInput, match="appears with the first"):
        list_calls(tmp_path / "ledger.db")
    assert not (tmp_path / "ledger.db").exists()


def test_a_ledger_of_an_older_version_is_migrated_in_place(tmp_path):
    with sqlite3.connect(tmp_path / "old.db") as connection:
        connection.executescript(Path(__file__).with_name("ledger_v2.sql").read_text())
    ledger = Ledger(tmp_path / "old.db", create=False)
    assert {row["key"]: row["state"] for row in list_calls(tmp_path / "old.db")} == {"done0": DONE, "wait0": PREPARED}
    with sqlite3.connect(tmp_path / "old.db") as connection:
        assert connection.execute("select value from meta where name='schema'").fetchone() == (
            str(database.SCHEMA_VERSION),
        )
        assert connection.execute("select billed_s, sent = created, tries from batches").fetchall() == [(0.0, 1, 0)]
        names = {row[1] for row in connection.execute("pragma index_list(batches)")}
    assert {"batches_job", "batches_sent", "batches_unbilled"} <= names
    assert ledger.prepare(call("new0"), parts("new0"), {})


def test_another_schema_version_is_refused_with_both_versions(in_file, tmp_path):
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("update meta set value='99' where name='schema'")
    with pytest.raises(BadInput, match=f"version 99, this program writes version {database.SCHEMA_VERSION}"):
        Ledger(tmp_path / "ledger.db", durable=False)


def test_a_damaged_file_says_so(tmp_path):
    (tmp_path / "ledger.db").write_bytes(b"this is no database at all, " * 200)
    with pytest.raises(RuntimeQueueError, match="damaged; restore a copy"):
        Ledger(tmp_path / "ledger.db")


def test_a_forked_child_compiles_no_statement_again_and_shares_no_connection(ledger):
    assert ledger.find("k0") is None
    engine = database._engine(ledger.database.url, False)
    compiled = len(engine._compiled_cache)
    child = os.fork()
    if child == 0:
        try:
            alone = isinstance(engine.pool, QueuePool) and engine.pool.checkedin() == 0 and ledger.find("k0") is None
            os._exit(0 if alone and len(engine._compiled_cache) == compiled else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert ledger.find("k0") is None


def test_a_path_that_cannot_be_opened_says_so(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RuntimeQueueError, match="ledger"):
        Ledger(tmp_path / "file" / "ledger.db")
    with pytest.raises(BadInput, match="database URL"):
        Ledger("nonsense://:::/x y")


def test_a_full_disk_loses_nothing_that_was_written(in_file):
    in_file.prepare(call("k0"), parts("k0"), {})
    with in_file.database.write() as connection:
        pages = connection.exec_driver_sql("pragma page_count").scalar()
        connection.exec_driver_sql(f"pragma max_page_count={pages + 2}")
    with pytest.raises(RuntimeQueueError, match="disk is full"):
        in_file.prepare(call("k1"), parts("k1", request=b"x" * 100_000), {})
    assert in_file.find("k1") is None
    assert in_file.state("k0")[0] == PREPARED


def test_a_ledger_held_by_another_process_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "BUSY_S", 0.2)
    ledger = Ledger(tmp_path / "held.db", durable=False)
    blocker = sqlite3.connect(tmp_path / "held.db", isolation_level=None)
    blocker.execute("begin immediate")
    start = time.monotonic()
    with pytest.raises(RuntimeQueueError, match="another process has held it"):
        ledger.prepare(call(), parts(), {})
    assert time.monotonic() - start < 5
    assert list_calls(tmp_path / "held.db") == [], "readers do not wait for the writer"
    blocker.execute("rollback")
    assert ledger.prepare(call(), parts(), {})


@pytest.mark.parametrize(("durable", "wait", "mode"), [(True, True, 2), (True, False, 1), (False, True, 1)])
def test_only_writes_that_something_outside_depends_on_wait_for_the_disk(tmp_path, durable, wait, mode):
    ledger = Ledger(tmp_path / "ledger.db", durable=durable)
    with ledger.database.write(wait=wait) as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == mode  # 1 NORMAL, 2 FULL


def test_what_leaves_the_machine_waits_for_the_disk(tmp_path, monkeypatch):
    """A claim may be lost by a power cut, but not after the batch was sent, nor a result that was told."""
    waited = []
    original = database.Database.write

    def watched(self, *, wait=True):
        waited.append(wait)
        return original(self, wait=wait)

    monkeypatch.setattr(database.Database, "write", watched)
    ledger = Ledger(tmp_path / "ledger.db", durable=True)
    ledger.prepare(call(), parts(count=1), {})
    lane = Lane.acquire(ledger, "aer", 60.0)
    (batch,) = lane.claim("aer", Limits())
    assert waited[-1] is False
    for step in (
        lambda: lane.leaving(batch.tag),
        lambda: lane.submitted(batch.tag, "job"),
        lambda: lane.deliver([Delivery(batch.items[0].part, b"r")], last_of=batch.tag),
    ):
        step()
        assert waited[-1] is True
    lane.release()
    assert waited[-1] is False
