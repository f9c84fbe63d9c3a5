from typing import cast

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.primitives import StatevectorEstimator
from qiskit_aer import AerSimulator

from infra.errors import BadInput, BudgetExceeded
from infra.runtime.backends.aer import Clock
from infra.runtime.backends.contract import Task
from infra.runtime.backends.noisy import NoisySimulator, choose_region, cut_target
from infra.runtime.backends.registry import canonical_name, open_backend
from infra.runtime.backends.snapshots import fake_device
from infra.runtime.circuits.payload import circuit_digest
from infra.runtime.figures.inspect import list_calls
from infra.runtime.queue import Runtime, Scope

MANILA = cast("NoisySimulator", open_backend("noisy:fake_manila"))


def task(circuit, shots=4000, seed=3, sets=None, **rest):
    table = np.zeros((1, 0)) if sets is None else sets
    return Task(rest.pop("primitive", "sampler"), circuit, circuit_digest(circuit), table, shots, seed, **rest)


def run(backend, *tasks):
    outcomes = [outcome for _, outcome in backend.results(backend.submit("tag", tasks))]
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    return outcomes


def ghz(n=3):
    circuit = QuantumCircuit(n)
    circuit.h(0)
    for qubit in range(n - 1):
        circuit.cx(qubit, qubit + 1)
    circuit.measure_all()
    return circuit


def outside(outcome, n=3):
    counts = np.bincount(outcome.arrays["meas"][0, :, 0], minlength=2**n)
    return 1 - (counts[0] + counts[-1]) / counts.sum()


def test_a_ghz_state_leaks_out_of_its_two_strings_under_noise_only():
    (ideal,) = run(open_backend("aer"), task(ghz()))
    (noisy,) = run(MANILA, task(ghz()))
    assert outside(ideal) == 0.0  # closed form: 1/2 on 000 and 111 each
    assert 0.03 < outside(noisy) < 0.3


def test_the_cut_device_has_the_noise_of_the_whole_one():
    circuit = ghz()
    ready = MANILA._ready(task(circuit), Clock())
    region, isa = MANILA.region(3), ready.template.circuit
    whole = QuantumCircuit(5, 3)
    for item in isa.data:
        if item.name != "barrier":
            qubits = [region.qubits[isa.find_bit(bit).index] for bit in item.qubits]
            whole.append(item.operation, qubits, [isa.find_bit(bit).index for bit in item.clbits])
    counts = AerSimulator.from_backend(fake_device("fake_manila")).run(whole, shots=20_000, seed_simulator=1)
    expected = np.array([counts.result().get_counts().get(f"{i:03b}", 0) for i in range(8)]) / 20_000
    (noisy,) = run(MANILA, task(circuit, 20_000))
    found = np.bincount(noisy.arrays["meas"][0, :, 0], minlength=8) / 20_000
    assert np.abs(found - expected).max() < 5 * np.sqrt(2 * 0.25 / 20_000)


def test_trajectories_and_density_matrix_sample_the_same_distribution(monkeypatch):
    circuit = ghz()
    (dense,) = run(MANILA, task(circuit))
    monkeypatch.setattr("infra.runtime.backends.noisy.DENSITY_QUBITS", 0)
    (trajectories,) = run(MANILA, task(circuit))
    assert (dense.facts["method"], trajectories.facts["method"]) == ("density_matrix", "statevector")
    assert abs(outside(dense) - outside(trajectories)) < 5 * np.sqrt(2 * 0.1 / 4000)


def test_parameters_are_bound_into_the_compiled_template():
    circuit = QuantumCircuit(2)
    angle = Parameter("a")
    circuit.ry(2 * angle, 0)
    circuit.cx(0, 1)
    circuit.measure_all()
    angles = np.linspace(0, np.pi / 2, 5)
    outcome = run(MANILA, task(circuit, sets=angles[:, None]))[0]
    ones = (outcome.arrays["meas"][..., 0] & 1).mean(axis=1)
    # readout error moves it, but not beyond a tenth
    assert np.abs(ones - np.sin(angles) ** 2).max() < 0.1
    assert np.all(np.diff(ones) > 0.05)


