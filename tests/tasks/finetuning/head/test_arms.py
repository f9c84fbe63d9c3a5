from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qiskit_aer.primitives import SamplerV2

from tasks.bench import make_bench
from tasks.finetuning.head.arms import label_by_exact_fidelities
from tasks.finetuning.head.options import Options
from tasks.finetuning.head.problem import FewShot, quality
from tasks.finetuning.head.subtask import HEAD
from tasks.stage import Context, State


@pytest.fixture
def bench(tmp_path: Path) -> Any:
    return lambda seed=1: make_bench(seed, tmp_path, SamplerV2(seed=1))


def apart(n: int = 12, m: int = 20) -> FewShot:
    """Two clouds three deviations apart in 4 dimensions."""
    rng = np.random.default_rng(0)
    labels, truth = np.arange(n) % 2, np.arange(m) % 2
    train, test = (rng.standard_normal((len(y), 4)) + 3 * y[:, None] for y in (labels, truth))
    return FewShot(train, labels.astype(np.int64), test, tuple(truth.tolist()), components=3, layers=1, steps=40)


HEADS = ("logistic-8", "logistic", "svm", "svm-8", "nearest-mean", "circuit", "circuit-exact")


@pytest.mark.parametrize("name", HEADS)
def test_heads_tell_clouds_apart_that_a_line_separates(name: str, bench: Any) -> None:
    problem = apart()
    assert quality(problem, HEAD.arm(name).solve(problem, bench()))[0] >= 0.9


def test_a_squared_cosine_does_not_see_the_sign(bench: Any) -> None:
    problem = apart()
    assert quality(problem, label_by_exact_fidelities(problem, bench()))[0] < 0.8


def test_many_shots_give_the_labels_of_the_exact_head(bench: Any) -> None:
    problem = replace(apart(), shots=4000)
    shots, exact = (HEAD.arm(name).solve(problem, bench(3)).values for name in ("circuit", "circuit-exact"))
    assert np.mean(np.array(shots) == np.array(exact)) >= 0.95


def test_labels_that_cannot_be_learnt_are_refused() -> None:
    problem = apart()
    with pytest.raises(ValueError, match="at least twice"):
        replace(problem, labels=np.eye(12, 1, dtype=np.int64)[:, 0])
    with pytest.raises(ValueError, match="labels differ"):
        replace(problem, labels=problem.labels[:3])
    assert quality(replace(problem, truth=()), HEAD.arm("largest").solve(problem, None)) == ()  # type: ignore[arg-type]


def test_a_run_tells_its_two_domains_apart(context: Context) -> None:
    problem = HEAD.pose(context, State(), Options(per_class=4, tested=3, words=4, components=2))
    assert problem is not None
    assert (problem.train.shape, problem.truth) == ((8, 256), (0, 0, 0, 1, 1, 1))
    state = HEAD.apply(context, State(), problem, HEAD.arm("nearest-mean").solve(problem, None))  # type: ignore[arg-type]
    assert state.facts["head"]["labels"] == 8
    assert HEAD.pose(context, State(), Options(per_class=0)) is None
    assert HEAD.pose(context, State(), Options(per_class=5000)) is None
