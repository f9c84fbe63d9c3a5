import numpy as np
import pytest
from qiskit.quantum_info import Statevector

from tasks.quantum.encodings import (
    amplitude_angles,
    amplitude_circuit,
    append_unloading,
    overlap_angles,
    overlap_circuit,
    qubits_for,
    tree_angles,
    tree_states,
    unloading_angles,
)


def prepared(vector: np.ndarray) -> np.ndarray:
    angles = amplitude_angles(vector[None, :])[0]
    return np.asarray(Statevector(amplitude_circuit(qubits_for(len(vector))).assign_parameters(angles)).data)


@pytest.mark.parametrize("dimension", [1, 2, 3, 4, 5, 8, 16, 31, 64, 256])
def test_the_circuit_prepares_the_vector_with_its_signs(dimension: int) -> None:
    rng = np.random.default_rng(dimension)
    for _ in range(3):
        vector = rng.normal(size=dimension) * rng.lognormal()
        state = prepared(vector)
        np.testing.assert_allclose(state[:dimension], vector / np.linalg.norm(vector), atol=1e-12)
        np.testing.assert_allclose(state[dimension:], 0, atol=1e-12)


def test_zeros_inside_a_vector_and_basis_states_are_prepared() -> None:
    for index in range(8):
        for sign in (1.0, -1.0):
            vector = np.zeros(8)
            vector[index] = sign
            np.testing.assert_allclose(prepared(vector), vector, atol=1e-12)
    sparse = np.array([0, -1, 0, 0, 0, 0, 2, 0.0])
    np.testing.assert_allclose(prepared(sparse), sparse / np.sqrt(5), atol=1e-12)


@pytest.mark.parametrize("qubits", [1, 2, 3, 5, 8])
def test_gates_are_counted_by_the_closed_form(qubits: int) -> None:
    ops = amplitude_circuit(qubits).count_ops()
    assert ops["ry"] == 2**qubits - 1
    assert ops.get("cz", 0) == 2**qubits - qubits - 1
    assert set(ops) <= {"ry", "cz"}


def test_the_pair_template_has_the_merged_multiplexer() -> None:
    ops = overlap_circuit(8).count_ops()
    assert (ops["ry"], ops["cz"]) == (382, 367)


@pytest.mark.parametrize("dimension", [2, 3, 8, 16, 100])
def test_the_pair_template_gives_the_fidelity_in_the_all_zero_outcome(dimension: int) -> None:
    rng = np.random.default_rng(dimension)
    left, right = rng.normal(size=(2, 4, dimension))
    left[3] = right[3]
    values = overlap_angles(amplitude_angles(left), amplitude_angles(right))
    template = overlap_circuit(qubits_for(dimension)).remove_final_measurements(inplace=False)
    for x, y, row in zip(left, right, values, strict=True):
        p_zero = abs(Statevector(template.assign_parameters(row)).data[0]) ** 2
        cosine = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
        assert p_zero == pytest.approx(cosine**2, abs=1e-12)


def test_what_is_no_state_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be zero"):
        amplitude_angles(np.zeros((1, 4)))
    with pytest.raises(ValueError, match="finite"):
        amplitude_angles(np.array([[1.0, np.nan]]))
    with pytest.raises(ValueError, match="matrix"):
        amplitude_angles(np.ones(4))
    with pytest.raises(ValueError, match="at least 1"):
        qubits_for(0)
    with pytest.raises(ValueError, match="same shape"):
        overlap_angles(np.ones((1, 3)), np.ones((2, 3)))


@pytest.mark.parametrize("qubits", [1, 3, 5])
def test_unloading_takes_the_vector_back_to_zero(qubits: int) -> None:
    rng = np.random.default_rng(qubits)
    loaded, asked = rng.normal(size=1 << qubits), rng.normal(size=1 << qubits)
    circuit = amplitude_circuit(qubits).assign_parameters(amplitude_angles(loaded[None])[0])
    append_unloading(circuit, qubits)
    state = Statevector(circuit.assign_parameters(unloading_angles(asked[None])[0]))
    cosine = loaded @ asked / np.linalg.norm(loaded) / np.linalg.norm(asked)
    assert state.data[0] == pytest.approx(cosine, abs=1e-12)


def test_the_angles_of_the_tree_hold_the_vector() -> None:
    rows = np.random.default_rng(0).normal(size=(4, 16))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(tree_states(tree_angles(rows)), unit, atol=1e-12)
