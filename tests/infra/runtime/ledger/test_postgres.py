"""The ledger on a real PostgreSQL server: the same states, two processes, and a budget that they share."""

import json
import os
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import pytest

from infra.errors import BadInput, RuntimeQueueError
from infra.runtime.figures.inspect import list_calls
from infra.runtime.ledger.batch import Bill, Delivery, Tariff
from infra.runtime.ledger.budget import set_limit, spending
from infra.runtime.ledger.lane import Lane
from infra.runtime.ledger.ledger import CANCELLED, DONE, PREPARED, SUBMITTED, UNKNOWN, Call, Ledger, Part
from infra.runtime.ledger.schema import meta
from infra.runtime.limits import Limits

TARIFF = Tariff(1.0, 1.6)


def prepare(ledger, key, count=1, backend="ibm:x", run="r", estimate_s=4.0):
    scope = {"run": run, "stage": "s", "subtask": "t", "problem": "p", "arm": "a", "repetition": 0}
    call = Call(key, scope, 0, "sampler", backend, "", key, key, 2**61, count * 100, "fake_torino", {"a": 1})
    return ledger.prepare(
        call, [Part(key, i, 0, 0, "d", b"r", 1, 100, estimate_s, 1.0) for i in range(count)], {"d": b"qpy"}
    )


def test_a_call_walks_through_its_states_and_is_paid(postgres):
    ledger = Ledger(postgres)
    assert prepare(ledger, "k0", count=2)
    assert not prepare(ledger, "k0", count=2)
    lane = Lane.acquire(ledger, "ibm:x", 60)
    assert Lane.acquire(ledger, "ibm:x", 60) is None
    set_limit(ledger, "day", "qpu_s", 100.0)
    (batch,) = lane.claim("ibm:x", Limits(), TARIFF)
    assert batch.max_qpu_s == pytest.approx(2 * (4 + 3))
    assert spending(ledger).reserved_s == pytest.approx(14.0)
    assert lane.submitted(batch.tag, "job1")
    assert ledger.state("k0")[0] == SUBMITTED
    lane.deliver([Delivery(batch.items[0].part, b"one", {"cpu_s": 1.0})])
    lane.deliver([Delivery(batch.items[1].part, b"two", {})], last_of=batch.tag, bill=Bill(5.0, ("job2",)))
    assert ledger.state("k0")[0] == DONE
    assert [row["result"] for row in ledger.results("k0")] == [b"one", b"two"]
    spent = spending(ledger)
    assert (spent.billed_s, spent.reserved_s) == (pytest.approx(5.0), pytest.approx(14.0)), "the duplicate may run yet"
    (duplicate,) = lane.look()[1]
    lane.close(duplicate.tag, CANCELLED, "not started", Bill(0.0))
    assert spending(ledger).reserved_s == 0
    assert lane.look() == (False, [])
    assert [row["state"] for row in list_calls(postgres)] == [DONE]


def test_parked_cancelled_and_asked_again(postgres):
    ledger = Ledger(postgres)
    for key in ("k0", "k1", "k2"):
        prepare(ledger, key)
    lane = Lane.acquire(ledger, "ibm:x", 60)
    assert ledger.request_cancel(key="k2") == 1
    (batch,) = lane.claim("ibm:x", Limits(), TARIFF)
    assert {item.part.call for item in batch.items} == {"k0", "k1"}
    lane.close(batch.tag, UNKNOWN, "no job is found")
    assert ledger.request_cancel(run="r") == 0
    ledger.prepare_again("k0")
    ledger.resolve(batch.tag, None)
    assert [ledger.state(key)[0] for key in ("k0", "k1", "k2")] == [CANCELLED] * 3
    ledger.prepare_again("k1")
    assert ledger.state("k1")[0] == PREPARED
    assert spending(ledger).reserved_s == 0
    with pytest.raises(BadInput, match="no batch"):
        ledger.resolve(batch.tag, None)


def test_two_dispatchers_cannot_overspend_together(postgres):
    """Both claim at the same moment, again and again; the limit leaves room for some of the calls only."""
    ledger = Ledger(postgres)
    lanes = {name: Lane.acquire(ledger, name, 60) for name in ("ibm:x", "ibm:y")}
    for name in lanes:
        for number in range(12):
            prepare(ledger, f"{name}{number}", backend=name, run=f"r{number % 3}")
    set_limit(ledger, "month", "qpu_s", 30.0)
    start = threading.Barrier(2)
    claimed: list[Any] = []

    def dispatch(name):
        start.wait()
        for _ in range(12):
            claimed.extend(lanes[name].claim(name, Limits(parts=1), TARIFF))

    threads = [threading.Thread(target=dispatch, args=(name,)) for name in lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    used = sum(batch.max_qpu_s for batch in claimed)
    assert used == pytest.approx(spending(ledger).reserved_s)
    assert 26.0 < used <= 30.0 + 1e-9


def test_callers_in_two_processes_share_the_ledger(postgres, tmp_path):
    script = Path(__file__).parents[1] / "callers.py"
    spec = {
        "ledger": postgres,
        "out": str(tmp_path / "out"),
        "workers": 2,
        "arms": 4,
        "steps": 2,
        "run": "r",
        "kills": 2,
    }
    done = subprocess.run(
        [sys.executable, script, json.dumps(spec)], capture_output=True, text=True, cwd=script.parents[4], timeout=200
    )
    assert done.returncode == 0, done.stderr
    rows = list_calls(postgres, limit=100)
    assert len(rows) == 8
    assert {row["state"] for row in rows} == {DONE}


def test_tables_are_made_once_when_processes_open_it_together(postgres):
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            try:
                Ledger(postgres)
                os._exit(0)
            except BaseException:
                os._exit(1)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    with Ledger(postgres).database.write() as connection:
        connection.execute(meta.update().values(value="99"))
    with pytest.raises(BadInput, match="version 99"):
        Ledger(postgres)


def test_a_server_that_does_not_answer_says_so_without_the_password():
    with pytest.raises(RuntimeQueueError, match="does not answer") as caught:
        Ledger("postgresql+pg8000://someone:secret-word@127.0.0.1:1/ledger")
    told = traceback.format_exception(caught.value)
    assert not [text for text in told if "secret-word" in text and "Ledger(" not in text], "but in the line above"
    with pytest.raises(BadInput, match="pg8000"):
        Ledger("postgresql://someone@127.0.0.1:1/ledger")
