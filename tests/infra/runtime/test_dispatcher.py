"""A queue on the other side of a network, played by a double: the contract that hardware will fill.

The double's server outlives its clients: what was submitted there runs, whether the answer arrived or not.
"""

import math
import time

import numpy as np
import pytest
from qiskit import QuantumCircuit

from infra.errors import BackendFailed, StillQueued, SubmissionUnclear
from infra.runtime.backends import registry as backends
from infra.runtime.backends.contract import JobState, Status, nothing_left
from infra.runtime.dispatcher import RESENDS
from infra.runtime.figures.inspect import list_parked, show_call
from infra.runtime.ledger import lease as leases
from infra.runtime.ledger.lane import Lane
from infra.runtime.ledger.ledger import DONE, SUBMITTED
from infra.runtime.limits import Limits
from infra.runtime.queue import Runtime, Scope


class RemoteDouble:
    """Jobs that wait for some polls, then run on Aer; may lose the answer to a submit."""

    local = False
    priced = False
    listing_delay_s = 0.0
    finds, usd_per_s = True, None
    linger_s = poll_s = 0.001
    calibration = "double"

    def __init__(self, name="double", limits=None):
        self.name, self.limits = name, limits or Limits(executions=1000)
        self.jobs, self.cancelled, self.polls, self.lose = {}, [], 3, None

    def effective(self, options):
        return dict(options)

    def expected_cpu_s(self, circuit, circuits, shots):
        return 0.0

    def estimate_qpu_s(self, circuit, digest, executions):
        return 0.0

    def billed(self, job_id):
        return 0.0

    def submit(self, tag, tasks, *, max_qpu_s=None, leaving=nothing_left):
        leaving()
        if self.lose in ("request", "first request"):
            self.lose = None if self.lose == "first request" else self.lose
            raise SubmissionUnclear("the request never arrived")
        job_id = f"job{len(self.jobs)}"
        self.jobs[job_id] = {"tag": tag, "tasks": tasks, "polls": self.polls}
        if self.lose == "answer":
            raise SubmissionUnclear("the answer was lost")
        return job_id

    def status(self, job_id):
        if job_id not in self.jobs:
            return Status(JobState.LOST)
        job = self.jobs[job_id]
        if job_id in self.cancelled:
            return Status(JobState.CANCELLED)
        job["polls"] -= 1
        return Status(JobState.DONE if job["polls"] < 0 else JobState.QUEUED if job["polls"] else JobState.RUNNING)

    def results(self, job_id):
        aer = backends.open_backend("aer")
        yield from aer.results(aer.submit(job_id, self.jobs[job_id]["tasks"]))

    def cancel(self, job_id):
        self.cancelled.append(job_id)

    def find(self, tag):
        return tuple(job_id for job_id, job in self.jobs.items() if job["tag"] == tag)


@pytest.fixture
def server(monkeypatch):
    double = RemoteDouble()
    monkeypatch.setitem(backends.FACTORIES, "double", lambda _: double)
    monkeypatch.setattr(backends, "_open", {})
    return double


@pytest.fixture
def runtime(location, server):
    return Runtime(location, "double")


def scope(arm="a"):
    return Scope("r", "s", "t", "p", arm)


def coin():
    circuit = QuantumCircuit(1)
    circuit.h(0)
    circuit.measure_all()
    return circuit


def die_while_sending(runtime, server, monkeypatch, copies):
    """Be a leader on another machine that dies after the request left, before its answer was written down."""
    with monkeypatch.context() as patch:
        patch.setattr(leases, "_identity", lambda _: ("another machine", 1, "1"))
        lane = Lane.acquire(runtime.open(), "double", 0.0)
        batch, *_ = lane.claim("double", server.limits)
        lane.leaving(batch.tag)
    from infra.runtime.parcels import CIRCUIT_CACHE, task_of

    circuits = CIRCUIT_CACHE.get(runtime.open(), {item.part.circuit for item in batch.items})
    for _ in range(copies):
        server.submit(batch.tag, [task_of(item, circuits[item.part.circuit]) for item in batch.items])
    with runtime.open().database.write() as connection:
        connection.exec_driver_sql("update leases set expires = 0")


def test_a_remote_job_is_polled_and_fetched(runtime, server):
    job = runtime.sampler(scope()).run([coin()], shots=100)
    assert job.result()[0].data.meas.num_shots == 100
    assert show_call(runtime.ledger, job.job_id())["jobs"][0]["job_id"] == "job0"


def test_the_limits_of_a_job_split_a_call(runtime, server):
    job = runtime.sampler(scope()).run([coin()] * 5, shots=400)
    assert [pub.data.meas.num_shots for pub in job.result()] == [400] * 5
    assert [len(job["tasks"]) for job in server.jobs.values()] == [2, 2, 1]


