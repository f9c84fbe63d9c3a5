import numpy as np
import pytest
from qiskit.primitives import StatevectorSampler

from tasks.quantum.encodings import unloading_angles
from tasks.quantum.qram import qram_angles, qram_circuit, qram_parameters, qram_values, success_probability

SHOTS = 4000


@pytest.mark.parametrize("cells", [2, 4, 8])
def test_the_memory_loads_its_cells_with_the_probability_of_the_closed_form(cells: int) -> None:
    rng = np.random.default_rng(cells)
    stored, asked = rng.normal(size=(2, cells)), rng.normal(size=(2, cells))
    values = np.hstack([qram_parameters(qram_angles(stored)), unloading_angles(asked)])
    data = StatevectorSampler(seed=1).run([(qram_circuit(cells), values)], shots=SHOTS).result()[0].data
    assert not data.tree.array.any()  # the route is undone whatever the flag says
    flag = data.flag.array[..., 0] == 1
    expected = np.square(stored).mean(axis=1) / np.square(stored).max(axis=1)
    np.testing.assert_allclose(success_probability(qram_angles(stored)), expected)
    np.testing.assert_allclose(flag.mean(axis=1), expected, atol=5 * 0.5 / np.sqrt(SHOTS))
    zeros = (flag & (data.address.array[..., 0] == 0)).sum(axis=1) / flag.sum(axis=1)
    cosines = (stored * asked).sum(axis=1) / np.linalg.norm(stored, axis=1) / np.linalg.norm(asked, axis=1)
    np.testing.assert_allclose(zeros, cosines**2, atol=5 * 0.5 / np.sqrt(flag.sum(axis=1).min()))


@pytest.mark.parametrize("cells", [2, 4, 8, 16])
def test_gates_and_qubits_follow_the_closed_form(cells: int) -> None:
    bits = cells.bit_length() - 1
    circuit = qram_circuit(cells).decompose(["ccx"])
    assert circuit.num_qubits == bits + cells + 1
    assert circuit.num_nonlocal_gates() == 16 * cells - 14 + (cells - bits - 1)  # the query is taken back by the tree


def test_the_angles_hold_the_values() -> None:
    values = np.random.default_rng(0).normal(size=(3, 8))
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    np.testing.assert_allclose(qram_values(qram_angles(values)), unit, atol=1e-12)


def test_other_numbers_of_cells_are_refused() -> None:
    for cells in (1, 3, 32):
        with pytest.raises(ValueError, match=f"2, 4, 8 or 16 cells, not {cells}"):
            qram_circuit(cells)
