import numpy as np
import pytest
from qiskit.quantum_info import Statevector

from tasks.quantum.staircase import fit_staircase, staircase_angles, staircase_circuit, staircase_states


def unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


@pytest.mark.parametrize(("qubits", "layers"), [(2, 1), (4, 3), (6, 2)])
def test_the_circuit_prepares_the_states_and_has_the_gates_of_the_closed_form(qubits: int, layers: int) -> None:
    angles = np.random.default_rng(0).normal(size=(3, staircase_angles(qubits, layers)))
    circuit = staircase_circuit(qubits, layers)
    assert circuit.count_ops() == {"ry": angles.shape[1], "cz": layers * (qubits - 1)}
    for row, state in zip(angles, staircase_states(angles, qubits, layers), strict=True):
        np.testing.assert_allclose(Statevector(circuit.assign_parameters(row)).data, state, atol=1e-12)


def test_a_layer_has_bond_dimension_two() -> None:
    angles = np.random.default_rng(1).normal(size=(1, staircase_angles(6, 2)))
    (state,) = staircase_states(angles, 6, 2)
    for cut in range(1, 6):
        singular = np.linalg.svd(state.reshape(1 << cut, -1), compute_uv=False)
        assert (singular > 1e-12).sum() <= 4


def test_what_a_staircase_can_prepare_is_found_again() -> None:
    rng = np.random.default_rng(2)
    targets = staircase_states(rng.normal(size=(8, staircase_angles(4, 1))), 4, 1)
    _, fidelities = fit_staircase(targets, 1, 200, rng)
    assert np.median(fidelities) > 0.999
    assert (fidelities <= 1 + 1e-12).all()


def test_product_states_and_two_qubits_are_exact() -> None:
    rng = np.random.default_rng(3)
    pairs = unit(rng.normal(size=(5, 4)))
    np.testing.assert_allclose(fit_staircase(pairs, 1, 60, rng)[1], 1, atol=1e-9)


def test_more_passes_and_more_layers_lose_nothing() -> None:
    targets = unit(np.random.default_rng(4).normal(size=(6, 32)))
    few, more = (fit_staircase(targets, 2, n, np.random.default_rng(5))[1] for n in (5, 40))
    assert (more >= few - 1e-12).all()
    deeper = fit_staircase(targets, 4, 40, np.random.default_rng(5))[1]
    assert deeper.mean() > more.mean()


def test_the_fidelity_is_that_of_the_angles() -> None:
    targets = unit(np.random.default_rng(6).normal(size=(4, 16)))
    angles, fidelities = fit_staircase(targets, 2, 10, np.random.default_rng(7))
    again = np.square((staircase_states(angles, 4, 2) * targets).sum(axis=1))
    np.testing.assert_allclose(again, fidelities, atol=1e-12)


def test_no_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 layer, not 0"):
        staircase_circuit(3, 0)
