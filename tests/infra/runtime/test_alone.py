"""A short call that waits alone is simulated by the thread that waits for it, with the same record as by a leader."""

import threading
import time
from typing import Any

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter

from infra.errors import BadInput, BudgetExceeded
from infra.runtime import jobs, queue
from infra.runtime.backends import registry as backends
from infra.runtime.figures.inspect import show_call
from infra.runtime.leader import Leader
from infra.runtime.ledger import lease as leases
from infra.runtime.ledger.lane import Lane
from infra.runtime.ledger.ledger import DONE, FAILED, PREPARED
from infra.runtime.limits import Limits
from infra.runtime.queue import Runtime, Scope, dispatched_usage


@pytest.fixture
def runtime(location):
    return Runtime(location)


@pytest.fixture
def threads(monkeypatch):
    """Note each leader that starts as a thread."""
    started, original = [], Leader.start

    def start(leader):
        started.append(leader.name)
        original(leader)

    monkeypatch.setattr(Leader, "start", start)
    return started


def scope(arm="a", run="r"):
    return Scope(run, "s", "t", "p", arm, seed=3)


def pubs(*angles):
    circuit = QuantumCircuit(2)
    circuit.ry(Parameter("a"), 0)
    circuit.cx(0, 1)
    circuit.measure_all()
    return [(circuit, [[angle], [angle + 0.5]]) for angle in angles]


def in_another_thread(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()), daemon=True)
    thread.start()
    return thread, found


def record(runtime, job):
    """What the ledger tells of a call, without times and identities."""
    shown = show_call(runtime.ledger, job.job_id())
    for name in ("key", "created", "updated", "run"):
        shown.pop(name)
    for each in shown["jobs"]:
        for name in ("tag", "job_id", "created", "updated", "sent", "fence"):
            each.pop(name, None)
    for part in shown["parts"]:
        part.pop("batch", None)
        part["facts"].pop("prepare_cpu_s", None)
        part["usage"] = {name: value for name, value in part["usage"].items() if not name.endswith(("cpu_s", "_s"))}
    return shown


def test_the_record_and_the_result_are_those_of_a_leader_in_a_thread(runtime, threads):
    alone = runtime.sampler(scope()).run(pubs(0.1, 0.7), shots=50)
    here = alone.result()
    assert threads == []
    led = runtime.sampler(scope(run="other"), deadline=time.time() + 60).run(pubs(0.1, 0.7), shots=50)
    there = led.result()
    assert len(threads) == 1
    assert [pub.data.meas.array.tolist() for pub in here] == [pub.data.meas.array.tolist() for pub in there]
    assert record(runtime, alone) == record(runtime, led)
    assert {name: value for name, value in vars(alone.usage).items() if not name.endswith("_s")} == {
        name: value for name, value in vars(led.usage).items() if not name.endswith("_s")
    }
    assert alone.usage.cpu_s > 0
    assert alone.prepare_cpu_s.keys() == led.prepare_cpu_s.keys()
    assert runtime.open().find(led.job_id())["state"] == DONE
    again = runtime.sampler(scope()).run(pubs(0.1, 0.7), shots=50)
    assert again.reused
    assert [pub.data.meas.array.tolist() for pub in again.result()] == [pub.data.meas.array.tolist() for pub in here]
    assert again.usage == alone.usage, "what was returned from memory is what was stored"


def test_the_lease_ends_with_the_result(runtime, monkeypatch):
    runtime.sampler(scope()).run(pubs(0.1), shots=5).result()
    monkeypatch.setattr(leases, "_identity", lambda _: ("another machine", 1, "1"))
    leases._RELEASED.clear()
    assert Lane.acquire(runtime.open(), "aer", 60) is not None