def test_a_deadline_passes_while_the_job_is_out_and_its_result_is_there_later(runtime, server):
    server.polls = 1500
    sampler = runtime.sampler(scope(), deadline=time.time() + 1.0)
    job = sampler.run([coin()], shots=10)
    with pytest.raises(StillQueued, match="SUBMITTED at its deadline"):
        job.result()
    assert job.status() == SUBMITTED
    again = runtime.sampler(scope()).run([coin()], shots=10)
    assert again.result()[0].data.meas.num_shots == 10
    assert len(server.jobs) == 1


def test_an_answer_that_was_lost_does_not_send_twice(runtime, server):
    server.lose = "answer"
    job = runtime.sampler(scope()).run([coin()], shots=10)
    assert job.result()[0].data.meas.num_shots == 10
    assert len(server.jobs) == 1


@pytest.mark.parametrize("copies", [1, 2])
def test_a_job_whose_leader_died_while_sending_is_found_by_its_tag(runtime, server, monkeypatch, copies):
    job = runtime.sampler(scope()).run([coin()], shots=10)
    die_while_sending(runtime, server, monkeypatch, copies)
    assert job.result()[0].data.meas.num_shots == 10
    assert len(server.jobs) == copies, "nothing was sent again"
    assert server.cancelled == [f"job{i}" for i in range(1, copies)], "one intent, one job"
    assert job.status() == DONE


def test_jobs_that_a_dead_leader_had_not_come_to_are_sent_and_the_one_that_it_sent_is_not(runtime, server, monkeypatch):
    server.listing_delay_s = 3600.0
    job = runtime.sampler(scope()).run([coin()] * 5, shots=400)
    die_while_sending(runtime, server, monkeypatch, 1)
    assert [pub.data.meas.num_shots for pub in job.result()] == [400] * 5
    assert [len(job["tasks"]) for job in server.jobs.values()] == [2, 2, 1]
    assert len({job["tag"] for job in server.jobs.values()}) == 3


def test_results_stored_before_the_leader_died_are_kept_and_the_others_find_their_place(runtime, server, monkeypatch):
    circuits = []
    for bits in range(3):
        circuit = QuantumCircuit(2)
        for qubit in range(2):
            circuit.rx(np.pi * (bits >> qubit & 1), qubit)
        circuit.measure_all()
        circuits.append(circuit)
    job = runtime.sampler(scope()).run(circuits, shots=10)
    original = server.results

    def fails_once(job_id):
        outcomes = list(original(job_id))
        yield outcomes[1]
        time.sleep(0.01)
        monkeypatch.setattr(server, "results", original)
        raise ConnectionError("the line went dead")

    monkeypatch.setattr(server, "results", fails_once)
    monkeypatch.setattr("infra.runtime.dispatcher.FLUSH_S", 0.0)
    assert [pub.data.meas.get_counts() for pub in job.result()] == [{"00": 10}, {"01": 10}, {"10": 10}]
    assert len(server.jobs) == 1


def test_a_batch_that_fails_in_whatever_way_is_parked_and_does_not_stop_the_others(runtime, server, monkeypatch):
    server.limits = Limits(parts=1)
    bad, good = (runtime.sampler(scope(arm)).run([coin()], shots=10) for arm in "ab")
    original = server.results

    def results(job_id):
        if job_id == "job0":
            raise AttributeError("'NoneType' object has no attribute 'get'")
        yield from original(job_id)

    monkeypatch.setattr(server, "results", results)
    assert good.result()[0].data.meas.num_shots == 10
    with pytest.raises(BackendFailed, match=r"unknown outcome.*AttributeError"):
        bad.result()
    monkeypatch.setattr(server, "results", original)
    (parked,) = list_parked(runtime.ledger)
    runtime.open().resolve(parked["tag"], "job0")
    assert bad.result()[0].data.meas.num_shots == 10
    assert len(server.jobs) == 2


def test_a_request_that_never_arrived_is_sent_again_by_itself_after_twice_the_listing_delay(runtime, server):
    server.listing_delay_s, server.lose = 0.1, "first request"
    began = time.monotonic()
    job = runtime.sampler(scope()).run([coin()], shots=10)
    assert job.result()[0].data.meas.num_shots == 10
    assert time.monotonic() - began > 0.2
    assert len(server.jobs) == 1


def test_a_request_that_may_have_left_is_left_to_a_person_where_that_is_asked_for(location, server):
    runtime = Runtime(location, "double", resend_after_s=math.inf)
    server.lose = "request"
    job = runtime.sampler(scope()).run([coin()], shots=10)
    with pytest.raises(BackendFailed, match="unknown outcome"):
        job.result()
    server.lose = None
    again = runtime.sampler(scope()).run([coin()], shots=10)
    with pytest.raises(BackendFailed, match="unknown outcome"):
        again.result()
    assert server.jobs == {}, "it is not sent again by itself"


def test_a_call_of_which_no_job_is_ever_listed_is_not_sent_for_ever(runtime, server):
    server.lose = "request"
    job = runtime.sampler(scope()).run([coin()], shots=10)
    with pytest.raises(BackendFailed, match="no job is listed"):
        job.result()
    assert runtime.open().find(job.job_id())["attempt"] == RESENDS
