import numpy as np
import pytest
from qiskit.primitives import StatevectorSampler

from tasks.quantum.kernels import estimate_overlaps, estimate_pairs, exact_fidelities, gram


class Counting(StatevectorSampler):  # type: ignore[misc]
    """A statevector sampler that remembers what it was asked."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed=seed)
        self.asked: list[tuple[int, ...]] = []

    def run(self, pubs, *, shots=None):  # type: ignore[no-untyped-def]
        pubs = list(pubs)
        self.asked.append(tuple(len(values) for _, values in pubs))
        return super().run(pubs, shots=shots)


def test_all_pairs_are_one_parametric_pub_of_one_job() -> None:
    rng = np.random.default_rng(0)
    sampler = Counting(1)
    estimate_overlaps(rng.normal(size=(3, 6)), rng.normal(size=(4, 6)), sampler, 16)
    gram(rng.normal(size=(5, 6)), sampler, 16)
    assert sampler.asked == [(12,), (10,)]


def test_estimates_lie_within_the_shot_noise_of_the_exact_fidelities() -> None:
    rng = np.random.default_rng(2)
    left, right = rng.normal(size=(6, 8)), rng.normal(size=(5, 8))
    shots = 4096
    exact = exact_fidelities(left, right)
    found = estimate_overlaps(left, right, StatevectorSampler(seed=3), shots)
    z = (found - exact) / np.sqrt(exact * (1 - exact) / shots + 1e-9)
    assert np.abs(z).max() < 4
    assert 0.5 < np.sqrt(np.mean(z**2)) < 1.5  # binomial noise, not less: nothing but shots was used


def test_a_gram_matrix_is_symmetric_with_unit_diagonal() -> None:
    vectors = np.random.default_rng(4).normal(size=(5, 4))
    found = gram(vectors, StatevectorSampler(seed=5), 2048)
    np.testing.assert_array_equal(found, found.T)
    np.testing.assert_array_equal(np.diag(found), 1)
    np.testing.assert_allclose(found, exact_fidelities(vectors, vectors), atol=0.06)


def test_eight_qubits_give_the_squared_cosine() -> None:
    rng = np.random.default_rng(6)
    base = rng.normal(size=256)
    vectors = np.stack([base, base, base + rng.normal(size=256), -base])
    found = estimate_pairs(vectors, np.array([[0, 1], [0, 3], [0, 2]]), StatevectorSampler(seed=7), 1024)
    assert found[0] == 1
    assert found[1] == 1
    assert found[2] == pytest.approx(exact_fidelities(vectors[:1], vectors[2:3])[0, 0], abs=0.06)


def test_no_pairs_need_no_job_and_bad_input_is_refused() -> None:
    sampler = Counting(0)
    assert estimate_pairs(np.ones((2, 2)), np.zeros((0, 2), int), sampler, 8).shape == (0,)
    assert sampler.asked == []
    with pytest.raises(ValueError, match="at least 1 shot"):
        estimate_pairs(np.ones((2, 2)), np.array([[0, 1]]), sampler, 0)
    with pytest.raises(ValueError, match=r"\(p, 2\)"):
        estimate_pairs(np.ones((2, 2)), np.array([0, 1]), sampler, 8)