def test_a_call_is_left_to_a_thread_if_it_may_take_long_or_others_wait_or_are_out(runtime, threads, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(queue, "SHORT", 1.0)
        runtime.sampler(scope("long")).run(pubs(0.1), shots=5).result()
    assert len(threads) == 1
    waiting = runtime.sampler(scope("waits")).run(pubs(0.2), shots=5)
    runtime.sampler(scope("second")).run(pubs(0.3), shots=5).result()
    assert len(threads) == 2
    assert waiting.done()
    while Leader._leading:
        time.sleep(0.01)  # the thread lingers for other callers
    lost = runtime.sampler(scope("lost")).run(pubs(0.4), shots=5)
    lane = Lane.acquire(runtime.open(), "aer", 60)
    lane.claim("aer", backends.open_backend("aer").limits, sent=True)  # and its process ends
    lane.release()
    runtime.sampler(scope("next")).run(pubs(0.5), shots=5).result()
    assert len(threads) == 3
    assert lost.result()[0].data.meas.num_shots == 5
    assert runtime.open().find(lost.job_id())["attempt"] == 2


def test_a_call_that_another_one_answered_meanwhile_is_not_simulated_again(runtime, threads, monkeypatch):
    job = runtime.sampler(scope()).run(pubs(0.1), shots=5)
    runtime.drain()
    monkeypatch.setattr(jobs, "FRESH_S", 60.0)  # so that it is not looked up first
    assert job.result()[0].data.meas.num_shots == 5
    assert runtime.open().find(job.job_id())["attempt"] == 1
    assert len(show_call(runtime.ledger, job.job_id())["jobs"]) == 1


def test_a_lease_that_another_process_took_meanwhile_is_respected(runtime, threads, monkeypatch):
    runtime.sampler(scope("first")).run(pubs(0.1), shots=5).result()
    with monkeypatch.context() as patch:
        patch.setattr(leases, "_identity", lambda _: ("another machine", 1, "1"))
        other = Lane.acquire(runtime.open(), "aer", 60)
    leases._RELEASED[runtime.open().database.url, "aer"] = other.fence - 1  # as this process remembers it
    job = runtime.sampler(scope("second")).run(pubs(0.2), shots=5)
    thread, found = in_another_thread(job.result)
    thread.join(0.3)
    assert not found
    assert job.status() == PREPARED
    other.release()
    thread.join(20)
    assert found[0][0].data.meas.num_shots == 5
    assert threads == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_simulation_leaves_the_lane_free_and_its_call_to_the_next(runtime, monkeypatch, error):
    backend: Any = backends.open_backend("aer")

    def interrupted(_):
        raise error

    job = runtime.sampler(scope()).run(pubs(0.1), shots=5)
    with monkeypatch.context() as patch:
        patch.setattr(backend, "results", interrupted)
        with pytest.raises(error):
            job.result()
    backend._jobs.clear()  # as the backend does before it simulates
    began = time.monotonic()
    again = runtime.sampler(scope()).run(pubs(0.1), shots=5)
    assert again.result()[0].data.meas.num_shots == 5
    assert time.monotonic() - began < 10
    assert runtime.open().find(job.job_id())["attempt"] == 2


def test_a_circuit_that_fails_is_told_to_its_caller(runtime, threads):
    from qiskit.circuit import Gate

    broken = QuantumCircuit(1)
    broken.append(Gate("mystery", 1, []), [0])
    broken.measure_all()
    job = runtime.sampler(scope()).run([*pubs(0.1), broken], shots=5)
    with pytest.raises(BadInput, match="mystery"):
        job.result()
    assert job.status() == FAILED
    assert threads == []
    assert runtime.sampler(scope("next")).run(pubs(0.1), shots=5).result()[0].data.meas.num_shots == 5


def test_a_call_of_several_batches_and_one_without_pubs(runtime, threads, monkeypatch):
    monkeypatch.setattr(backends.open_backend("aer"), "limits", Limits(parts=2, sets=1))
    job = runtime.sampler(scope()).run(pubs(0.1, 0.7, 1.3), shots=20)
    assert [pub.data.meas.shape for pub in job.result()] == [(2,), (2,), (2,)]
    assert len(show_call(runtime.ledger, job.job_id())["jobs"]) == 3
    assert threads == []
    assert len(runtime.sampler(scope("empty")).run([], shots=20).result()) == 0


def test_time_that_the_waiting_thread_leads_is_counted_as_the_queues(runtime, monkeypatch):
    backend: Any = backends.open_backend("aer")
    original = backend._execute

    def slow(task):
        time.sleep(0.3)
        return original(task)

    monkeypatch.setattr(backend, "_execute", slow)
    before = dispatched_usage()
    runtime.sampler(scope()).run(pubs(0.1), shots=5).result()
    spent = dispatched_usage() - before
    assert 0.3 < spent.wall_s < 3
    assert 0 < spent.cpu_s < spent.wall_s
    assert spent.rss_gb_s > 0


def test_a_run_that_goes_on_recording_finds_what_was_recorded_before(location):
    first = Runtime(location)
    counts = first.sampler(scope("a")).run(pubs(0.1), shots=20).result()[0].data.meas.array.tolist()
    assert first.open().expects_new("r")
    again = first.sampler(scope("a")).run(pubs(0.1), shots=20)
    assert again.reused
    assert again.result()[0].data.meas.array.tolist() == counts
    assert not first.open().expects_new("r"), "so the next one is looked up"
    assert not first.sampler(scope("b")).run(pubs(0.1), shots=20).reused


def test_a_recorded_call_is_answered_although_it_would_be_refused_now(location, monkeypatch):
    runtime = Runtime(location, simulation_limit_s=1.0)
    backend: Any = backends.open_backend("aer")
    runtime.sampler(scope("a")).run(pubs(0.1), shots=20).result()
    assert runtime.open().expects_new("r")
    monkeypatch.setattr(backend, "expected_cpu_s", lambda *_: 100.0)
    assert runtime.sampler(scope("a")).run(pubs(0.1), shots=20).reused
    with pytest.raises(BudgetExceeded):
        runtime.sampler(scope("b")).run(pubs(0.1), shots=20)


def test_threads_of_one_process_get_their_own_results_side_by_side(runtime):
    found = {}

    def work(arm):
        sampler = runtime.sampler(scope(arm))
        found[arm] = [sampler.run(pubs(0.1 * k), shots=40).result()[0].data.meas.array.tolist() for k in range(6)]

    workers = [threading.Thread(target=work, args=(f"arm{k}",)) for k in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    alone = Runtime(runtime.ledger)
    for arm, arrays in found.items():
        sampler = alone.sampler(scope(arm, run="later"))
        expected = [sampler.run(pubs(0.1 * k), shots=40).result()[0].data.meas.array.tolist() for k in range(6)]
        np.testing.assert_array_equal(arrays, expected)
    assert len(found) == 4
