from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from tasks.combinatorial.exact import subsets
from tasks.contract import Bench, Kind
from tasks.inference.pruning import arms as pruning
from tasks.inference.pruning.problem import Pruning, examine_surrogate, gradient_qubo
from tasks.inference.pruning.subtask import PRUNING
from tasks.inference.pruning.walk import bits_per_byte_without


@pytest.fixture(scope="module")
def problem() -> Pruning:
    return PRUNING.example(np.random.default_rng(7))


@pytest.fixture(scope="module")
def truth(problem: Pruning) -> dict[tuple[int, ...], float]:
    """The true calibration loss of every k-subset."""
    n = len(problem.units)
    return {
        chosen: bits_per_byte_without(problem.model, problem.units, problem.calibration, chosen)
        for chosen in combinations(range(n), problem.k)
    }


def solve(name: str, problem: Pruning, bench: Bench) -> tuple[int, ...]:
    return PRUNING.arm(name).solve(problem, bench)


def loss(problem: Pruning, removed: tuple[int, ...]) -> float:
    return bits_per_byte_without(problem.model, problem.units, problem.calibration, removed)


def test_the_surrogate_is_exact_up_to_pairs(problem: Pruning, bench: Bench) -> None:
    qubo = pruning.surrogate(problem, bench)
    n = len(problem.units)
    for removed in [(), *((i,) for i in range(n)), *combinations(range(n), 2)]:
        bits = np.isin(np.arange(n), removed)
        assert qubo.energies(bits)[0] == pytest.approx(loss(problem, removed), abs=1e-5)


def test_the_surrogate_ranks_subsets_as_the_true_loss_does(
    problem: Pruning, truth: dict[tuple[int, ...], float], bench: Bench
) -> None:
    energies = pruning.surrogate(problem, bench).energies(subsets(len(problem.units), problem.k))
    order = {tuple(int(i) for i in np.flatnonzero(row)): e for row, e in zip(subsets(8, 3), energies, strict=True)}
    assert len(truth) == comb(8, 3)
    assert spearmanr([order[key] for key in truth], list(truth.values())).statistic > 0.9


def test_the_surrogate_is_examined_against_the_true_loss(
    problem: Pruning, truth: dict[tuple[int, ...], float], bench: Bench
) -> None:
    found = examine_surrogate(problem, 56, np.random.default_rng(0))
    assert found["spearman"] > 0.9
    assert found["tokens"] == 48 * 32
    gap = truth[pruning.remove_cheapest_singles(problem, bench)] - truth[solve("exact", problem, bench)]
    assert found["interaction_gap_bpb"] == pytest.approx(gap, abs=1e-6)


def test_every_arm_but_nothing_removes_k_units(problem: Pruning, bench: Bench) -> None:
    for arm in PRUNING.arms:
        removed = arm.solve(problem, bench)
        assert isinstance(removed, tuple)
        assert len(set(removed)) == (0 if arm.does_nothing else problem.k)
        assert list(removed) == sorted(removed)
        assert all(type(i) is int for i in removed)


def test_the_surrogates_solvers_agree_with_enumeration(problem: Pruning, bench: Bench) -> None:
    for name in ("swap-annealing", "qaoa", "qaoa-exact", "uniform-repair"):
        assert solve(name, problem, bench) == solve("exact", problem, bench), name
    for name in ("gate-qaoa", "gate-qaoa-exact", "gate-uniform-repair"):
        assert solve(name, problem, bench) == solve("gate-exact", problem, bench), name


def test_the_gates_surrogate_is_the_expansion_of_the_loss(problem: Pruning) -> None:
    """Linear and quadratic coefficients by hand: -mean g + F_ii / 2 and F_ij, F the mean of g g^T, in bits per byte."""
    found = np.array([[1.0, -2.0], [3.0, 4.0]])
    small = replace(problem, units=problem.units[:2], k=1)
    qubo = gradient_qubo(small, found)
    scale = 2 / (np.log(2) * small.calibration.n_bytes.sum())
    np.testing.assert_allclose(qubo.linear, scale * np.array([-2 + 5 / 2, -1 + 10 / 2]))
    assert qubo.quadratic[0, 1] == pytest.approx(scale * 5)