def test_expectation_values_shrink_towards_zero_and_carry_their_error():
    circuit = ghz()
    circuit.remove_final_measurements()
    labels = ["ZZI", "IZZ", "XXX", "ZII"]
    estimate = task(circuit, 0, primitive="estimator", precision=0.02, pairs=[(0, {label: 1.0}) for label in labels])
    (noisy,) = run(MANILA, estimate)
    exact = StatevectorEstimator().run([(circuit, labels)]).result()[0].data.evs
    np.testing.assert_allclose(exact, [1, 1, 1, 0], atol=1e-12)
    evs, stds = noisy.arrays["evs"], noisy.arrays["stds"]
    assert np.all(evs[:3] < 0.99)
    assert np.all(evs[:3] > 0.5)
    assert abs(evs[3]) < 0.15
    assert np.all(stds < 0.0201)
    assert np.all(stds > 0.002)


def test_an_exact_value_cannot_be_asked_of_shots():
    circuit = QuantumCircuit(1)
    with pytest.raises(BadInput, match="precision above 0"):
        run(MANILA, task(circuit, 0, primitive="estimator", pairs=[(0, {"Z": 1.0})]))


def test_a_circuit_larger_than_the_device_is_refused():
    with pytest.raises(BadInput, match="6 qubits, noisy:fake_manila has 5"):
        run(MANILA, task(ghz(6)))


def test_options_that_do_nothing_here_are_told_apart():
    options = {"dynamical_decoupling": True, "twirling": True, "optimization_level": 3}
    assert MANILA.effective(options) == {"optimization_level": 3}
    assert open_backend("aer").effective(options) == {}


def test_templates_are_compiled_once():
    circuit = ghz()
    first = run(MANILA, task(circuit))[0]
    again = run(MANILA, task(circuit, seed=4))[0]
    assert first.prepare_cpu_s == again.prepare_cpu_s
    assert MANILA._ready(task(circuit), Clock()) is MANILA._ready(task(circuit, 50), Clock())


def test_a_region_is_connected_and_has_better_edges_than_the_device():
    target = fake_device("fake_torino").target
    region = choose_region(target, 9)
    assert len(region) == 9
    cut = cut_target(target, region)
    assert cut.num_qubits == 9
    graph = cut.build_coupling_map("cz")
    assert graph.is_connected()
    readout = [target["measure"][(qubit,)].error for qubit in range(target.num_qubits)]
    typical = np.median([value.error for value in target["cz"].values()]) + np.median(readout)
    chosen = np.mean([value.error for value in cut["cz"].values()]) + np.mean([readout[q] for q in region])
    assert chosen < 0.8 * typical
    for (a, b), value in cut["cz"].items():
        assert target["cz"][(region[a], region[b])].error == value.error


def test_names_of_devices():
    assert canonical_name("noisy:manila") == "noisy:fake_manila"
    with pytest.raises(BadInput, match="fake_torino"):
        canonical_name("noisy:atlantis")
    with pytest.raises(BadInput, match="use aer"):
        canonical_name("abacus")
    assert canonical_name("ibm:fez") == canonical_name("ibm:ibm_fez") == "ibm:ibm_fez"
    with pytest.raises(BadInput, match="names no device"):
        canonical_name("ibm:")


def test_a_hopeless_simulation_is_refused_before_anything_is_written(tmp_path):
    runtime = Runtime(tmp_path / "ledger.db", "noisy:fake_torino")
    sampler = runtime.sampler(Scope("r", "curation", "semantic_clusters", "p", "quantum-k-means"))
    wide = QuantumCircuit(8)
    wide.unitary(np.eye(256), range(8))
    wide.measure_all()
    with pytest.raises(BudgetExceeded, match="use fewer shots or qubits"):
        sampler.run([(wide, None, 256)] * 400)
    assert list_calls(f"sqlite:///{tmp_path / 'ledger.db'}") == []


def test_the_expected_time_grows_with_gates_qubits_and_shots():
    small, large = MANILA.expected_cpu_s(ghz(3), 1, 100), MANILA.expected_cpu_s(ghz(5), 10, 100)
    assert 0 < small < large < 60
