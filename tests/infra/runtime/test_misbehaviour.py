"""The queue against a platform that misbehaves: through the vendor's client, against the double, one kind each."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from qiskit import QuantumCircuit
from requests import ConnectionError as NoConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    MaxRetryError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    SSLError,
)

from infra.errors import BackendFailed, BadInput, BudgetExceeded
from infra.runtime import billing, dispatcher
from infra.runtime.backends.ibm.device import IBMDevice
from infra.runtime.backends.ibm.platform import _never_sent
from infra.runtime.cancel import cancel_now
from infra.runtime.figures.attention import attention, list_unsettled
from infra.runtime.figures.calibration import Correction
from infra.runtime.figures.inspect import list_open, list_parked, show_call
from infra.runtime.ledger.budget import set_limit, spending
from infra.runtime.ledger.ledger import CANCELLED, SUBMITTED
from infra.runtime.ledger.schema import batches
from infra.runtime.queue import Runtime, Scope
from infra.settings import Settings

SHOTS = 20


@pytest.fixture
def platform(ibm: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The double, which lists within .3 s and bills what the formula says; its bills are waited for .3 s."""
    monkeypatch.setenv("KETCYCLE_IBM_LISTING_DELAY_S", "0.3")
    monkeypatch.setattr(billing, "BILL_PATIENCE_S", 0.3)
    monkeypatch.setattr("infra.runtime.figures.calibration.correction", lambda *_: Correction(1.7, 1.7, 1.7, 0))
    monkeypatch.setattr(dispatcher, "LONGEST_PAUSE_S", 0.2)
    return ibm


@pytest.fixture
def runtime(platform: Any, location: str) -> Runtime:
    return Runtime(location, "ibm:lagos", projection="fake_manila")


def ask(runtime: Runtime, arm: str = "a", flip: bool = False) -> Any:
    circuit = QuantumCircuit(2)
    if flip:
        circuit.x(0)
    circuit.measure_all()
    return runtime.sampler(Scope("r", "inference", "pruning", "p", arm)).run([circuit], shots=SHOTS)


def counts(job: Any) -> dict[str, int]:
    return dict(job.result()[0].data.meas.get_counts())


def rows(runtime: Runtime) -> list[dict[str, Any]]:
    with runtime.open().database.read() as connection:
        return [dict(row) for row in connection.execute(sa.select(batches).order_by(batches.c.created)).mappings()]


def in_step(runtime: Runtime, platform: Any) -> None:
    """Assert that the ledger charges what the service bills, and reserves nothing more."""
    runtime.drain()
    spent = spending(runtime.open())
    assert spent.billed_s == pytest.approx(platform.facts["billed_s"])
    assert spent.reserved_s == 0


# Paid twice, and not charged


@pytest.mark.parametrize("answer", ["401-after", "403-after", "408-after", "409-after", "500-after", "drop-after"])
def test_an_error_after_the_job_was_made_is_no_refusal(runtime: Runtime, platform: Any, answer: str) -> None:
    platform.change(faults=[{"route": "submit", "kind": answer}])
    assert counts(ask(runtime)) == {"00": SHOTS}
    assert len(platform.jobs) == 1
    in_step(runtime, platform)


@pytest.mark.parametrize(("answer", "again"), [("401", True), ("400", False)])
def test_a_refusal_is_one_once_no_job_is_listed(runtime: Runtime, platform: Any, answer: str, again: bool) -> None:
    platform.change(faults=[{"route": "submit", "kind": answer}])
    began = time.monotonic()
    with pytest.raises(BackendFailed, match=f"answered {answer}"):
        counts(ask(runtime))
    assert time.monotonic() - began > 0.3
    assert platform.asked("jobs") > 1, "the tag was looked up repeatedly"
    assert platform.jobs == []
    if again:
        assert counts(ask(runtime)) == {"00": SHOTS}, "a key can be set right"
    else:
        with pytest.raises(BackendFailed, match="queue retry"):
            counts(ask(runtime))
        assert platform.asked("submit") == 1, "what is always refused is not sent again"


HIDDEN = [{"route": "submit", "kind": "twice"}, {"route": "create", "kind": "hidden", "skip": 1}]


def test_a_duplicate_that_is_listed_late_is_charged_and_flagged(runtime: Runtime, platform: Any) -> None:
    platform.change(faults=HIDDEN)
    assert counts(ask(runtime)) == {"00": SHOTS}
    first_s = platform.facts["billed_s"]
    assert spending(runtime.open()).billed_s == pytest.approx(first_s)
    platform.change(shown=True)
    in_step(runtime, platform)
    assert platform.facts["billed_s"] == pytest.approx(2 * first_s), "the duplicate ran, and nobody had asked about it"
    assert attention(runtime.ledger)[0]["flagged"] == 2


