from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks.bench import make_bench
from tasks.contract import Bench
from tasks.finetuning.low_rank.bank import leading
from tasks.finetuning.low_rank.options import Options
from tasks.finetuning.low_rank.problem import Matrix, best_error, quality
from tasks.finetuning.low_rank.subtask import LOW_RANK
from tasks.quantum.variational_svd import orthogonal, train_vectors
from tasks.stage import Context, State


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(scratch=tmp_path)


@pytest.fixture(scope="module")
def problem() -> Matrix:
    return LOW_RANK.example(np.random.default_rng(7))


def solved(problem: Matrix, name: str, bench: Bench) -> Any:
    return LOW_RANK.arm(name).solve(problem, bench)


def test_a_smaller_problem_is_the_leading_part_of_a_matrix() -> None:
    rng = np.random.default_rng(0)
    whole = Matrix(rng.standard_normal((64, 160)), rng.standard_normal((9, 160)), rng.standard_normal((9, 160)), 16)
    small = leading(whole, 24)
    assert LOW_RANK.size(small) == 24
    assert small.rank == 6
    np.testing.assert_array_equal(small.weight, whole.weight[:24, :24])
    np.testing.assert_array_equal(small.held_out, whole.held_out[:, :24])


def test_truncated_svd_has_the_least_weight_error(problem: Matrix, bench: Bench) -> None:
    least = best_error(problem.weight, problem.rank)
    for arm in LOW_RANK.arms:
        found = arm.solve(problem, bench)
        error = np.linalg.norm(problem.weight - found.weight)
        assert error >= least - 1e-9, arm.name
        assert found.stored <= problem.rank * sum(problem.weight.shape), arm.name
    assert np.linalg.norm(problem.weight - solved(problem, "svd", bench).weight) == pytest.approx(least)


def test_weighted_svd_has_the_least_output_error_on_the_inputs_it_read(problem: Matrix, bench: Bench) -> None:
    seen = replace(problem, held_out=problem.inputs)
    best = quality(seen, solved(seen, "weighted-svd", bench))[0]
    for arm in LOW_RANK.arms:
        assert quality(seen, arm.solve(seen, bench))[0] <= best + 1e-4, arm.name


def test_trained_circuits_find_the_singular_vectors() -> None:
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.standard_normal((3, 4, 4)))[0] for _ in range(2))
    matrices = u * np.array([2.0, 1.0, 0.3, 0.1]) @ v.transpose(0, 2, 1)
    first, second = train_vectors(matrices, 2, layers=6, steps=150, seed=0)
    found = np.einsum("mij,mik,mkj->mj", first[:, :, :2], matrices, second[:, :, :2])
    assert found == pytest.approx(np.tile([2.0, 1.0], (3, 1)), rel=0.05)
    with pytest.raises(ValueError, match="power of two"):
        train_vectors(np.ones((1, 3, 3)), 1, 1, 1, 0)


def test_circuits_are_orthogonal() -> None:
    made = orthogonal(torch.randn(2, 3, 3, dtype=torch.float64)).numpy()
    assert made @ made.transpose(0, 2, 1) == pytest.approx(np.tile(np.eye(8), (2, 1, 1)), abs=1e-12)


def test_many_shots_read_what_the_twin_has(problem: Matrix, bench: Bench) -> None:
    many = replace(problem, shots=4000)
    fresh = [replace(bench, rng=np.random.default_rng(2)) for _ in range(2)]
    shots, exact = (solved(many, name, b) for name, b in zip(("variational", "variational-exact"), fresh, strict=True))
    assert np.linalg.norm(shots.weight - exact.weight) < 0.2 * np.linalg.norm(exact.weight)


def test_shapes_that_do_not_fit_are_refused(problem: Matrix) -> None:
    with pytest.raises(ValueError, match="blocks of 3 do not divide"):
        replace(problem, block=3)
    with pytest.raises(ValueError, match="rank 9 should be 1 to 8"):
        replace(problem, rank=9)


def test_a_run_reports_what_an_approximation_costs(context: Context, bench: Bench) -> None:
    posed = LOW_RANK.pose(context, State(), Options(positions=64, steps=3, share=0.5))
    assert posed is not None
    state = LOW_RANK.apply(context, State(), posed, solved(posed, "svd", bench))
    found = state.facts["low_rank"]
    assert found["weight_error"] == pytest.approx(1.0, rel=1e-5)
    assert found["before"] != found["after"]
    assert LOW_RANK.pose(context, State(), Options(share=0)) is None
