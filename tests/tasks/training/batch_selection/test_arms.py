from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from math import e
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.bench import make_bench
from tasks.contract import Bench
from tasks.quantum.qaoa import linear_ramp
from tasks.quantum.statevector import dicke_qaoa_probabilities
from tasks.training.batch_selection import arms
from tasks.training.batch_selection.bank import example
from tasks.training.batch_selection.problem import Pool, quality


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(scratch=tmp_path)


@pytest.fixture(scope="module")
def pool() -> Pool:
    return example(np.random.default_rng(7))


def test_the_block_problem_is_the_published_sum(pool: Pool, bench: Bench) -> None:
    vectors, values = arms.features(pool, bench), arms.losses(pool, bench)
    informative = (values - values.mean()) / values.std()
    qubo = arms.block_qubos(pool, bench)[1]
    chosen = np.array([6, 9])
    bits = np.isin(np.arange(6, 12), chosen)
    expected = -informative[chosen].sum() / pool.keep + arms.DIVERSITY * float(vectors[6] @ vectors[9])
    assert qubo.energies(bits)[0] == pytest.approx(expected, abs=1e-6)


def test_the_exact_arm_takes_the_best_of_all_subsets(pool: Pool, bench: Bench) -> None:
    chosen = arms.OTHERS[6]
    assert chosen.name == "exact-on-blocks"
    rows = np.array(chosen.solve(pool, bench))
    for number, qubo in enumerate(arms.block_qubos(pool, bench)):
        inside = rows[rows // pool.block == number] - number * pool.block
        every = [np.isin(np.arange(6), pair) for pair in combinations(range(6), 2)]
        assert qubo.energies(np.isin(np.arange(6), inside))[0] == pytest.approx(min(qubo.energies(every)))


def test_lazy_facility_location_is_the_greedy_one(pool: Pool, bench: Bench) -> None:
    vectors = arms.features(pool, bench)
    alike = np.maximum(vectors @ vectors.T, 0)

    def value(rows: list[int]) -> float:
        return float(alike[rows].max(axis=0).sum())

    greedy: list[int] = []
    while len(greedy) < pool.chosen:
        left = [row for row in range(len(alike)) if row not in greedy]
        greedy.append(max(left, key=lambda row: value([*greedy, row])))
    found = list(arms.choose_facilities(pool, bench))
    assert value(found) == pytest.approx(value(greedy), rel=1e-5)


def test_facility_location_keeps_its_guarantee(pool: Pool, bench: Bench) -> None:
    small = replace(pool, tokens=pool.tokens[:12])
    vectors = arms.features(small, bench)
    alike = np.maximum(vectors @ vectors.T, 0)
    best = max(alike[list(rows)].max(axis=0).sum() for rows in combinations(range(12), small.chosen))
    found = alike[list(arms.choose_facilities(small, bench))].max(axis=0).sum()
    assert (1 - 1 / e) * best <= found <= best + 1e-6


def test_the_circuits_sample_what_the_twin_computes(pool: Pool, bench: Bench) -> None:
    many = replace(pool, tokens=pool.tokens[:6], shots=20_000)
    qubos = arms.block_qubos(many, bench)
    [bits] = arms._qaoa(many, bench, qubos)
    subsets, expected = dicke_qaoa_probabilities(qubos[0], many.keep, *linear_ramp(arms.LAYERS, arms.GAMMA, arms.BETA))
    numbers = bits @ (1 << np.arange(6))
    measured = np.array([(numbers == subset).mean() for subset in subsets])
    # The circuit's mixer is one Trotter step of pairs, as the twin's: only shot noise is between them.
    assert np.abs(measured - expected).max() < 5 * np.sqrt(0.25 / 20_000)
    assert (
        expected @ qubos[0].energies((subsets[:, None] >> np.arange(6)) & 1)
        < qubos[0].energies((subsets[:, None] >> np.arange(6)) & 1).mean()
    )


@pytest.mark.parametrize("arm", [*arms.OTHERS, arms.CHALLENGER], ids=lambda arm: str(arm.name))
def test_every_selection_has_the_same_size(pool: Pool, bench: Bench, arm: Any) -> None:
    rows = arm.solve(pool, bench)
    assert len(set(rows)) == len(rows) == pool.chosen
    assert list(rows) == sorted(rows)
    assert rows[0] >= 0
    assert rows[-1] < len(pool.tokens)


def test_a_window_that_the_other_half_repeats_has_a_low_loss(pool: Pool, bench: Bench) -> None:
    before = arms.losses(pool, bench)
    repeated = pool.tokens.copy()
    repeated[1] = repeated[0]
    after = arms.losses(replace(pool, tokens=repeated), replace(bench, once=lambda _, make: make()))
    assert after[0] < 0.75 * before[0]
    assert after[1] < 0.75 * before[1]


def test_without_held_out_text_the_quality_is_unknown(pool: Pool) -> None:
    assert quality(replace(pool, held_out=None), tuple(range(16))) == ()


def test_a_pool_divides_into_blocks(pool: Pool) -> None:
    with pytest.raises(ValueError, match="47 windows, which do not divide into 6s"):
        replace(pool, tokens=pool.tokens[:47])
    with pytest.raises(ValueError, match="between 1 and 5"):
        replace(pool, keep=6)
