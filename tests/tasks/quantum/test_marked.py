import numpy as np
import pytest
from qiskit.quantum_info import Statevector

from tasks.quantum.grover import success
from tasks.quantum.marked import best_iterations, marked_search, marks


@pytest.mark.parametrize(("qubits", "iterations"), [(2, 1), (3, 2), (4, 3), (4, 5)])
def test_the_circuit_finds_every_entry_with_the_closed_form_probability(qubits: int, iterations: int) -> None:
    size = 1 << qubits
    template = marked_search(qubits, iterations).remove_final_measurements(inplace=False)
    for entry, angles in enumerate(marks(np.arange(size), qubits)):
        found = Statevector(template.assign_parameters(angles)).probabilities()
        right = success(1, size, iterations)
        expected = np.full(size, (1 - right) / (size - 1))
        expected[entry] = right
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_published_probabilities_and_iterations() -> None:
    # Nielsen and Chuang, section 6.1: one of four entries is found with certainty by one iteration.
    assert success(1, 4, 1) == pytest.approx(1.0)
    assert success(1, 16, 3) == pytest.approx(0.9613, abs=1e-4)
    assert [best_iterations(1 << n) for n in (2, 4, 6, 8)] == [1, 3, 6, 12]


def test_a_search_without_iteration_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 qubits and 1 iteration, not 4 and 0"):
        marked_search(4, 0)
