"""The queue's commands as a person types them."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from qiskit import QuantumCircuit
from typer.testing import CliRunner

from flows.commands.queue import app
from infra.runtime.ledger.batch import Bill, Tariff
from infra.runtime.ledger.lane import Lane
from infra.runtime.ledger.ledger import FAILED, PREPARED, SUBMITTED, UNKNOWN, Ledger
from infra.runtime.limits import Limits
from infra.runtime.queue import Runtime, Scope

ROOT = Path(__file__).parents[3]


def coin():
    circuit = QuantumCircuit(1)
    circuit.h(0)
    circuit.measure_all()
    return circuit


def ask(home, arm, run="r"):
    """Leave a call in the ledger and return its key."""
    runtime = Runtime("ledger.db", home=home, projection="fake_manila")
    return runtime.sampler(Scope(run, "inference", "pruning", "p", arm)).run([coin()], shots=10).job_id()


def typed(home, *words, code=0):
    found = CliRunner().invoke(app, [*words, "--home", str(home)], catch_exceptions=False)
    assert found.exit_code == code, found.output
    return found.stdout


def park(home, key):
    """Be a leader that died before anyone knew whether its job had left."""
    ledger = Ledger(home / "ledger.db")
    lane = Lane.acquire(ledger, "aer", 60)
    (batch,) = lane.claim("aer", Limits())
    assert {item.part.call for item in batch.items} == {key}
    lane.close(batch.tag, UNKNOWN, "it may or may not have been sent, and no job is found under its tag")
    lane.release()
    return batch.tag


def test_drain_answers_what_waits_and_list_and_show_tell_of_it(tmp_path):
    key = ask(tmp_path, "a")
    assert json.loads(typed(tmp_path, "list", "--json"))[0]["state"] == PREPARED
    assert json.loads(typed(tmp_path, "drain", "--json")) == [{"backend": "aer", "jobs": 1}]
    (row,) = json.loads(typed(tmp_path, "list", "--json"))
    assert (row["key"], row["state"], row["shots"]) == (key, "DONE", 10)
    assert json.loads(typed(tmp_path, "show", key[:8], "--json"))["state"] == "DONE"
    assert key[:12] in typed(tmp_path, "list")
    assert "no calls in the ledger match" in typed(tmp_path, "list", "--run", "other")


def test_a_summary_of_a_run(tmp_path):
    ask(tmp_path, "a")
    typed(tmp_path, "drain")
    found = json.loads(typed(tmp_path, "list", "--run", "r", "--summary", "--json"))
    assert found["backends"][0]["calls"] == {"DONE": 1}
    assert "projected, not spent" in typed(tmp_path, "list", "--run", "r", "--summary")
    typed(tmp_path, "list", "--summary", code=2)


def test_watch_ends_when_nothing_is_open(tmp_path):
    key = ask(tmp_path, "a")
    command = [sys.executable, "-m", "flows.cli", "queue", "watch", "--json", "--every", "0.1", "--home", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as watching:
        first = json.loads(watching.stdout.readline())
        assert [call["key"] for call in first["open"]] == [key]
        typed(tmp_path, "drain")
        rest = [json.loads(line) for line in watching.stdout]
        assert rest[-1]["open"] == []
        assert watching.wait(10) == 0
    assert "nothing is open" in typed(tmp_path, "watch")


def test_watch_names_what_needs_a_person(tmp_path):
    ask(tmp_path, "a")
    lane = Lane.acquire(Ledger(tmp_path / "ledger.db"), "aer", 60)
    (batch,) = lane.claim("aer", Limits(), Tariff(1.0, 1.6))
    lane.close(batch.tag, UNKNOWN, "it may or may not have been sent")
    lane.release()
    assert "aer: 1 of unknown outcome, 0 flagged, nothing reserved" in typed(tmp_path, "watch")


def test_cancel_by_call_and_by_run(tmp_path):
    keys = [ask(tmp_path, arm) for arm in "abc"]
    assert json.loads(typed(tmp_path, "cancel", keys[0][:10], "--json"))["cancelled"] == 1
    assert "2 calls cancelled" in typed(tmp_path, "cancel", "--run", "r")
    assert {row["state"] for row in json.loads(typed(tmp_path, "list", "--json"))} == {"CANCELLED"}
    typed(tmp_path, "cancel", code=2)
    typed(tmp_path, "cancel", "no such key", code=2)


@pytest.mark.parametrize(("found", "then"), [(("--never-ran",), PREPARED), (("--job", "job-7"), SUBMITTED)])
def test_a_parked_batch_is_listed_and_resolved_by_a_person(tmp_path, found, then):
    key = ask(tmp_path, "a")
    tag = park(tmp_path, key)
    assert tag[:12] in typed(tmp_path, "resolve")
    (parked,) = json.loads(typed(tmp_path, "resolve", "--json"))
    assert parked["tag"] == tag
    assert tag in parked["look"]
    typed(tmp_path, "resolve", tag, code=2)
    typed(tmp_path, "resolve", tag, "--never-ran", "--job", "x", code=2)
    typed(tmp_path, "resolve", "nonsense", "--never-ran", code=2)
    typed(tmp_path, "resolve", tag[:10], *found)
    assert json.loads(typed(tmp_path, "list", "--json"))[0]["state"] == then
    assert "no batch is parked" in typed(tmp_path, "resolve")
    typed(tmp_path, "drain")
    assert json.loads(typed(tmp_path, "list", "--json"))[0]["state"] == "DONE"


def test_a_bill_that_is_missing_is_listed_and_settled_by_a_person(tmp_path):
    ask(tmp_path, "a")
    ledger = Ledger(tmp_path / "ledger.db")
    lane = Lane.acquire(ledger, "aer", 60)
    (batch,) = lane.claim("aer", Limits(), Tariff(1.0, 1.6))
    lane.submitted(batch.tag, "job-7")
    lane.close(batch.tag, FAILED, "job-7 is failed: ran too long", Bill(None), permanent=True)
    lane.release()
    (row,) = json.loads(typed(tmp_path, "settle", "--json"))
    assert (row["tag"], row["job_id"], row["billed_s"]) == (batch.tag, "job-7", None)
    assert "job-7" in typed(tmp_path, "settle")
    typed(tmp_path, "settle", batch.tag, code=2)
    typed(tmp_path, "settle", "--seconds", "3", code=2)
    typed(tmp_path, "settle", "nonsense", "--seconds", "3", code=2)
    typed(tmp_path, "settle", batch.tag, "--seconds", "-3", code=2)
    assert "charged 3.5 QPU seconds" in typed(tmp_path, "settle", batch.tag[:10], "--seconds", "3.5")
    spent = next(row for row in json.loads(typed(tmp_path, "budget", "--json")) if row["scope"] == "day")
    assert (spent["billed"], spent["reserved"]) == (3.5, 0)


def test_a_call_that_failed_for_good_is_sent_again_by_a_person_only(tmp_path):
    key = ask(tmp_path, "a")
    ledger = Ledger(tmp_path / "ledger.db")
    lane = Lane.acquire(ledger, "aer", 60)
    (batch,) = lane.claim("aer", Limits())
    lane.close(batch.tag, FAILED, "it ran too long", permanent=True)
    lane.release()
    ask(tmp_path, "a")
    assert json.loads(typed(tmp_path, "drain", "--json")) == []
    assert "waits to be sent again" in typed(tmp_path, "retry", key[:10])
    typed(tmp_path, "drain")
    assert json.loads(typed(tmp_path, "list", "--json"))[0]["state"] == "DONE"
    typed(tmp_path, "retry", key, code=2)


def limits(home):
    return [row for row in json.loads(typed(home, "budget", "--json")) if row["limit"] is not None]


def test_limits_are_shown_and_changed(tmp_path):
    ask(tmp_path, "a")
    assert limits(tmp_path) == []
    typed(tmp_path, "budget", "set", "day", "qpu_s", "120")
    (row,) = limits(tmp_path)
    assert (row["scope"], row["unit"], row["limit"], row["left"]) == ("day", "qpu_s", 120.0, 120.0)
    assert "120" in typed(tmp_path, "budget")
    typed(tmp_path, "budget", "set", "day", "qpu_s", "none")
    assert limits(tmp_path) == []
    for wrong in (("century", "qpu_s", "1"), ("day", "apples", "1"), ("day", "qpu_s", "many"), ("day", "usd", "inf")):
        typed(tmp_path, "budget", "set", *wrong, code=2)


def test_calibration_says_so_where_nothing_was_billed(tmp_path):
    ask(tmp_path, "a")
    assert "no job was billed" in typed(tmp_path, "calibration")


@pytest.mark.parametrize(
    "words", [("list",), ("watch",), ("resolve",), ("settle",), ("budget",), ("calibration",), ("--help",)]
)
def test_looking_starts_at_once_and_loads_no_circuits(tmp_path, words):
    Ledger(tmp_path / "ledger.db")
    home = () if words == ("--help",) else ("--home", str(tmp_path))
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom flows.cli import app\n"
        f"found = CliRunner().invoke(app, ['queue', *{words!r}, *{home!r}])\n"
        "assert found.exit_code == 0, found.output\n"
        "assert not {'qiskit', 'torch', 'prefect', 'mlflow'} & set(sys.modules)\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 3.0  # .6 on a quiet machine