def test_duplicates_are_looked_for_before_more_is_allowed(
    runtime: Runtime, platform: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.change(faults=HIDDEN)
    set_limit(runtime.open(), "day", "qpu_s", 10.0)  # three jobs are billed 10.2 s
    counts(ask(runtime))
    platform.change(shown=True)
    monkeypatch.setattr("infra.runtime.sweep.is_due", lambda *_: True)
    with pytest.raises(BudgetExceeded):
        counts(ask(runtime, "b"))
    in_step(runtime, platform)


def test_a_duplicate_that_waits_is_cancelled_although_the_submission_was_answered(
    runtime: Runtime, platform: Any
) -> None:
    platform.change(faults=[{"route": "submit", "kind": "twice"}], queued_polls=3)
    assert counts(ask(runtime)) == {"00": SHOTS}
    assert sorted(job["state"] for job in platform.jobs) == ["Cancelled", "Completed"]
    in_step(runtime, platform)


# Answers that make no sense


@pytest.mark.parametrize("usage", ["NaN", '"7 s"', "[1]", "-30", "2000", "0"])
def test_a_bill_that_makes_no_sense_is_charged_at_a_plausible_bound(
    runtime: Runtime, platform: Any, usage: str
) -> None:
    body = f'{{"usage": {{"status": "completed", "qpu_charge_time_seconds": {usage}}}}}'
    platform.change(faults=[{"route": "metrics", "kind": "answer", "times": 999, "body": body}])
    assert counts(ask(runtime)) == {"00": SHOTS}
    (batch,) = rows(runtime)
    assert batch["billed_s"] == batch["max_qpu_s"], "the most that the job may use"
    assert batch["flagged"]
    assert spending(runtime.open()).billed_s == batch["max_qpu_s"]
    (unsettled,) = list_unsettled(runtime.ledger)
    runtime.open().settle(unsettled["tag"], 3.5)
    assert (spending(runtime.open()).billed_s, spending(runtime.open()).reserved_s) == (3.5, 0)


@pytest.mark.parametrize(("bill", "charged"), [("4", 4.0), ("4.5", 4.5), ("18", 18.0), ("18.5", 4.0)])
def test_a_bill_above_a_jobs_time_limit_is_charged_as_far_as_it_is_plausible_and_flagged(
    runtime: Runtime, platform: Any, bill: str, charged: float
) -> None:
    set_limit(runtime.open(), "day", "qpu_s", 4.0)
    body = f'{{"usage": {{"status": "completed", "qpu_charge_time_seconds": {bill}}}}}'
    platform.change(faults=[{"route": "metrics", "kind": "answer", "times": 999, "body": body}])
    assert counts(ask(runtime)) == {"00": SHOTS}
    (batch,) = rows(runtime)
    assert (batch["max_qpu_s"], batch["billed_s"], bool(batch["flagged"])) == (4.0, charged, bill != "4")
    spent = spending(runtime.open())
    assert (spent.billed_s, spent.reserved_s) == (charged, 0)
    assert usage_of(runtime).qpu_s_billed == charged
    if bill == "4":
        assert list_unsettled(runtime.ledger) == []
        return
    (unsettled,) = list_unsettled(runtime.ledger)
    assert f"the service bills {bill} s" in unsettled["note"]
    runtime.open().settle(unsettled["tag"], float(bill))
    assert spending(runtime.open()).billed_s == float(bill) == usage_of(runtime).qpu_s_billed


def test_a_bill_that_never_comes_is_settled_by_a_person(runtime: Runtime, platform: Any) -> None:
    platform.change(bill_late=10_000)
    assert counts(ask(runtime)) == {"00": SHOTS}
    assert spending(runtime.open()).reserved_s > 0
    (unsettled,) = list_unsettled(runtime.ledger)
    runtime.open().settle(unsettled["tag"], 3.5)
    assert (spending(runtime.open()).reserved_s, spending(runtime.open()).billed_s) == (0, 3.5)
    assert usage_of(runtime).qpu_s_billed == 3.5


def test_a_bill_that_comes_after_the_result_is_in_the_calls_usage(runtime: Runtime, platform: Any) -> None:
    platform.change(bill_late=10_000)
    assert counts(ask(runtime)) == {"00": SHOTS}
    assert usage_of(runtime).qpu_s_billed == 0
    platform.change(bill_late=0)
    in_step(runtime, platform)
    assert usage_of(runtime).qpu_s_billed == pytest.approx(platform.facts["billed_s"])


def usage_of(runtime: Runtime) -> Any:
    job = ask(runtime)
    job.result()
    return job.usage


def test_a_senseless_result_ends_one_call_and_the_other_is_delivered(runtime: Runtime, platform: Any) -> None:
    platform.change(faults=[{"route": "results", "kind": "answer", "times": 3, "body": '{"data": 1}'}])
    with pytest.raises(BackendFailed, match=r"the result of job .* is none"):
        counts(ask(runtime))
    assert counts(ask(runtime, "b", flip=True)) == {"01": SHOTS}
    in_step(runtime, platform)
    with pytest.raises(BackendFailed, match="queue retry"):
        counts(ask(runtime))
    assert len(platform.jobs) == 2, "what was paid for is not paid again by itself"


class LeaderDied(BaseException):
    """The process ends here, and nothing of it catches that."""


def test_a_result_that_three_leaders_do_not_survive_is_parked_and_the_other_is_delivered(
    runtime: Runtime, platform: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadly = ask(runtime)
    read = IBMDevice.results
    fatal: list[str] = []

    def results(device: IBMDevice, job_id: str) -> Any:
        fatal[:] = fatal or [job_id]
        if job_id == fatal[0]:
            raise LeaderDied
        return read(device, job_id)

    monkeypatch.setattr(IBMDevice, "results", results)
    for _ in range(dispatcher.READ_TRIES):
        with pytest.raises(LeaderDied):
            runtime.drain()
    other = ask(runtime, "b", flip=True)
    runtime.drain()
    assert counts(other) == {"01": SHOTS}
    (parked,) = list_parked(runtime.ledger)
    assert "3 leaders ended while they read" in parked["reason"]
    with pytest.raises(BackendFailed, match="unknown outcome"):
        counts(deadly)
    assert len(platform.jobs) == 2, "nothing was sent again"
    (unsettled,) = list_unsettled(runtime.ledger)
    runtime.open().settle(unsettled["tag"], platform.jobs[0]["billed_s"])
    in_step(runtime, platform)


def test_a_state_that_makes_no_sense_parks_one_batch(
    runtime: Runtime, platform: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    body = json.dumps({"id": 5, "state": None})
    platform.change(faults=[{"route": "job", "kind": "answer", "times": dispatcher.BAD_ANSWERS, "body": body}])
    with suppress(BackendFailed):  # unless the leader finds the job again before the caller looks
        assert counts(ask(runtime)) == {"00": SHOTS}
    assert re.search(r"is parked: the state of job .* makes no sense", caplog.text)
    in_step(runtime, platform)
    assert counts(ask(runtime)) == {"00": SHOTS}, "the drain found its job again by its tag"


@pytest.mark.parametrize(("limit", "words"), [(0.55, "needed"), (3.9, "needed")])
def test_what_cannot_end_within_what_is_left_is_refused_before_it_leaves(
    runtime: Runtime, platform: Any, limit: float, words: str
) -> None:
    set_limit(runtime.open(), "day", "qpu_s", limit)  # 3.4 s are estimated, and a limit in whole seconds is 4 s
    with pytest.raises(BudgetExceeded, match=words):
        counts(ask(runtime))
    assert platform.jobs == []
    set_limit(runtime.open(), "day", "qpu_s", 4.0)
    assert counts(ask(runtime)) == {"00": SHOTS}
    assert [job["max_s"] for job in platform.jobs] == [4]
    assert [batch["max_qpu_s"] for batch in rows(runtime) if batch["job_id"]] == [4.0]


def test_a_drain_ends_although_nothing_sensible_is_said_of_a_parked_batch(runtime: Runtime, platform: Any) -> None:
    body = json.dumps({"id": 5, "state": None})
    platform.change(faults=[{"route": "job", "kind": "answer", "times": 999, "body": body}])
    with pytest.raises(BackendFailed, match="unknown outcome"):
        counts(ask(runtime))
    assert runtime.drain() == 0
    assert len(list_parked(runtime.ledger)) == 1
    platform.change(faults=[])
    in_step(runtime, platform)


def test_a_job_that_is_not_known_for_a_moment_is_not_given_up(runtime: Runtime, platform: Any) -> None:
    platform.change(running_polls=12, faults=[{"route": "job", "kind": "404", "times": 2, "skip": 6}])
    assert counts(ask(runtime)) == {"00": SHOTS}
    assert list_parked(runtime.ledger) == []
    in_step(runtime, platform)


def test_a_job_that_is_listed_and_not_known_is_not_sent_again(runtime: Runtime, platform: Any) -> None:
    faults = [{"route": "submit", "kind": "drop-after"}, {"route": "job", "kind": "404", "times": 999}]
    platform.change(faults=faults)
    with pytest.raises(BackendFailed, match="is listed, and the service does not know it"):
        counts(ask(runtime))
    assert len(platform.jobs) == 1
    platform.change(faults=[])
    in_step(runtime, platform)
    assert counts(ask(runtime)) == {"00": SHOTS}
    assert len(platform.jobs) == 1


@pytest.mark.parametrize(
    "fault",
    [
        {"route": "job", "kind": "429", "seconds": 86_400, "times": 2},
        {"route": "job", "kind": "503", "times": 2},
        {"route": "job", "kind": "slow", "seconds": 20, "times": 1},
    ],
    ids=lambda fault: fault["kind"],
)
def test_no_answer_holds_the_lane(
    runtime: Runtime, platform: Any, monkeypatch: pytest.MonkeyPatch, fault: dict[str, Any]
) -> None:
    monkeypatch.setattr("infra.runtime.backends.ibm.platform.ANSWER_S", 0.3)
    platform.change(faults=[fault])
    began = time.monotonic()
    assert counts(ask(runtime)) == {"00": SHOTS}
    assert time.monotonic() - began < 15


# Results that are not ours


def test_jobs_that_are_listed_without_tags_are_asked_for_them(runtime: Runtime, platform: Any, tmp_path: Path) -> None:
    elsewhere = Runtime(tmp_path / "other.db", "ibm:lagos", projection="fake_manila")
    assert counts(ask(elsewhere, flip=True)) == {"01": SHOTS}
    theirs = {"id": platform.jobs[0]["id"], "state": {"status": "Queued"}}
    page = json.dumps({"jobs": [theirs], "count": 10**9})
    faults = [{"route": "submit", "kind": "drop-after"}, {"route": "jobs", "kind": "answer", "times": 3, "body": page}]
    platform.change(faults=faults)
    assert counts(ask(runtime)) == {"00": SHOTS}
    assert len(platform.jobs) == 2
    assert attention(runtime.ledger)[0]["flagged"] == 0, "the other job was never taken for one of ours"


@pytest.mark.parametrize(
    ("reason", "never"),
    [
        (NewConnectionError(None, "refused"), True),
        (ConnectTimeoutError("too long"), True),
        (ProxyError("no proxy", NewConnectionError(None, "refused")), True),
        (ProxyError("ended", ConnectionResetError(104, "reset")), False),
        (SSLError("bad record mac"), False),
        (ProtocolError("Connection aborted."), False),
    ],
)
def test_only_what_made_no_connection_was_never_sent(reason: Exception, never: bool) -> None:
    assert _never_sent(NoConnection(MaxRetryError(None, "/jobs", reason))) is never


def test_another_jobs_id_in_the_answer_is_not_followed(runtime: Runtime, platform: Any) -> None:
    assert counts(ask(runtime, "a", flip=True)) == {"01": SHOTS}
    body = json.dumps({"id": platform.jobs[0]["id"], "backend": "ibm_lagos"})
    platform.change(faults=[{"route": "submit", "kind": "answer", "body": body}])
    assert counts(ask(runtime, "b")) == {"00": SHOTS}
    assert len(platform.jobs) == 2
    in_step(runtime, platform)


def test_a_person_cannot_name_another_batchs_job(runtime: Runtime, platform: Any) -> None:
    assert counts(ask(runtime, "a", flip=True)) == {"01": SHOTS}
    (first,) = rows(runtime)
    body = json.dumps({"id": 5, "state": None})
    platform.change(faults=[{"route": "job", "kind": "answer", "times": dispatcher.BAD_ANSWERS, "body": body}])
    with pytest.raises(BackendFailed, match="unknown outcome"):
        counts(ask(runtime, "b"))
    (parked,) = list_parked(runtime.ledger)
    with pytest.raises(BadInput, match=f"belongs to batch {first['tag']}"):
        runtime.open().resolve(parked["tag"], first["job_id"])


def test_a_job_that_bears_another_tag_is_not_followed(runtime: Runtime, platform: Any, tmp_path: Path) -> None:
    elsewhere = Runtime(tmp_path / "other.db", "ibm:lagos", projection="fake_manila")
    assert counts(ask(elsewhere, flip=True)) == {"01": SHOTS}
    body = json.dumps({"id": platform.jobs[0]["id"], "backend": "ibm_lagos"})
    platform.change(faults=[{"route": "submit", "kind": "answer", "body": body}])
    assert counts(ask(runtime, "b")) == {"00": SHOTS}


def test_another_jobs_result_is_not_handed_over(runtime: Runtime, platform: Any) -> None:
    assert counts(ask(runtime, "a", flip=True)) == {"01": SHOTS}
    platform.change(faults=[{"route": "results", "kind": "oldest", "times": 99}])
    with pytest.raises(BackendFailed, match="belongs to batch"):
        counts(ask(runtime, "b"))
    platform.change(faults=[])
    in_step(runtime, platform)


@pytest.mark.parametrize(("change", "words"), [("halved", "20 shots were asked"), ("renamed", "came back")])
def test_a_result_of_another_shape_fails_and_is_charged(
    runtime: Runtime, platform: Any, change: str, words: str
) -> None:
    platform.change(**{change: True})
    job = ask(runtime)
    with pytest.raises(BackendFailed, match=words):
        counts(job)
    assert show_call(runtime.ledger, job.job_id())["parts"][0]["result_bytes"] is None
    in_step(runtime, platform)


@pytest.mark.parametrize("kind", ["page", "truncate", "empty"])
def test_a_result_is_fetched_as_long_as_its_job_exists(runtime: Runtime, platform: Any, kind: str) -> None:
    platform.change(faults=[{"route": "results", "kind": kind, "times": 8}])
    assert counts(ask(runtime)) == {"00": SHOTS}
    assert len(platform.jobs) == 1
    in_step(runtime, platform)


def test_the_services_reason_reaches_the_caller_and_a_permanent_one_is_not_sent_again(
    runtime: Runtime, platform: Any
) -> None:
    platform.change(faults=[{"route": "create", "kind": "failed"}])
    with pytest.raises(BackendFailed, match="Internal error of the device"):
        counts(ask(runtime))
    platform.change(bill_factor=20.0)
    job = ask(runtime)
    with pytest.raises(BackendFailed, match=r"Ran too long \(code 1305\).*queue retry"):
        counts(job)
    with pytest.raises(BackendFailed, match="Ran too long"):
        counts(ask(runtime))
    assert len(platform.jobs) == 2
    platform.change(bill_factor=1.7)
    runtime.open().prepare_again(job.job_id())
    assert counts(ask(runtime)) == {"00": SHOTS}
    in_step(runtime, platform)


# Waiting for a person less often


def test_errors_for_a_while_park_nothing(runtime: Runtime, platform: Any) -> None:
    platform.change(
        faults=[{"route": "submit", "kind": "503", "times": 2}, {"route": "device", "kind": "503", "times": 9}]
    )
    assert counts(ask(runtime)) == {"00": SHOTS}
    assert list_parked(runtime.ledger) == []
    assert len(platform.jobs) == 1


def test_calls_wait_their_turn_where_the_plan_allows_few_jobs(runtime: Runtime, platform: Any) -> None:
    platform.change(pending_limit=1, queued_polls=40)
    first = ask(runtime, "a")
    thread = threading.Thread(target=first.result)
    thread.start()
    while not platform.jobs:
        time.sleep(0.02)
    assert counts(ask(runtime, "b", flip=True)) == {"01": SHOTS}
    thread.join()
    assert counts(first) == {"00": SHOTS}
    assert list_parked(runtime.ledger) == []
    assert len(platform.jobs) == 2
    in_step(runtime, platform)


def test_a_job_is_cancelled_although_nobody_leads(runtime: Runtime, platform: Any, tmp_path: Path) -> None:
    platform.change(queued_polls=100_000)
    job = runtime.sampler(Scope("r", "s", "t", "p", "a"), deadline=time.time() + 3)
    circuit = QuantumCircuit(1)
    circuit.measure_all()
    call = job.run([circuit], shots=SHOTS)
    with pytest.raises(Exception, match="at its deadline"):
        call.result()
    assert call.status() == SUBMITTED
    waiting = ask(runtime, "b")
    url = str(runtime.ledger) if "://" in str(runtime.ledger) else ""
    found = cancel_now(Settings(home=tmp_path, ledger_url=url), key=call.job_id())
    assert found == {"cancelled": 1, "remote": []}
    assert call.status() == CANCELLED
    assert [one["state"] for one in platform.jobs] == ["Cancelled"], "nothing was sent meanwhile"
    assert [one["key"] for one in list_open(runtime.ledger)] == [waiting.job_id()]