def test_one_backward_pass_ranks_subsets_better_than_chance(
    problem: Pruning, truth: dict[tuple[int, ...], float], bench: Bench
) -> None:
    energies = pruning.gate_surrogate(problem, bench).energies(subsets(len(problem.units), problem.k))
    order = {tuple(int(i) for i in np.flatnonzero(row)): e for row, e in zip(subsets(8, 3), energies, strict=True)}
    found = spearmanr([order[key] for key in truth], list(truth.values()))
    assert found.statistic > 0
    assert found.pvalue < 0.01


def test_judging_by_the_true_loss_is_never_worse_than_the_surrogates_optimum(
    problem: Pruning, truth: dict[tuple[int, ...], float], bench: Bench
) -> None:
    judged = truth[pruning.judge_best(problem, bench)]
    assert judged <= truth[solve("gate-exact", problem, bench)] + 1e-9
    assert judged <= np.median(list(truth.values()))


def test_eight_distinct_states_are_judged_though_all_reads_agree(
    problem: Pruning, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = []

    def count(*given: Any) -> float:
        judged.append(given[3])
        return float(len(judged))

    monkeypatch.setattr(pruning, "bits_per_byte_without", count)
    first = pruning.judge_best(problem, bench)
    assert len(set(judged)) == pruning.JUDGED
    assert first == judged[0] == solve("gate-exact", problem, bench)


def test_greedy_beats_scores_and_chance_on_the_loss_it_sees(
    problem: Pruning, truth: dict[tuple[int, ...], float], bench: Bench
) -> None:
    greedy = truth[pruning.remove_one_by_one(problem, bench)]
    assert greedy < np.mean(list(truth.values()))
    assert greedy <= truth[pruning.remove_cheapest_singles(problem, bench)] + 1e-9
    assert greedy <= truth[pruning.remove_smallest_weights(problem, bench)]
    assert greedy <= np.quantile(list(truth.values()), 0.1)


def test_greedy_takes_the_best_unit_each_time(problem: Pruning, bench: Bench) -> None:
    removed: tuple[int, ...] = ()
    for _ in range(problem.k):
        left = [i for i in range(len(problem.units)) if i not in removed]
        removed = (*removed, min(left, key=lambda i: loss(problem, (*removed, i))))
    assert pruning.remove_one_by_one(problem, bench) == tuple(sorted(removed))


class _Counting:
    """Counts what is evaluated and what is asked for."""

    def __init__(self, bench: Bench) -> None:
        self.losses, self.jobs = 0, 0
        self.asked: list[str] = []
        self._inner = bench

    def map(self, function: Any, items: Any, /) -> Any:
        share = len({len(item.windows) for item in items}) > 0 and len({item.candidates for item in items}) == 1
        self.losses += sum(len(i.candidates) + i.whole for i in items) // (len(items) if share else 1)
        return [function(item) for item in items]

    def once(self, key: str, make: Any, /) -> Any:
        self.asked.append(key)
        return self._inner.once(key, make)

    def run(self, pubs: Any, *, shots: int) -> Any:
        self.jobs += 1
        return self._inner.sampler.run(pubs, shots=shots)


def test_evaluations_are_as_many_as_said(problem: Pruning, bench: Bench) -> None:
    n, k = len(problem.units), problem.k
    counting = _Counting(bench)
    pruning.surrogate(problem, replace(bench, map=counting.map))
    assert counting.losses == 1 + n + n * (n - 1) // 2
    counting = _Counting(bench)
    fresh = replace(bench, map=counting.map, once=lambda _, make: make())
    pruning.remove_one_by_one(problem, fresh)
    assert counting.losses == 1 + sum(n - i for i in range(k))


def test_qaoa_is_one_job_and_its_control_sees_the_same_samples(problem: Pruning, bench: Bench) -> None:
    counting = _Counting(bench)
    watched: Bench = replace(bench, once=counting.once, sampler=counting)
    solve("qaoa", problem, watched)
    assert counting.jobs == 1
    pruning.repair_marginals(problem, watched)
    assert counting.jobs == 1
    assert counting.asked.count("qaoa samples") == 2
    assert "pairwise losses" in counting.asked


def test_only_arms_that_use_the_surrogate_ask_for_it(problem: Pruning, bench: Bench) -> None:
    users: dict[str, set[str]] = {"pairwise losses": set(), "gate gradients": set()}
    for arm in PRUNING.arms:
        counting = _Counting(bench)
        arm.solve(problem, replace(bench, once=counting.once))
        for key, names in users.items():
            names.update({arm.name} if key in counting.asked else ())
    assert users["gate gradients"] == {
        "taylor", "brain-damage", "gate-exact", "gate-judged", "gate-qaoa", "gate-qaoa-exact", "gate-uniform-repair",
    }  # fmt: skip
    assert users["pairwise losses"] == {
        "qaoa", "qaoa-exact", "exact", "swap-annealing", "trotterised-annealing", "trotterised-annealing-exact",
        "uniform-repair", "marginals-repair", "empty-repair",
    }  # fmt: skip


def test_quality_is_measured_on_text_that_no_arm_sees(problem: Pruning) -> None:
    seen = {row.tobytes() for row in problem.calibration.tokens}
    assert not seen & {row.tobytes() for row in problem.selection.tokens}
    expected = -bits_per_byte_without(problem.model, problem.units, problem.selection, (0, 1, 2))
    assert PRUNING.quality(problem, (0, 1, 2)) == pytest.approx((expected,))


def test_doing_nothing_wins_exactly_where_removal_costs_more_than_the_allowance(problem: Pruning, bench: Bench) -> None:
    removed = pruning.remove_one_by_one(problem, bench)
    (pruned,) = PRUNING.quality(problem, removed)
    (nothing,) = PRUNING.quality(replace(problem, allowance=0.0), ())
    cost = nothing - pruned
    for allowance, better in ((cost - 0.01, True), (cost + 0.01, False)):
        posed = replace(problem, allowance=allowance)
        assert (PRUNING.quality(posed, ())[0] > PRUNING.quality(posed, removed)[0]) is better


def test_the_arms_are_those_of_the_design() -> None:
    kinds = {arm.name: arm.kind for arm in PRUNING.arms}
    assert PRUNING.incumbent.name == "greedy"
    assert PRUNING.challenger.name == "qaoa"
    assert kinds["exact"] is Kind.CLASSICAL
    assert kinds["swap-annealing"] is Kind.CLASSICAL
    assert {n for n, kind in kinds.items() if kind is Kind.CONTROL} == {
        "nothing", "random", "uniform-repair", "marginals-repair", "empty-repair", "gate-uniform-repair",
    }  # fmt: skip
    assert [arm.name for arm in PRUNING.arms if arm.does_nothing] == ["nothing"]


def test_an_impossible_k_is_refused(problem: Pruning) -> None:
    with pytest.raises(ValueError, match=r"k \(8\)"):
        replace(problem, k=8)


def test_more_units_than_qubits_are_refused_before_anything_is_evaluated(problem: Pruning, bench: Bench) -> None:
    many = replace(problem, units=problem.units * 4)
    counting = _Counting(bench)
    for name in ("qaoa", "gate-qaoa", "trotterised-annealing", "marginals-repair"):
        with pytest.raises(ValueError, match="32 units need as many qubits"):
            solve(name, many, replace(bench, once=counting.once))
    assert counting.asked == []
