from __future__ import annotations

import numpy as np
import pytest
from qiskit.quantum_info import Statevector
from qiskit_aer.primitives import SamplerV2

from tasks.combinatorial.qubo import Qubo
from tasks.quantum.grover import (
    draw_from_table,
    grover_circuit,
    measure,
    minimise_by_rotations,
    success,
    value_circuit,
    with_integers,
)

N, VALUE_BITS = 5, 5
BITS = (np.arange(2**N)[:, None] >> np.arange(N) & 1).astype(np.uint8)


def problem(seed: int) -> Qubo:
    rng = np.random.default_rng(seed)
    pairs = np.triu(rng.normal(size=(N, N)), 1)
    return with_integers(Qubo(rng.normal(size=N), pairs + pairs.T), VALUE_BITS)


def test_integers_fit_the_value_register() -> None:
    for seed in range(20):
        energies = problem(seed).energies(BITS)
        assert np.array_equal(energies, np.rint(energies))
        assert np.ptp(energies) < 2 ** (VALUE_BITS - 1)
    with pytest.raises(ValueError, match="not 1 bits"):
        with_integers(problem(0), 1)


def test_the_circuit_computes_every_value_in_twos_complement() -> None:
    qubo = problem(1)
    for row in BITS[::5]:
        circuit = value_circuit(qubo, threshold=2, value_bits=VALUE_BITS)
        start = Statevector.from_int(int(row @ (1 << np.arange(N))), 2 ** (N + VALUE_BITS))
        found = start.evolve(circuit).probabilities(range(N, N + VALUE_BITS))
        assert found[int(qubo.energies(row)[0] - 2) % 2**VALUE_BITS] == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("rotations", [0, 1, 2, 3])
def test_rotations_succeed_as_often_as_the_law_says(rotations: int) -> None:
    """Success agrees with sin^2((2j + 1) theta) within three standard errors of 2,000 shots."""
    qubo, shots = problem(2), 2000
    threshold = int(np.sort(qubo.energies(BITS))[3])
    marked = int((qubo.energies(BITS) < threshold).sum())
    circuit = grover_circuit(qubo, threshold, rotations, VALUE_BITS)
    rows = SamplerV2(seed=1).run([circuit], shots=shots).result()[0].data.meas.to_bool_array(order="little")
    share = float((qubo.energies(rows) < threshold).mean())
    law = success(marked, 2**N, rotations)
    assert 0 < marked <= 3
    assert abs(share - law) < 3 * np.sqrt(law * (1 - law) / shots)


def test_the_gates_of_the_oracle_do_not_grow_with_the_bit_strings() -> None:
    """Eight bits have eight times the strings of five, the oracle at most the ratio of the coefficients, 36 to 15."""
    sizes = []
    for n in (5, 8):
        ones = np.ones((n, n)) - np.eye(n)
        sizes.append(value_circuit(Qubo(np.ones(n), ones), 0, 6).size())
    assert sizes[1] / sizes[0] < 36 / 15


def test_the_minimum_is_found_and_queries_are_counted() -> None:
    qubo = problem(3)
    energies = qubo.energies(BITS)
    found = minimise_by_rotations(
        qubo, BITS[int(energies.argmax())], measure(qubo, VALUE_BITS, SamplerV2(seed=2)), 60, np.random.default_rng(1)
    )
    assert found.queries == 60
    assert found.circuits == len(found.samples) <= 60
    assert qubo.energies(found.samples).min() == energies.min()


def test_the_table_has_the_distribution_of_the_circuit() -> None:
    qubo, rng = problem(2), np.random.default_rng(0)
    threshold = int(np.sort(qubo.energies(BITS))[3])
    draw = draw_from_table(qubo, BITS, rng)
    share = np.mean([qubo.energies(draw(threshold, 2))[0] < threshold for _ in range(2000)])
    law = success(int((qubo.energies(BITS) < threshold).sum()), 2**N, 2)
    assert abs(share - law) < 3 * np.sqrt(law * (1 - law) / 2000)
