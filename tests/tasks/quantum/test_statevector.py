"""The exact samplers against the circuits themselves."""

from __future__ import annotations

import numpy as np
import pytest
from qiskit.quantum_info import Statevector

from tasks.combinatorial.exact import all_bits
from tasks.combinatorial.qubo import Qubo
from tasks.quantum.qaoa import dicke_qaoa_circuit, linear_ramp, qaoa_circuit
from tasks.quantum.statevector import dicke_qaoa_probabilities, draw, energies_of_all, qaoa_probabilities


def random_qubo(n: int, seed: int) -> Qubo:
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.normal(size=(n, n)), 1)
    return Qubo(rng.normal(size=n), upper + upper.T, offset=0.7)


@pytest.mark.parametrize(("n", "layers"), [(1, 1), (4, 3), (7, 5)])
def test_the_probabilities_are_those_of_the_circuit(n: int, layers: int) -> None:
    qubo, ramp = random_qubo(n, n), linear_ramp(layers)
    circuit = qaoa_circuit(qubo, *ramp).remove_final_measurements(inplace=False)
    assert qaoa_probabilities(qubo, *ramp) == pytest.approx(Statevector(circuit).probabilities(), abs=1e-12)


@pytest.mark.parametrize(("n", "k", "layers"), [(4, 2, 3), (5, 1, 2), (7, 3, 6)])
def test_the_probabilities_of_subsets_are_those_of_the_dicke_circuit(n: int, k: int, layers: int) -> None:
    qubo, ramp = random_qubo(n, 10 + n), linear_ramp(layers)
    circuit = dicke_qaoa_circuit(qubo, k, *ramp).remove_final_measurements(inplace=False)
    subsets, probabilities = dicke_qaoa_probabilities(qubo, k, *ramp)
    expected = Statevector(circuit).probabilities()
    assert probabilities == pytest.approx(expected[subsets], abs=1e-10)
    assert expected[subsets].sum() == pytest.approx(1)


def test_drawn_bits_follow_the_probabilities() -> None:
    rng = np.random.default_rng(5)
    bits = draw(np.array([0.0, 0.25, 0.0, 0.75]), 2, 4000, rng)
    assert bits.shape == (4000, 2)
    assert bits[:, 0].all()  # strings 1 and 3
    assert bits[:, 1].mean() == pytest.approx(0.75, abs=0.03)
    assert set(draw(np.array([0.5, 0.5]), 3, 20, rng, np.array([3, 6])).sum(axis=1)) == {2}


@pytest.mark.parametrize("n", [1, 5])
def test_a_warm_start_is_that_of_the_circuit_and_the_ground_state_of_its_mixer(n: int) -> None:
    qubo, ramp, start = random_qubo(n, n), linear_ramp(3), np.random.default_rng(n).uniform(0.1, 0.9, n)
    circuit = qaoa_circuit(qubo, *ramp, start).remove_final_measurements(inplace=False)
    assert qaoa_probabilities(qubo, *ramp, start) == pytest.approx(Statevector(circuit).probabilities(), abs=1e-12)
    still = np.zeros(3), ramp[1]
    found = qaoa_probabilities(qubo, *still, start)
    ones = [found.reshape(-1, 2, 2**i)[:, 1].sum() for i in range(n)]
    assert ones == pytest.approx(start)
    assert qaoa_probabilities(qubo, *ramp, np.full(n, 0.5)) == pytest.approx(qaoa_probabilities(qubo, *ramp))


def test_the_diagonal_holds_the_energy_of_every_bit_string() -> None:
    qubo = random_qubo(6, 3)
    assert energies_of_all(qubo) == pytest.approx(qubo.energies(all_bits(6)))
