import pickle
import threading
import time

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.primitives import StatevectorEstimator, StatevectorSampler
from qiskit.quantum_info import SparsePauliOp, Statevector

from infra.energy.usage import Usage
from infra.errors import BackendFailed, BadInput, ConcurrentCall, ReplayDiverged, RuntimeQueueError, StillQueued
from infra.runtime.figures.inspect import list_calls, show_call
from infra.runtime.ledger.lane import Lane
from infra.runtime.ledger.ledger import CANCELLED, DONE, PREPARED
from infra.runtime.queue import Runtime, Scope, dispatched_usage


@pytest.fixture
def runtime(location):
    return Runtime(location)


def scope(arm="qaoa", run="run1", seed=7, **rest):
    return Scope(run, "inference", "pruning", "problem", arm, seed=seed, **rest)


def rotation(n=2):
    circuit = QuantumCircuit(n)
    angle = Parameter("a")
    circuit.ry(angle, 0)
    for qubit in range(n - 1):
        circuit.cx(qubit, qubit + 1)
    circuit.measure_all()
    return circuit


def loop(sampler, steps=4, shots=64):
    """A variational loop: each angle follows from the counts before it."""
    angle, trace = 0.4, []
    for _ in range(steps):
        data = sampler.run([(rotation(), [[angle], [angle + 0.5]])], shots=shots).result()[0].data.meas
        ones = data.bitcount().mean(axis=-1) / 2
        trace.append(ones.tolist())
        angle += float(ones[1] - ones[0]) + 0.1
    return trace


def test_an_algorithm_gives_the_same_distribution_on_a_statevector_and_through_the_queue(runtime):
    circuit = QuantumCircuit(4)
    circuit.h(range(4))
    gamma, beta = Parameter("gamma"), Parameter("beta")
    for left, right, weight in ((0, 1, 1.0), (1, 2, -0.7), (2, 3, 0.4), (0, 3, 0.9)):
        circuit.rzz(2 * weight * gamma, left, right)
    circuit.rx(-2 * beta, range(4))
    expected = Statevector(circuit.assign_parameters({gamma: 0.6, beta: 0.4})).probabilities()
    circuit.measure_all()
    shots = 20_000
    for sampler in (StatevectorSampler(seed=1), runtime.sampler(scope())):
        data = sampler.run([(circuit, {("gamma", "beta"): [0.6, 0.4]})], shots=shots).result()[0].data.meas
        counts = np.bincount(data.array[:, 0], minlength=16)
        pearson = ((counts - shots * expected) ** 2 / (shots * expected)).sum()
        assert pearson < 37.7  # the 0.1 % point of chi-squared with 15 degrees of freedom


def test_results_have_the_shape_of_their_pub(runtime):
    circuit = rotation()
    values = np.linspace(0, np.pi, 6).reshape(2, 3, 1)
    named = QuantumCircuit(1)
    named.x(0)
    named.measure_all(add_bits=True)
    named.metadata = {"note": "kept"}
    result = runtime.sampler(scope()).run([(circuit, values, 50), named], shots=20).result()
    first, second = result
    assert first.data.meas.shape == (2, 3)
    assert first.data.meas.num_shots == 50
    np.testing.assert_allclose(first.data.meas.bitcount().mean(-1)[[0, 1], [0, 2]], [0, 2], atol=1e-12)
    assert second.data.meas.shape == ()
    assert second.data.meas.get_counts() == {"1": 20}
    assert second.metadata["circuit_metadata"] == {"note": "kept"}
    assert second.metadata["shots"] == 20


def test_finished_calls_are_answered_from_the_ledger_with_their_original_usage(runtime):
    first = runtime.sampler(scope())
    trace = loop(first)
    assert not first.reused
    again = runtime.sampler(scope())
    assert loop(again) == trace
    assert again.reused
    assert again.usage == first.usage
    assert again.usage.circuits == 8
    assert len(list_calls(runtime.ledger)) == 4


