import numpy as np
import pytest
from qiskit.primitives import StatevectorSampler
from qiskit.quantum_info import Statevector

from tasks.quantum.encodings import amplitude_angles
from tasks.quantum.rotations import block_circuit, exact_frequencies, loaded, read, rotate_by_circuits


def drawn(blocks: int, size: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    matrices = np.stack([np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(blocks)])
    return matrices, rng.standard_normal((rows, blocks * size))


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("size", [2, 4, 8])
def test_the_circuit_has_the_probabilities_of_the_closed_form_and_they_give_the_rotation(
    size: int, signed: bool
) -> None:
    (matrix,), vectors = drawn(1, size, 2)
    circuit = block_circuit(matrix, signed=signed).remove_final_measurements(inplace=False)
    angles = amplitude_angles(loaded(vectors, signed=signed))
    found = np.stack([Statevector(circuit.assign_parameters(row)).probabilities() for row in angles])
    exact = exact_frequencies(matrix, vectors, signed=signed)
    assert found == pytest.approx(exact, abs=1e-12)
    rotated = vectors @ matrix.T
    wanted = rotated if signed else np.sign(vectors) * np.abs(rotated)
    assert read(exact, vectors, signed=signed) == pytest.approx(wanted, abs=1e-10)


def test_with_the_reference_qubit_the_estimate_is_unbiased_and_as_noisy_as_said() -> None:
    matrices, vectors = drawn(2, 4, 3)
    vectors[1, :4] = 0  # a block of zeros needs no circuit
    shots = 4096
    found = rotate_by_circuits(matrices, vectors, StatevectorSampler(seed=1), shots, signed=True)
    wanted = np.hstack([vectors[:, :4] @ matrices[0].T, vectors[:, 4:] @ matrices[1].T])
    norms = np.repeat(np.linalg.norm(vectors.reshape(3, 2, 4), axis=2), 4, axis=1)
    deviation = norms * np.sqrt(4 / shots)
    assert (np.abs(found - wanted) <= 4 * deviation).all()
    assert (found[1, :4] == 0).all()
    assert np.abs(found - wanted).max() > 0


def test_shapes_that_do_not_match_are_refused() -> None:
    matrices, vectors = drawn(2, 4, 3)
    with pytest.raises(ValueError, match="do not match"):
        rotate_by_circuits(matrices, vectors[:, :7], StatevectorSampler(seed=1), 16, signed=True)
    with pytest.raises(ValueError, match="no power of two"):
        rotate_by_circuits(drawn(1, 3, 1)[0], vectors[:, :3], StatevectorSampler(seed=1), 16, signed=True)
