"""One contract for every place where circuits run, on paper, simulated, noisy, or on hardware.

The reference is Qiskit's own statevector primitive; all others are reached through the runtime queue. Real hardware is
asked only with KETCYCLE_IBM_TEST=1: four small jobs, see docs/hardware.md.
"""

import os
import time
from dataclasses import dataclass

import numpy as np
import pytest
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister
from qiskit.circuit import Parameter
from qiskit.primitives import StatevectorEstimator, StatevectorSampler
from qiskit.quantum_info import SparsePauliOp

from infra.errors import BadInput, KetcycleError
from infra.runtime.ledger.budget import set_limit
from infra.runtime.queue import Runtime, Scope

REAL = os.environ.get("KETCYCLE_IBM_TEST") == "1"
DEVICE = os.environ.get("KETCYCLE_IBM_TEST_DEVICE", "")
LIMIT_S = 90.0  # QPU seconds that the tests on real hardware may spend together
NAMES = ["statevector", "aer", "noisy", "double", pytest.param("hardware", marks=pytest.mark.slow)]


@dataclass(frozen=True)
class Place:
    """Somewhere circuits run.

    Attributes:
        backend: its name for the queue; None = Qiskit's own primitives.
        folder: where its ledger lies.
        seeded: whether the same seed gives the same counts.
        exact: whether expectation values can be exact.
        noisy: whether results hold errors.
        qubits: how many it has; None = as many as memory holds.
        real: whether its seconds are paid.
    """

    backend: str | None
    folder: object
    seeded: bool = True
    exact: bool = True
    noisy: bool = False
    qubits: int | None = None
    real: bool = False

    def runtime(self, name="ledger.db"):
        runtime = Runtime(self.folder / name, self.backend, projection="fake_manila", default_precision=0.05)
        if self.real:
            set_limit(runtime.open(), "day", "qpu_s", LIMIT_S)
        return runtime

    def sampler(self, seed=1, name="ledger.db"):
        if self.backend is None:
            return StatevectorSampler(seed=seed)
        return self.runtime(name).sampler(scope(seed))

    def estimator(self, seed=1):
        if self.backend is None:
            return StatevectorEstimator(default_precision=0.05, seed=seed)
        return self.runtime().estimator(scope(seed))


def scope(seed):
    return Scope(f"run {time.time_ns()}", "inference", "pruning", "problem", "arm", seed=seed)


@pytest.fixture(params=NAMES)
def place(request, tmp_path, tmp_path_factory):
    match request.param:
        case "statevector":
            return Place(None, tmp_path)
        case "aer":
            return Place("aer", tmp_path)
        case "noisy":
            return Place("noisy:fake_manila", tmp_path, exact=False, noisy=True, qubits=5)
        case "double":
            request.getfixturevalue("ibm")
            return Place("ibm:lagos", tmp_path, seeded=False, exact=False, qubits=7)
    if not REAL:
        pytest.skip("real hardware is asked only with KETCYCLE_IBM_TEST=1")
    if not DEVICE:
        pytest.skip("KETCYCLE_IBM_TEST_DEVICE names no device")
    shared = tmp_path_factory.getbasetemp()  # one ledger, so that the limit holds for all tests together
    return Place(f"ibm:{DEVICE}", shared, seeded=False, exact=False, noisy=True, real=True)


@pytest.fixture
def cheap(place):
    """A place that is not billed in earnest."""
    if place.real:
        pytest.skip("not worth QPU seconds")
    return place


def likeliest(bits):
    """The most frequent outcome of each parameter set, as an array of the set's shape."""
    found = np.empty(bits.shape, dtype=object)
    for index in np.ndindex(bits.shape):
        counts = bits[index].get_counts() if bits.shape else bits.get_counts()
        found[index] = max(counts, key=counts.get)
    return found.tolist()


def flips(qubits):
    """Each qubit turned by half its own parameter: 0 stays, pi flips."""
    circuit = QuantumCircuit(qubits)
    for qubit in range(qubits):
        circuit.ry(Parameter(f"t{qubit}"), qubit)
    circuit.measure_all()
    return circuit


def state(bits):
    circuit = QuantumCircuit(len(bits))
    for qubit, bit in enumerate(reversed(bits)):
        if bit == "1":
            circuit.x(qubit)
    circuit.measure_all()
    return circuit


