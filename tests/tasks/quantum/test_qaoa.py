from __future__ import annotations

from itertools import combinations
from math import comb
from typing import Any

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.primitives import StatevectorSampler
from qiskit.quantum_info import Statevector

from tasks.combinatorial.exact import all_bits, minimise, minimise_cardinality, subsets
from tasks.combinatorial.qubo import Qubo
from tasks.quantum.dicke import prepare_dicke
from tasks.quantum.qaoa import (
    dicke_qaoa_circuit,
    linear_ramp,
    qaoa_circuit,
    round_robin,
    sample_dicke_qaoa,
    sample_qaoa,
    scale,
    sector_scale,
)


def sparse(n: int, seed: int) -> Qubo:
    rng = np.random.default_rng(seed)
    weights = rng.integers(1, 11, n).astype(float)
    penalties = np.zeros((n, n))
    for i, j in combinations(range(n), 2):
        if rng.random() < 0.35:
            penalties[i, j] = penalties[j, i] = min(weights[i], weights[j]) + 1
    return Qubo(-weights, penalties)


def dense(n: int, seed: int) -> Qubo:
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(n, n // 2))
    gram = factors @ factors.T
    linear = np.diag(gram) + np.abs(rng.normal(size=n))
    np.fill_diagonal(gram, 0.0)
    return Qubo(linear, gram + gram.T)


def probabilities(circuit: QuantumCircuit) -> np.ndarray:
    p: np.ndarray = Statevector(circuit.remove_final_measurements(inplace=False)).probabilities()
    return p


def ratio(qubo: Qubo, circuit: QuantumCircuit, allowed: np.ndarray) -> tuple[float, float]:
    """Return (mean - E) / (mean - optimum) and P(optimum) over the uniform one."""
    p = probabilities(circuit)[allowed]
    energies = qubo.energies(all_bits(qubo.size)[allowed])
    at_optimum = np.isclose(energies, energies.min())
    mean = energies.mean()
    return float((mean - p @ energies) / (mean - energies.min())), float(p[at_optimum].sum() / at_optimum.mean())


@pytest.mark.parametrize(("n", "k"), [(n, k) for n in range(1, 7) for k in range(n + 1)])
def test_dicke_amplitudes(n: int, k: int) -> None:
    ones = all_bits(n).sum(axis=1)
    expected = (ones == k) / np.sqrt(comb(n, k))
    np.testing.assert_allclose(Statevector(prepare_dicke(n, k)).data, expected, atol=1e-12)


def test_dicke_preparation_is_counted_in_two_qubit_gates() -> None:
    """At most 6 CX for each of fewer than n * k blocks (arXiv 1904.07358: O(kn) gates)."""
    for n, k in ((8, 4), (14, 5), (16, 12)):
        counts = prepare_dicke(n, k).count_ops()
        assert set(counts) <= {"x", "ry", "cx"}
        assert counts["cx"] <= 6 * n * min(k, n - k)


def test_the_ramp_is_the_published_one() -> None:
    gammas, betas = linear_ramp(3)
    np.testing.assert_allclose(gammas, [1 / 3, 2 / 3, 1.0])
    np.testing.assert_allclose(betas, [0.6, 0.4, 0.2])
    with pytest.raises(ValueError, match="at least 1 layer"):
        linear_ramp(0)


def test_one_qubit_circuit_has_the_closed_form() -> None:
    """H = x scaled to a deviation of 1/2: p(1) = (1 - sin(gamma) sin(2 beta)) / 2."""
    for gamma, beta in ((0.4, 0.3), (1.0, 0.6)):
        p = probabilities(qaoa_circuit(Qubo(np.array([7.0]), np.zeros((1, 1))), [gamma], [beta]))
        assert p[1] == pytest.approx((1 - np.sin(gamma) * np.sin(2 * beta)) / 2)


def test_circuits_use_bound_native_gates_only() -> None:
    circuit = qaoa_circuit(dense(5, 0), *linear_ramp(2))
    assert set(circuit.count_ops()) == {"h", "rz", "rzz", "rx", "measure", "barrier"}
    assert circuit.num_parameters == 0
    assert circuit.cregs[0].name == "meas"
    counts = dicke_qaoa_circuit(dense(5, 0), 2, *linear_ramp(2)).count_ops()
    assert counts["rxx"] == counts["ryy"] == 2 * comb(5, 2)


@pytest.mark.parametrize("seed", range(3))
def test_scales_in_closed_form_are_the_deviations_of_the_energies(seed: int) -> None:
    for n in (1, 2, 3, 4, 7):
        qubo = dense(n, seed)
        assert scale(qubo) == pytest.approx(np.std(qubo.energies(all_bits(n))), abs=1e-9)
        for k in range(n + 1):
            assert sector_scale(qubo, k) == pytest.approx(np.std(qubo.energies(subsets(n, k))), abs=1e-9)


def test_the_scale_of_the_coefficients_does_not_matter() -> None:
    qubo = sparse(6, 0)
    larger = Qubo(1e3 * qubo.linear, 1e3 * qubo.quadratic, 5.0)
    np.testing.assert_allclose(
        probabilities(qaoa_circuit(qubo, *linear_ramp(2))), probabilities(qaoa_circuit(larger, *linear_ramp(2)))
    )


@pytest.mark.parametrize("make", [sparse, dense])
@pytest.mark.parametrize("n", [8, 10])
def test_the_ratio_is_positive_and_rises_with_depth(make, n: int) -> None:  # type: ignore[no-untyped-def]
    for seed in range(3):
        qubo = make(n, seed)
        ratios = [ratio(qubo, qaoa_circuit(qubo, *linear_ramp(p)), np.ones(2**n, bool))[0] for p in (1, 2, 3, 5, 10)]
        assert ratios[0] > 0
        assert (np.diff(ratios) > 0).all()


@pytest.mark.parametrize("n", [10, 12])
def test_the_optimum_is_ten_times_likelier_than_by_chance(n: int) -> None:
    for seed in range(3):
        qubo = sparse(n, seed)
        assert ratio(qubo, qaoa_circuit(qubo, *linear_ramp(3)), np.ones(2**n, bool))[1] >= 10


@pytest.mark.parametrize(("n", "k"), [(8, 3), (10, 5)])
def test_the_dicke_circuit_keeps_the_weight_and_rises_with_depth(n: int, k: int) -> None:
    allowed = all_bits(n).sum(axis=1) == k
    for seed in range(3):
        qubo = dense(n, seed)
        ratios, lifts = [], []
        for p in (1, 3, 5, 8):
            circuit = dicke_qaoa_circuit(qubo, k, *linear_ramp(p))
            assert probabilities(circuit)[allowed].sum() == pytest.approx(1.0, abs=1e-9)
            r, lift = ratio(qubo, circuit, allowed)
            ratios.append(r)
            lifts.append(lift)
        assert ratios[0] > 0
        assert (np.diff(ratios) > 0).all()
        assert lifts[1] > 4.5


def test_the_dicke_state_is_the_ground_state_of_the_complete_graph_and_not_of_the_ring() -> None:
    """Overlap with the ring's ground state: .81 at (8, 4), as the protocol states."""
    n, k = 8, 4
    states = subsets(n, k)
    hop = (states.astype(int) @ states.T == k - 1).astype(float)
    moved = np.abs(states[:, None].astype(int) - states[None])
    ring = hop * (moved * np.roll(moved, 1, axis=2)).any(axis=2)
    dicke = np.full(len(states), 1 / np.sqrt(len(states)))
    complete = -np.linalg.eigh(-hop)[1][:, 0]
    assert abs(complete @ dicke) ** 2 == pytest.approx(1.0)
    assert abs(np.linalg.eigh(-ring)[1][:, 0] @ dicke) ** 2 == pytest.approx(0.81, abs=0.01)


def test_the_trotterised_mixer_barely_moves_its_ground_state() -> None:
    n, k = 8, 3
    flat = Qubo(np.zeros(n), np.zeros((n, n)))
    circuit = dicke_qaoa_circuit(flat, k, *linear_ramp(3)).remove_final_measurements(inplace=False)
    overlap = abs(Statevector(prepare_dicke(n, k)).inner(Statevector(circuit))) ** 2
    assert 0.95 < overlap < 1.0


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_a_tournament_has_every_pair_once_in_disjoint_rounds(n: int) -> None:
    pairs = round_robin(n)
    assert sorted(pairs) == list(combinations(range(n), 2))
    for start in range(0, len(pairs), max(1, n // 2)):
        flat = [i for pair in pairs[start : start + n // 2] for i in pair]
        assert len(set(flat)) == len(flat)


class _Counting:
    """A real sampler that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0
        self._inner = StatevectorSampler(seed=1)

    def run(self, pubs: Any, *, shots: int) -> Any:
        self.calls += 1
        return self._inner.run(pubs, shots=shots)


def test_a_batch_is_one_job_and_columns_are_variables() -> None:
    qubos = [sparse(n, n) for n in (4, 6, 6)]
    sampler = _Counting()
    samples = sample_qaoa(qubos, sampler, 400, linear_ramp(5))
    assert sampler.calls == 1
    assert [s.shape for s in samples] == [(400, 4), (400, 6), (400, 6)]
    for qubo, bits in zip(qubos, samples, strict=True):
        assert bits.dtype == np.uint8
        assert qubo.energies(bits).min() == pytest.approx(qubo.energies(minimise(qubo))[0])
        assert qubo.energies(bits).mean() < qubo.energies(all_bits(qubo.size)).mean()


def test_dicke_samples_have_k_ones_and_reach_the_optimum() -> None:
    qubo = dense(8, 4)
    bits = sample_dicke_qaoa(qubo, 3, StatevectorSampler(seed=2), 300, linear_ramp(3))
    assert set(bits.sum(axis=1)) == {3}
    assert qubo.energies(bits).min() == pytest.approx(qubo.energies(minimise_cardinality(qubo, 3))[0])


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one variable"):
        qaoa_circuit(Qubo(np.zeros(0), np.zeros((0, 0))), [1.0], [1.0])
    with pytest.raises(ValueError, match=r"gammas \(2\) and betas \(1\)"):
        qaoa_circuit(dense(3, 0), [1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match=r"k \(4\)"):
        dicke_qaoa_circuit(dense(3, 0), 4, [1.0], [1.0])
    assert sample_qaoa([], StatevectorSampler(), 10, linear_ramp(1)) == []
