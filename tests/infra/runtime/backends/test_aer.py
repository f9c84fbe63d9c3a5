from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister
from qiskit.circuit import Parameter, ParameterVector
from qiskit.circuit.library import CPhaseGate, CRXGate, CRYGate, CRZGate, XXPlusYYGate
from qiskit.quantum_info import Statevector

from infra.errors import BadInput
from infra.runtime.backends.aer import decompose_foreign
from infra.runtime.backends.contract import SEED_STEP, Executed, Task
from infra.runtime.backends.registry import open_backend
from infra.runtime.backends.templates import make_template

AER: Any = open_backend("aer")


def execute(circuit, sets=None, shots=1000, seed=11, backend=AER, **options):
    table = np.zeros((1, 0)) if sets is None else np.asarray(sets, float)
    task = Task("sampler", circuit, str(id(circuit)), table, shots, seed, **options)
    ((_, outcome),) = backend.results(backend.submit("tag", [task]))
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def probabilities(circuit, values=()):
    bound = circuit.assign_parameters(dict(zip(circuit.parameters, values, strict=True)))
    return Statevector(bound.remove_final_measurements(inplace=False)).probabilities()


def ansatz(n=3):
    circuit = QuantumCircuit(n)
    a, b = Parameter("alpha"), Parameter("beta")
    circuit.global_phase = a
    for qubit in range(n):
        circuit.ry(a + 0.2 * qubit, qubit)
    for left, right in pairwise(range(n)):
        circuit.rzz(2 * a * b, left, right)  # a product is no affine formula
        circuit.rxx(-b, left, right)
        circuit.ryy(0.3 - 2 * b, left, right)
    circuit.rx(a, 0)
    circuit.measure_all()
    return circuit


def test_counts_follow_the_closed_form_for_every_parameter_set():
    circuit = ansatz()
    sets = np.random.default_rng(0).uniform(-2, 2, (40, 2))
    shots = 2000
    out = execute(circuit, sets, shots)
    counts = np.stack([np.bincount(row[:, 0], minlength=8) for row in out.arrays["meas"]])
    expected = shots * np.stack([probabilities(circuit, row) for row in sets])
    pearson = ((counts - expected) ** 2 / np.maximum(expected, 1e-9)).sum(axis=1)
    # 40 chi-squares of 7 degrees of freedom: mean 7, standard error sqrt(14 / 40)
    assert abs(pearson.mean() - 7) < 4 * np.sqrt(14 / 40)


def test_a_range_of_parameter_sets_gives_what_the_whole_gives():
    circuit = ansatz()
    sets = np.random.default_rng(1).uniform(-2, 2, (10, 2))
    whole = execute(circuit, sets, seed=5).arrays["meas"]
    part = execute(circuit, sets[6:], seed=5 + 6 * SEED_STEP).arrays["meas"]
    np.testing.assert_array_equal(part, whole[6:])


def test_equal_parameter_sets_are_sampled_independently():
    circuit = QuantumCircuit(1)
    circuit.ry(Parameter("a"), 0)
    circuit.measure_all()
    ones = execute(circuit, np.full((400, 1), np.pi / 2), 100).arrays["meas"][..., 0].sum(axis=1)
    assert len(np.unique(ones)) > 10
    assert 0.75 < ones.var() / 25 < 1.3  # binomial variance 100 / 4; the ratio's standard error is 0.07


def test_registers_come_apart_wherever_their_bits_lie():
    qubits, low, high = QuantumRegister(11), ClassicalRegister(9, "low"), ClassicalRegister(2, "high")
    circuit = QuantumCircuit(qubits, low, high)
    circuit.x([0, 8, 9])
    circuit.measure(range(9), low)
    circuit.measure([9, 10], high)
    out = execute(circuit, shots=3).arrays
    np.testing.assert_array_equal(out["low"], [[[1, 1]] * 3])  # 257 in two bytes, the high one first
    np.testing.assert_array_equal(out["high"], [[[1]] * 3])


def test_more_than_64_bits_are_unpacked():
    circuit = QuantumCircuit(2)
    registers = [ClassicalRegister(40, "a"), ClassicalRegister(40, "b")]
    for register in registers:
        circuit.add_register(register)
    circuit.x(0)
    circuit.measure(0, registers[0][39])
    circuit.measure(0, registers[1][0])
    out = execute(circuit, shots=2).arrays
    np.testing.assert_array_equal(out["a"][0, 0], [128, 0, 0, 0, 0])
    np.testing.assert_array_equal(out["b"][0, 0], [0, 0, 0, 0, 1])