def test_results_have_the_shape_and_the_order_of_what_was_asked(place):
    angles = np.pi * np.array([[[0, 0], [0, 1], [1, 0]], [[1, 1], [0, 0], [0, 1]]])
    result = place.sampler().run([(flips(2), angles), state("01"), (flips(2), [0, np.pi])], shots=100).result()
    assert [pub.data.meas.shape for pub in result] == [(2, 3), (), ()]
    assert [pub.data.meas.num_shots for pub in result] == [100] * 3
    assert [pub.data.meas.num_bits for pub in result] == [2] * 3
    # the last qubit is written first
    assert likeliest(result[0].data.meas) == [["00", "10", "01"], ["11", "00", "10"]]
    assert [likeliest(result[1].data.meas), likeliest(result[2].data.meas)] == ["01", "10"]


def test_parameters_may_be_given_by_name_in_any_order(cheap):
    first, others = np.array([[0.0], [np.pi]]), np.array([[[np.pi, 0.0], [0.0, np.pi], [0, 0]]])
    values = {("t2", "t1"): np.broadcast_to(others, (2, 3, 2)), "t0": np.broadcast_to(first, (2, 3))}
    bits = cheap.sampler().run([(flips(3), values)], shots=50).result()[0].data.meas
    assert bits.shape == (2, 3)
    assert likeliest(bits) == [["100", "010", "000"], ["101", "011", "001"]]


def test_several_classical_registers_keep_their_names_and_bits(place):
    qubits, low, high = QuantumRegister(4, "q"), ClassicalRegister(1, "low"), ClassicalRegister(2, "high")
    circuit = QuantumCircuit(qubits, high, low)
    circuit.x([0, 2])
    circuit.measure(qubits[0], low[0])
    circuit.measure(qubits[1], high[0])
    circuit.measure(qubits[2], high[1])
    data = place.sampler().run([circuit], shots=100).result()[0].data
    assert set(data) == {"low", "high"}
    assert (data.low.num_bits, data.high.num_bits) == (1, 2)
    assert (likeliest(data.low), likeliest(data.high)) == ("1", "10")


def test_a_register_wider_than_a_byte(cheap):
    if cheap.qubits == 5:
        pytest.skip("the device has five qubits")
    register = ClassicalRegister(11, "wide")
    circuit = QuantumCircuit(QuantumRegister(3, "q"), register)
    circuit.x([0, 2])
    circuit.measure([0, 1, 2], [0, 5, 10])
    bits = cheap.sampler().run([circuit], shots=20).result()[0].data.wide
    assert bits.array.shape == (20, 2)
    assert bits.get_counts() == {"10000000001": 20}


def test_shots_of_a_pub_go_before_those_of_the_call(cheap):
    result = cheap.sampler().run([(state("0"), None, 30), state("1")], shots=70).result()
    assert [pub.data.meas.num_shots for pub in result] == [30, 70]
    assert [likeliest(pub.data.meas) for pub in result] == ["0", "1"]


def test_frequencies_are_those_of_the_state(place):
    shots, angles = 400, np.array([0.4, 1.1, 2.0])
    circuit = QuantumCircuit(1)
    circuit.ry(Parameter("t"), 0)
    circuit.measure_all()
    bits = place.sampler().run([(circuit, angles[:, None])], shots=shots).result()[0].data.meas
    expected = np.sin(angles / 2) ** 2
    # five standard errors; a noisy device may read one bit in twenty wrongly
    slack = 5 * np.sqrt(expected * (1 - expected) / shots) + (0.05 if place.noisy else 0)
    assert (np.abs(bits.bitcount().mean(axis=-1) - expected) < slack).all()


def test_the_same_seed_gives_the_same_counts_where_that_is_promised(cheap):
    circuit = flips(2)
    angles = [[1.0, 2.0], [0.5, 1.5]]

    def counts(seed, name):
        result = cheap.sampler(seed, name).run([(circuit, angles)], shots=200).result()
        return [bits.get_counts() for bits in result[0].data.meas]

    if cheap.seeded:
        assert counts(3, "one.db") == counts(3, "two.db") != counts(4, "three.db")
    else:
        assert [sum(c.values()) for c in counts(3, "one.db")] == [200, 200]