def test_a_loop_goes_on_where_it_was_stopped(runtime, tmp_path):
    started = runtime.sampler(scope())
    loop(started, steps=2)
    resumed = runtime.sampler(scope())
    whole = loop(resumed, steps=4)
    elsewhere = Runtime(tmp_path / "other.db")
    assert loop(elsewhere.sampler(scope())) == whole
    assert len(list_calls(runtime.ledger)) == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda s, c: s.run([(c, [[0.4001]])], shots=10),
        lambda s, c: s.run([(c, [[0.4]])], shots=11),
        lambda s, c: s.run([(rotation(3), [[0.4]])], shots=10),
        lambda s, c: s.run([(c, [[0.4]]), (c, [[0.4]])], shots=10),
        lambda s, c: s.run([(c, [0.4])], shots=10),
    ],
)
def test_a_replay_that_asks_something_else_never_gets_the_old_counts(runtime, change):
    circuit = rotation()
    runtime.sampler(scope()).run([(circuit, [[0.4]])], shots=10).result()
    with pytest.raises(ReplayDiverged, match="start a new run"):
        change(runtime.sampler(scope()), circuit)


def test_a_replay_with_another_seed_backend_or_options_diverges(runtime):
    circuit = rotation()
    runtime.sampler(scope()).run([(circuit, [[0.4]])], shots=10).result()
    with pytest.raises(ReplayDiverged):
        runtime.sampler(scope(seed=8)).run([(circuit, [[0.4]])], shots=10)
    for other in (Runtime(runtime.ledger, "noisy:manila"), Runtime(runtime.ledger, options={"twirling": True})):
        with pytest.raises(ReplayDiverged):
            other.sampler(scope()).run([(circuit, [[0.4]])], shots=10)


def test_the_circuit_may_change_after_the_call(runtime):
    circuit = QuantumCircuit(1)
    circuit.measure_all()
    job = runtime.sampler(scope()).run([circuit], shots=5)
    circuit.clear()
    circuit.x(0)
    circuit.measure_all()
    assert job.result()[0].data.meas.get_counts() == {"0": 5}


def test_counts_depend_on_seed_and_scope_but_not_on_the_run(runtime):
    def counts(**changes):
        return loop(runtime.sampler(scope(**changes)))

    base = counts()
    assert counts(run="run2") == base
    assert counts(run="run3", seed=8) != base
    assert counts(run="run4", arm="other") != base
    assert counts(run="run5", repetition=1) != base


def test_pubs_and_calls_of_one_sampler_are_independent(runtime):
    circuit = rotation()
    sampler = runtime.sampler(scope())
    twin = [(circuit, [np.pi / 2])] * 2
    results = [pub.data.meas.array.tolist() for _ in range(2) for pub in sampler.run(twin, shots=64).result()]
    assert len({str(result) for result in results}) == 4


