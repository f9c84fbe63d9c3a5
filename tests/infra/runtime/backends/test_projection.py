import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.quantum_info import random_unitary
from scipy.stats import ortho_group

from infra.runtime.backends import projection as estimate
from infra.runtime.backends.projection import is_lower_bound, project
from infra.runtime.backends.usage import Projection, shannon_gates
from infra.runtime.ledger.ledger import Ledger


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "ledger.db", durable=False)


def test_the_usage_formula():
    # 2 s + (250 us + 60 us) x 10,000 executions
    assert Projection(5, 60e-6).qpu_s(10_000, 10_000) == pytest.approx(2 + 3.1)
    # IBM's own quick form for a circuit of 100 us: 2 + 0.00035 x executions
    assert Projection(5, 100e-6).qpu_s(4096, 4096) == pytest.approx(2 + 0.00035 * 4096)


def test_parts_of_a_call_share_its_overhead():
    projection = Projection(1, 0.0)
    shares = [projection.qpu_s(n, 1000) for n in (100, 300, 600)]
    assert sum(shares) == pytest.approx(projection.qpu_s(1000, 1000))


def test_a_call_beyond_the_limit_of_a_job_pays_the_overhead_of_each():
    assert Projection(1, 0.0).qpu_s(12_000_000, 12_000_000) == pytest.approx(3 * 2 + 250e-6 * 12_000_000)


def test_nothing_executed_costs_nothing():
    assert Projection(1, 1e-6).qpu_s(0, 0) == 0.0
    assert Projection(error="too large").qpu_s(100, 100) == 0.0


def test_a_circuit_is_projected_from_its_compiled_form(ledger, monkeypatch):
    circuit = QuantumCircuit(3)
    circuit.rzz(Parameter("a"), 0, 1)
    circuit.cx(1, 2)
    circuit.measure_all()
    found = project(circuit, "three", "fake_torino", ledger)
    assert found.two_qubit_gates == 3  # rzz is two CZ, cx is one, and a line of three needs no swap
    assert found.two_qubit_depth == 3  # the qubit in the middle is in each of them
    # at least the measurement (1.56 us), at most ten gates of 0.1 us more
    assert 1.5e-6 < found.duration_s < 2.6e-6
    monkeypatch.setattr(estimate, "_known", {})
    monkeypatch.setattr(estimate, "_compile", lambda *_: pytest.fail("compiled twice"))
    assert project(circuit, "three", "fake_torino", ledger) == found, "the ledger keeps it for other processes"


def test_gates_side_by_side_count_once_in_the_depth(ledger):
    circuit = QuantumCircuit(4)
    circuit.cz(0, 1)
    circuit.cz(2, 3)
    circuit.cz(0, 1)
    circuit.h(range(4))
    circuit.cz(1, 2)
    circuit.measure_all()
    found = project(circuit, "pairs", "fake_torino", ledger)
    assert (found.two_qubit_gates, found.two_qubit_depth) == (2, 2)  # the two on 0 and 1 cancel


def test_a_circuit_that_does_not_fit_says_why(ledger):
    circuit = QuantumCircuit(6)
    circuit.measure_all()
    found = project(circuit, "six", "fake_manila", ledger)
    assert found.error == "6 qubits, fake_manila has 5"
    assert found.two_qubit_gates == 0


def test_dense_unitaries_count_by_the_closed_form(ledger):
    # Shende, Bullock, Markov, table 1: 3, 20, 100 and 444 CNOTs for 2 to 5 qubits
    assert [shannon_gates(n) for n in (2, 3, 4, 5)] == [3, 20, 100, 444]
    small, large = QuantumCircuit(3), QuantumCircuit(5)
    for circuit in (small, large):
        circuit.unitary(random_unitary(2**circuit.num_qubits, seed=1), range(circuit.num_qubits))
        circuit.measure_all()
    compiled = project(small, "small", "fake_torino", ledger)
    assert not is_lower_bound(small)
    assert 15 <= compiled.two_qubit_gates <= 60
    assert is_lower_bound(large)
    found = project(large, "large", "fake_torino", ledger)
    assert found.two_qubit_gates == 444
    assert found.duration_s > 444 * 50e-9


def test_circuits_that_differ_in_a_dense_unitary_are_compiled_once(ledger):
    def loading(matrix):
        whole = np.eye(8)
        whole[:4, :4] = matrix
        circuit = QuantumCircuit(3)
        circuit.ry(Parameter("a"), 0)
        circuit.unitary(whole, range(3))
        circuit.measure_all()
        return circuit

    circuits = [loading(ortho_group.rvs(4, random_state=seed)) for seed in range(6)]
    alone = [estimate._compile(circuit, "fake_torino") for circuit in circuits]
    shared = {project(circuit, str(number), "fake_torino", ledger) for number, circuit in enumerate(circuits)}
    assert len(shared) == 1
    [found] = shared
    assert found.two_qubit_gates == pytest.approx(np.mean([one.two_qubit_gates for one in alone]), rel=0.1)
    assert found.duration_s == pytest.approx(np.mean([one.duration_s for one in alone]), rel=0.1)


def test_a_permutation_does_not_count_as_a_dense_unitary_of_its_size(ledger):
    cycle = QuantumCircuit(3)
    cycle.unitary(np.eye(8)[[0, 1, 2, 3, 4, 5, 7, 6]], range(3))  # a Toffoli gate
    found = project(cycle, "cycle", "fake_torino", ledger)
    assert found == estimate._compile(cycle, "fake_torino")