def test_expectation_values_broadcast_and_keep_their_precision(place):
    circuit = QuantumCircuit(2)
    circuit.ry(Parameter("t"), 0)
    circuit.cx(0, 1)
    angles = np.array([[0.0], [np.pi / 2], [np.pi]])
    observables = [[SparsePauliOp(["ZI", "ZZ"], [1.0, 2.0])], [SparsePauliOp("XX")]]
    data = place.estimator().run([(circuit, observables, angles)], precision=0.05).result()[0].data
    expected = np.array([[1, 0, -1], [0, 1, 0]]) + np.array([[2, 2, 2], [0, 0, 0]])
    assert data.evs.shape == data.stds.shape == (2, 3)
    assert np.abs(data.evs - expected).max() < 0.4 + (0.6 if place.noisy else 0)
    assert (data.stds < 0.3).all()


def test_values_can_be_exact_only_where_nothing_is_sampled(cheap):
    circuit = QuantumCircuit(1)
    circuit.ry(0.7, 0)
    ask = [(circuit, "Z")]
    if cheap.exact:
        value = cheap.estimator().run(ask, precision=0.0).result()[0].data.evs
        assert value == pytest.approx(np.cos(0.7), abs=1e-9)
    else:
        with pytest.raises(BadInput, match="precision above 0"):
            cheap.estimator().run(ask, precision=0.0).result()


def test_nothing_asked_is_nothing_answered(cheap):
    assert len(cheap.sampler().run([]).result()) == 0
    assert len(cheap.estimator().run([]).result()) == 0


def test_more_parameter_sets_than_one_job_holds(cheap):
    bits = np.arange(600) % 2
    result = cheap.sampler().run([(flips(1), np.pi * bits[:, None])], shots=4).result()
    assert result[0].data.meas.shape == (600,)
    assert likeliest(result[0].data.meas[:4]) == ["0", "1", "0", "1"]
    if not cheap.noisy:
        assert (result[0].data.meas.bitcount() == bits[:, None]).all()


def test_a_circuit_larger_than_the_device_is_refused(cheap):
    if cheap.qubits is None:
        pytest.skip("it has no number of qubits")
    large = QuantumCircuit(cheap.qubits + 1)
    large.measure_all()
    with pytest.raises(BadInput, match=f"{cheap.qubits + 1} qubits, .* has {cheap.qubits}"):
        cheap.sampler().run([large], shots=10).result()


def test_wrong_input_is_refused_by_all(cheap):
    with pytest.raises((ValueError, KetcycleError)):
        cheap.sampler().run([(flips(2), [0.1])], shots=10).result()  # a parameter is missing
    with pytest.raises((ValueError, TypeError, KetcycleError)):
        cheap.sampler().run(["no circuit"], shots=10).result()
    with pytest.raises((ValueError, KetcycleError)):
        cheap.estimator().run([(QuantumCircuit(2), "ZZZ")], precision=0.1).result()  # another number of qubits


def test_nothing_measured_is_refused_by_the_queue(cheap):
    if cheap.backend is None:
        pytest.skip("Qiskit's own primitive only warns")
    with pytest.raises(BadInput, match="add measurements"):
        cheap.sampler().run([QuantumCircuit(1)], shots=10).result()


def test_a_gate_that_depends_on_a_measured_bit(cheap):
    if cheap.backend is None:
        pytest.skip("Qiskit's own primitive has no control flow")
    circuit = QuantumCircuit(2, 2)
    circuit.x(0)
    circuit.measure(0, 0)
    with circuit.if_test((0, 1)):
        circuit.x(1)
    circuit.measure(1, 1)
    data = cheap.sampler().run([circuit], shots=40).result()[0].data
    assert likeliest(data.c) == "11"


def test_billed_seconds_reach_the_books_of_the_caller(cheap):
    if cheap.backend is None:
        pytest.skip("it has no books")
    sampler = cheap.sampler()
    sampler.run([state("1")], shots=10).result()
    billed = sampler.usage.qpu_s_billed
    assert billed > 2.0 if cheap.backend.startswith("ibm:") else billed == 0.0
