import numpy as np
import pytest
from qiskit.quantum_info import Statevector

from tasks.quantum.basis_change import basis_angles, basis_circuit
from tasks.quantum.encodings import qubits_for


def orthonormal(k: int, d: int, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(np.linalg.qr(rng.normal(size=(d, k)))[0].T)


@pytest.mark.parametrize(
    ("d", "k"),
    [(2, 1), (2, 2), (4, 1), (4, 2), (4, 3), (4, 4), (8, 1), (8, 2), (8, 3), (8, 4), (8, 8), (7, 5), (16, 4), (30, 8)],
)
def test_the_first_outcomes_have_the_squared_overlaps_as_probabilities(d: int, k: int) -> None:
    rng = np.random.default_rng(100 * d + k)
    basis, vectors = orthonormal(k, d, rng), rng.normal(size=(4, d))
    circuit = basis_circuit(qubits_for(d), k).remove_final_measurements(inplace=False)
    for vector, angles in zip(vectors, basis_angles(vectors, basis), strict=True):
        probabilities = Statevector(circuit.assign_parameters(angles)).probabilities()[:k]
        expected = np.square(basis @ vector / np.linalg.norm(vector))
        np.testing.assert_allclose(probabilities, expected, atol=1e-10)


def test_eight_qubits_and_sparse_or_coordinate_bases() -> None:
    rng = np.random.default_rng(0)
    bases = [orthonormal(4, 256, rng), np.eye(256)[[3, 100, 101, 255]], -np.eye(256)[[0, 1, 2, 3]]]
    circuit = basis_circuit(8, 4).remove_final_measurements(inplace=False)
    for basis in bases:
        vector = rng.normal(size=256)
        state = Statevector(circuit.assign_parameters(basis_angles(vector[None], basis)[0]))
        np.testing.assert_allclose(state.probabilities()[:4], np.square(basis @ vector) / (vector @ vector), atol=1e-10)


def test_the_template_depends_on_the_sizes_alone_and_gates_are_counted() -> None:
    circuit = basis_circuit(8, 4)
    ops = circuit.count_ops()
    assert (ops["ry"], ops["cz"]) == (1141, 1107)
    assert set(ops) == {"ry", "cz", "measure", "barrier"}
    rng = np.random.default_rng(1)
    assert basis_angles(rng.normal(size=(3, 256)), orthonormal(4, 256, rng)).shape == (3, circuit.num_parameters)


def test_the_measured_vector_of_a_basis_row_is_its_outcome() -> None:
    basis = orthonormal(3, 8, np.random.default_rng(2))
    circuit = basis_circuit(3, 3).remove_final_measurements(inplace=False)
    for outcome, angles in enumerate(basis_angles(basis, basis)):
        assert Statevector(circuit.assign_parameters(angles)).probabilities()[outcome] == pytest.approx(1)


def test_what_is_no_basis_is_refused() -> None:
    with pytest.raises(ValueError, match="orthonormal"):
        basis_angles(np.ones((1, 4)), np.ones((2, 4)))
    with pytest.raises(ValueError, match="as long as"):
        basis_angles(np.ones((1, 4)), np.eye(3))
