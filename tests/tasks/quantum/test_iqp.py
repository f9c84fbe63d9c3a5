"""IQP kernels against Qiskit's statevector, and their estimates against their exact values."""

from __future__ import annotations

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.primitives import StatevectorSampler
from qiskit.quantum_info import SparsePauliOp, Statevector

from tasks.quantum.iqp import (
    BASES,
    bloch_circuit,
    estimate_bloch,
    estimate_weights,
    exact_bloch,
    exact_fidelity_gram,
    exact_weights,
    hamming_kernel,
    iqp_phases,
    overlap_circuit,
)

PHASES = iqp_phases(np.random.default_rng(3).normal(size=(5, 3)), 0.8)
PAIRS = np.stack(np.triu_indices(5, 1), axis=1)


def state(circuit: QuantumCircuit, values: np.ndarray) -> Statevector:
    bare = circuit.remove_final_measurements(inplace=False)
    assert bare is not None
    return Statevector(bare.assign_parameters(dict(zip(bare.parameters, values, strict=True))))


def test_the_outcomes_of_a_pair_are_those_of_its_circuit_and_of_the_pair_turned_round() -> None:
    for (i, j), exact in zip(PAIRS, exact_weights(PHASES, PAIRS), strict=True):
        probabilities = state(overlap_circuit(3), PHASES[i] - PHASES[j]).probabilities()
        by_weight = [probabilities[[b for b in range(8) if b.bit_count() == k]].sum() for k in range(4)]
        assert exact == pytest.approx(by_weight, abs=1e-12)
    assert exact_weights(PHASES, PAIRS[:, ::-1]) == pytest.approx(exact_weights(PHASES, PAIRS), abs=1e-12)


def test_share_0_is_the_fidelity_and_share_1_is_constant() -> None:
    weights = exact_weights(PHASES, PAIRS)
    assert hamming_kernel(weights, 0.0) == pytest.approx(exact_fidelity_gram(PHASES)[PAIRS[:, 0], PAIRS[:, 1]])
    assert hamming_kernel(weights, 1.0) == pytest.approx(1.0)


def test_every_kernel_is_positive_semidefinite() -> None:
    for share in (0.0, 0.5, 0.9):
        gram = np.eye(5)
        gram[tuple(PAIRS.T)] = hamming_kernel(exact_weights(PHASES, PAIRS), share)
        assert np.linalg.eigvalsh(np.maximum(gram, gram.T)).min() > -1e-12


def test_bloch_vectors_are_expectations_of_the_state_of_two_layers() -> None:
    exact = exact_bloch(PHASES)
    for row, values in zip(exact, PHASES, strict=True):
        found = state(bloch_circuit(3, "Z"), values)
        for number, basis in enumerate(BASES):
            for qubit in range(3):
                operator = SparsePauliOp.from_sparse_list([(basis, [qubit], 1)], 3)
                assert row[3 * number + qubit] == pytest.approx(found.expectation_value(operator).real, abs=1e-12)


def test_estimates_agree_with_the_exact_values_within_shot_noise() -> None:
    sampler, shots = StatevectorSampler(seed=1), 4096
    assert estimate_weights(PHASES, PAIRS, sampler, shots) == pytest.approx(exact_weights(PHASES, PAIRS), abs=0.04)
    assert estimate_bloch(PHASES, sampler, shots) == pytest.approx(exact_bloch(PHASES), abs=0.08)
    assert estimate_weights(PHASES, PAIRS[:0], sampler, 1).shape == (0, 4)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 shot"):
        estimate_weights(PHASES, PAIRS, StatevectorSampler(), 0)
    with pytest.raises(ValueError, match="4 phases belong to no number of qubits"):
        exact_bloch(np.zeros((2, 4)))