def test_one_caller_or_eight_get_the_same_counts(tmp_path):
    alone = Runtime(tmp_path / "alone.db")
    expected = {arm: loop(alone.sampler(scope(f"arm{arm}"))) for arm in range(8)}
    shared = Runtime(tmp_path / "shared.db", linger_s=0.02)
    found = {}

    def work(arm):
        found[arm] = loop(shared.sampler(scope(f"arm{arm}")))

    threads = [threading.Thread(target=work, args=(arm,)) for arm in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == expected
    jobs = {job["tag"] for row in list_calls(shared.ledger) for job in show_call(shared.ledger, row["key"])["jobs"]}
    assert len(jobs) < 32, "32 calls of 8 callers share jobs"


def test_two_threads_on_one_sampler_are_refused(runtime):
    sampler = runtime.sampler(scope())
    circuit = rotation()
    job = sampler.run([(circuit, [0.1])], shots=5)
    errors = []

    def other():
        try:
            sampler.run([(circuit, [0.2])], shots=5)
        except ConcurrentCall as error:
            errors.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert len(errors) == 1
    job.result()
    assert sampler.run([(circuit, [0.2])], shots=5).result()[0].data.meas.num_shots == 5
    thread = threading.Thread(target=other)  # nothing is open any more: handing on is no concurrency
    thread.start()
    thread.join()
    assert len(errors) == 1


def test_calls_of_one_job_are_fetched_in_any_order(runtime):
    sampler = runtime.sampler(scope())
    jobs = [sampler.run([(rotation(), [angle])], shots=32) for angle in (0.0, np.pi)]
    assert [job.status() for job in jobs] == [PREPARED, PREPARED]
    assert jobs[1].result()[0].data.meas.get_counts() == {"11": 32}
    assert jobs[0].done()
    assert jobs[0].result()[0].data.meas.get_counts() == {"00": 32}
    assert sampler.usage.jobs == pytest.approx(1.0)


def test_a_deadline_leaves_the_call_in_the_ledger(runtime):
    lane = Lane.acquire(runtime.open(), "aer", 60)  # somebody leads and does nothing
    sampler = runtime.sampler(scope(), deadline=time.time() + 0.2)
    job = sampler.run([(rotation(), [0.3])], shots=20)
    with pytest.raises(StillQueued, match="stays in the ledger"):
        job.result()
    assert job.status() == PREPARED
    assert sampler.usage == Usage()
    lane.release()
    assert runtime.drain() == 1
    assert job.status() == DONE
    again = runtime.sampler(scope(), deadline=time.time() - 1)
    again.run([(rotation(), [0.3])], shots=20).result()
    assert again.reused


def test_a_waiting_call_can_be_cancelled(runtime):
    job = runtime.sampler(scope()).run([(rotation(), [0.3])], shots=20)
    assert job.cancel()
    assert job.cancelled()
    assert job.in_final_state()
    with pytest.raises(RuntimeQueueError, match="cancelled"):
        job.result()
    assert runtime.drain() == 0
    assert runtime.open().state(job.job_id())[0] == CANCELLED
    again = runtime.sampler(scope()).run([(rotation(), [0.3])], shots=20)
    assert again.result()[0].data.meas.num_shots == 20, "asked again, it gets another attempt"
    assert not again.cancel()


def test_one_callers_broken_circuit_does_not_touch_the_others(runtime):
    from qiskit.circuit import Gate

    broken = QuantumCircuit(1)
    broken.append(Gate("mystery", 1, []), [0])
    broken.measure_all()
    bad = runtime.sampler(scope("bad")).run([broken], shots=5)
    good = runtime.sampler(scope("good")).run([(rotation(), [0.1])], shots=5)
    assert good.result()[0].data.meas.num_shots == 5
    with pytest.raises(BadInput, match="mystery"):
        bad.result()


def test_an_error_of_the_simulator_is_a_backend_failure(runtime):
    huge = QuantumCircuit(60)
    huge.h(range(60))
    for qubit in range(59):
        huge.cx(qubit, qubit + 1)
    huge.rx(0.3, range(60))
    huge.measure_all()
    with pytest.raises(BackendFailed, match="pruning/qaoa on aer failed"):
        runtime.sampler(scope()).run([huge], shots=5).result()


def test_what_cannot_be_sampled_is_refused_before_it_is_written(runtime):
    with pytest.raises(BadInput, match="add measurements"):
        runtime.sampler(scope()).run([QuantumCircuit(1)])
    with pytest.raises(ValueError, match="shots must be positive"):
        runtime.sampler(scope()).run([(rotation(), [0.1], 0)])
    with pytest.raises(ValueError, match="precision"):
        runtime.estimator(scope()).run([(QuantumCircuit(1), "Z")], precision=-0.1)
    runtime.open()
    assert list_calls(runtime.ledger) == []


def test_a_large_pub_travels_in_parts_and_comes_back_whole(runtime):
    values = np.linspace(0, 2 * np.pi, 2500)[:, None]
    sampler = runtime.sampler(scope())
    job = sampler.run([(rotation(1), values)], shots=40)
    ones = job.result()[0].data.meas.bitcount().mean(axis=-1)
    assert np.sqrt(np.mean((ones - np.sin(values[:, 0] / 2) ** 2) ** 2)) < 0.08  # shot noise: 0.056
    assert len(show_call(runtime.ledger, job.job_id())["parts"]) == 3
    assert sampler.usage.circuits == 2500
    assert sampler.usage.shots == 100_000
    assert sampler.usage.jobs == pytest.approx(1.0)


def test_reuse_across_runs_is_asked_for_and_for_aer_only(tmp_path):
    plain, reusing = Runtime(tmp_path / "l.db"), Runtime(tmp_path / "l.db", reuse=True)
    first = plain.sampler(scope(run="run1"))
    trace = loop(first)
    fresh = plain.sampler(scope(run="run2"))
    assert loop(fresh) == trace
    assert not fresh.reused
    reused = reusing.sampler(scope(run="run3"))
    assert loop(reused) == trace
    assert reused.reused
    assert reused.usage == first.usage
    other = reusing.sampler(scope(run="run4", seed=9))
    loop(other)
    assert not other.reused
    with pytest.raises(BadInput, match="aer only"):
        Runtime(tmp_path / "l.db", "noisy:manila", reuse=True)


def test_expectation_values_are_exact_unless_a_precision_is_set(runtime):
    circuit = QuantumCircuit(2)
    a, b = Parameter("a"), Parameter("b")
    circuit.ry(a, 0)
    circuit.cx(0, 1)
    circuit.rx(b, 1)
    values = np.random.default_rng(0).uniform(-1, 1, (3, 1, 2))
    observables = [["ZI", "XX", SparsePauliOp(["ZZ", "YX"], [1.0, 0.5])]]
    pub = (circuit, observables, values)
    exact = StatevectorEstimator().run([pub]).result()[0].data.evs
    estimator = runtime.estimator(scope())
    data = estimator.run([pub]).result()[0]
    np.testing.assert_allclose(data.data.evs, exact, atol=1e-12)
    np.testing.assert_array_equal(data.data.stds, np.zeros((3, 3)))
    assert data.metadata["exact"] is True
    assert estimator.usage.circuits == 3, "a parameter set runs once for all its observables"
    assert estimator.usage.shots == 0
    assert estimator.usage.qpu_s_projected == 0.0


def test_a_precision_is_met_and_projected(runtime):
    circuit = QuantumCircuit(1)
    circuit.ry(Parameter("a"), 0)
    values = np.full((400, 1), 0.8)
    estimator = runtime.estimator(scope())
    data = estimator.run([(circuit, "Z", values)], precision=0.05).result()[0]
    errors = data.data.evs - np.cos(0.8)
    assert abs(errors.mean()) < 4 * 0.05 / 20
    assert errors.std() == pytest.approx(0.05, rel=0.15)
    assert data.metadata["target_precision"] == 0.05
    assert estimator.usage.shots == 400 * 400
    assert estimator.usage.qpu_s_projected > 2 + 400 * 400 * 250e-6
    again = runtime.estimator(scope()).run([(circuit, "Z", values)], precision=0.05).result()[0]
    np.testing.assert_array_equal(again.data.evs, data.data.evs)


def test_the_estimator_of_a_noisy_device_needs_a_precision(tmp_path):
    noisy = Runtime(tmp_path / "l.db", "noisy:manila")
    circuit = QuantumCircuit(1)
    circuit.x(0)
    with pytest.raises(BadInput, match="precision above 0"):
        noisy.estimator(scope()).run([(circuit, "Z")]).result()
    ev = noisy.estimator(scope("other")).run([(circuit, "Z")], precision=0.02).result()[0].data.evs
    assert -1.0 < float(ev) < -0.85


def test_options_without_effect_are_recorded_as_such(tmp_path):
    options = {"dynamical_decoupling": {"enable": True}, "optimization_level": 1}
    noisy = Runtime(tmp_path / "l.db", "noisy:manila", options=options)
    job = noisy.sampler(scope()).run([(rotation(), [0.3])], shots=5)
    job.result()
    stored = show_call(tmp_path / "l.db", job.job_id())["options"]
    assert stored == {
        "effective": {"optimization_level": 1},
        "not_effective": {"dynamical_decoupling": {"enable": True}},
    }
    assert job.result().metadata["options"] == stored


def test_callers_in_one_job_get_their_own_books_and_the_leader_none_of_theirs(tmp_path):
    runtime = Runtime(tmp_path / "l.db", linger_s=0.3)
    samplers = {arm: runtime.sampler(scope(arm)) for arm in ("small", "large")}
    sizes = {"small": 10, "large": 400}

    def work(arm):
        samplers[arm].run([(rotation(6), np.linspace(0, 1, sizes[arm])[:, None])], shots=50).result()

    cpu, spent = time.process_time(), dispatched_usage()
    threads = [threading.Thread(target=work, args=(arm,)) for arm in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    own = time.process_time() - cpu - (dispatched_usage() - spent).cpu_s
    small, large = samplers["small"].usage, samplers["large"].usage
    assert (small.circuits, large.circuits) == (10, 400)
    assert (small.shots, large.shots) == (500, 20_000)
    assert small.jobs == large.jobs == 0.5
    assert 0 < small.cpu_s < large.cpu_s
    assert small.simulation_cpu_s == small.cpu_s
    assert large.two_qubit_gates == 400 * 5
    assert (dispatched_usage() - spent).cpu_s > small.cpu_s + large.cpu_s
    assert own < 0.1, "thread start and nothing else"


def test_own_work_is_told_from_dispatching(runtime):
    def burn(seconds):
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            np.linalg.norm(np.ones(1000))

    runtime.sampler(scope("warm")).run([(rotation(8), [[0.1]])], shots=5).result()
    sampler = runtime.sampler(scope())
    cpu, spent = time.process_time(), dispatched_usage()
    burn(0.2)
    sampler.run([(rotation(8), np.linspace(0, 1, 500)[:, None])], shots=100).result()
    burn(0.2)
    increase, dispatched = time.process_time() - cpu, (dispatched_usage() - spent).cpu_s
    own = increase - dispatched + sampler.usage.cpu_s
    assert sampler.usage.cpu_s > 0.01
    assert own == pytest.approx(0.4 + sampler.usage.cpu_s, abs=0.06)


def test_compiling_for_the_projection_is_booked_to_the_queue(runtime):
    rng = np.random.default_rng(0)
    circuits = []
    for _ in range(8):
        circuit = QuantumCircuit(10)
        for left in range(10):
            for right in range(left):
                circuit.rzz(float(rng.normal()), left, right)
            circuit.rx(0.3, left)
        circuit.measure_all()
        circuits.append(circuit)
    runtime.sampler(scope("warm")).run([(rotation(10), [[0.1]])], shots=5).result()
    cpu, spent = time.process_time(), dispatched_usage()
    sampler = runtime.sampler(scope())
    sampler.run(circuits, shots=20).result()
    increase, dispatched = time.process_time() - cpu, (dispatched_usage() - spent).cpu_s
    assert sampler.usage.two_qubit_gates >= 8 * 2 * 45
    assert dispatched > 0.95 * increase, "the transpiler keeps to the thread that is metered"


def test_a_runtime_travels_to_other_processes(runtime):
    runtime.sampler(scope()).run([(rotation(), [0.1])], shots=5).result()
    assert pickle.loads(pickle.dumps(runtime)) == runtime  # noqa: S301
    assert runtime.calibration.startswith("aer-")


def test_default_shots_and_empty_calls(tmp_path):
    runtime = Runtime("nested/ledger.db", home=tmp_path, default_shots=17)
    sampler = runtime.sampler(scope())
    assert sampler.run([(rotation(), [0.1])]).result()[0].data.meas.num_shots == 17
    assert (tmp_path / "nested" / "ledger.db").exists()
    assert len(sampler.run([]).result()) == 0