def test_only_foreign_gates_are_decomposed():
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.rzz(0.3, 0, 1)
    native = AER._native
    assert decompose_foreign(circuit, native) is circuit
    circuit.append(XXPlusYYGate(0.7), [0, 1])
    inner = QuantumCircuit(1, name="x")  # carries a standard name, means something else
    inner.ry(np.pi / 2, 0)
    circuit.append(inner.to_gate(), [1])
    plain = decompose_foreign(circuit, native)
    assert "rzz" in plain.count_ops()
    assert "xx_plus_yy" not in plain.count_ops()
    assert Statevector(plain).equiv(Statevector(circuit))
    circuit.measure_all()
    ones = execute(circuit, shots=4000).arrays["meas"][0, :, 0]
    frequency = np.bincount(ones, minlength=4) / 4000
    assert np.abs(frequency - probabilities(circuit)).max() < 4 * 0.5 / np.sqrt(4000)


@pytest.mark.parametrize("gate", [CRXGate, CRYGate, CRZGate, CPhaseGate])
def test_controlled_rotations_take_many_parameter_sets(gate):
    circuit = QuantumCircuit(2)
    circuit.ry(0.9, [0, 1])
    circuit.append(gate(Parameter("a")), [0, 1])
    circuit.rx(0.7, [0, 1])
    circuit.measure_all()
    sets, shots = np.array([[0.5], [1.5], [2.5]]), 4000
    out = execute(circuit, sets, shots).arrays["meas"]
    counts = np.stack([np.bincount(row[:, 0], minlength=4) for row in out])
    expected = shots * np.stack([probabilities(circuit, row) for row in sets])
    np.testing.assert_allclose(counts, expected, atol=5 * np.sqrt(shots) / 2)


def test_a_gate_without_a_meaning_is_refused():
    from qiskit.circuit import Gate

    circuit = QuantumCircuit(1, 1)
    circuit.append(Gate("mystery", 1, []), [0])
    circuit.measure(0, 0)
    with pytest.raises(BadInput, match="mystery"):
        execute(circuit)


def test_a_mid_circuit_measurement_steers_what_follows():
    circuit = QuantumCircuit(2, 2)
    circuit.h(0)
    circuit.measure(0, 0)
    with circuit.if_test((circuit.clbits[0], 1)):
        circuit.rx(Parameter("a"), 1)
    circuit.measure(1, 1)
    out = execute(circuit, [[np.pi], [0.0]], 200).arrays["c"][..., 0]
    assert set(np.unique(out[0])) == {0, 3}
    assert set(np.unique(out[1])) == {0, 1}


def test_one_failing_task_leaves_the_others_alone():
    good = QuantumCircuit(1)
    good.measure_all()
    bad = QuantumCircuit(1)
    tasks = [Task("sampler", c, str(i), np.zeros((1, 0)), 5, 1) for i, c in enumerate([bad, good])]
    outcomes = dict(AER.results(AER.submit("tag", tasks)))
    assert isinstance(outcomes[0], BadInput)
    assert isinstance(outcomes[1], Executed)


def test_the_simulation_is_timed_on_its_own_thread_without_the_compiling():
    circuit = ansatz(10)
    first = execute(circuit, np.full((50, 2), 0.3), 500)
    again = execute(circuit, np.full((50, 2), 0.3), 500)
    assert first.cpu_s > 0
    assert 0 < first.cpu_s <= first.wall_s * 1.05
    assert first.prepare_cpu_s == again.prepare_cpu_s, "what the compiled form once cost is told each time"
    assert first.rss_gb_s > 0


def test_a_template_evaluates_affine_angles_for_all_sets_at_once():
    x = ParameterVector("x", 2)
    circuit = QuantumCircuit(2)
    circuit.ry(1.5 - 2 * x[0] + x[1] / 3, 0)
    circuit.rz(x[0].sin(), 0)
    circuit.rx(x[1], 1)
    circuit.ry(1.5 - 2 * x[0] + x[1] / 3, 1)
    circuit.rz(0.25, 1)
    template = make_template(circuit)
    sets = np.random.default_rng(2).normal(size=(5, 2))
    binds = template.binds(sets)
    assert len(binds) == 3, "one angle for each distinct expression"
    for i, row in enumerate(sets):
        original = circuit.assign_parameters(dict(zip(circuit.parameters, row, strict=True)))
        lifted = template.circuit.assign_parameters({p: v[i] for p, v in binds.items()})
        assert Statevector(lifted).equiv(Statevector(original))


def test_bare_parameters_are_left_as_they_are():
    circuit = QuantumCircuit(1)
    circuit.ry(Parameter("b"), 0)
    circuit.ry(Parameter("a"), 0)
    template = make_template(circuit)
    assert template.circuit is circuit
    binds = template.binds(np.array([[1.0, 2.0]]))
    assert {p.name: v.tolist() for p, v in binds.items()} == {"a": [1.0], "b": [2.0]}
