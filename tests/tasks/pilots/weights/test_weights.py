from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qiskit_aer.primitives import SamplerV2

from tasks.bench import make_bench
from tasks.outlook.fault_tolerant import TOFFOLI_OF_A_PRODUCT
from tasks.pilots.weights.arms import Searches
from tasks.pilots.weights.bank import split
from tasks.pilots.weights.network import Network
from tasks.pilots.weights.problem import Training, measures, quality
from tasks.pilots.weights.sections import arithmetic_oracle
from tasks.pilots.weights.subtask import WEIGHTS
from tasks.quantum.grover import success


@pytest.fixture
def bench(tmp_path: Path) -> Any:
    return lambda seed=1: make_bench(seed, tmp_path, SamplerV2(seed=seed))


def small() -> Training:
    return replace(split("Iris", 1), hidden=(4,), sweeps=2)


def test_losses_of_candidates_are_those_of_the_whole_network() -> None:
    rng = np.random.default_rng(0)
    rows, labels = rng.standard_normal((30, 5)), rng.integers(0, 3, 30)
    network = Network(rows, labels, (5, 4, 3, 3), rng)
    steps = np.array([-1.0, 0.0, 0.5], np.float32)
    for place in network.places()[::5]:
        found = network.losses(place, steps)
        for step, loss in zip(steps, found, strict=True):
            layer, j, i = place
            network.weights[layer][j, i] += step
            right = network.probabilities(rows)[np.arange(30), labels]
            network.weights[layer][j, i] -= step
            assert loss == pytest.approx(-np.log(right).mean(), abs=1e-5)


def test_a_moved_weight_leaves_the_stored_values_right() -> None:
    rng = np.random.default_rng(1)
    rows, labels = rng.standard_normal((30, 5)), rng.integers(0, 3, 30)
    network = Network(rows, labels, (5, 4, 3, 3), rng)
    for place in network.places()[::3]:
        network.move(place, 0.3)
    right = network.probabilities(rows)[np.arange(30), labels]
    assert network.losses((0, 0, 0), np.zeros(1, np.float32))[0] == pytest.approx(-np.log(right).mean(), abs=1e-5)


def test_circuits_pick_the_best_candidate_as_often_as_grover_predicts(bench: Any) -> None:
    searches = Searches(small(), bench())
    picked = np.array([searches(5) for _ in range(1000)])
    right = success(1, 16, 3)
    assert abs((picked == 5).mean() - right) < 4 * np.sqrt(right * (1 - right) / 1000)
    assert set(picked) > {5}


@pytest.mark.parametrize("name", ["grover", "grover-sampled", "exact-minimum", "wrong-30", "one-candidate"])
def test_weights_found_one_by_one_label_iris(name: str, bench: Any) -> None:
    problem = small()
    found = WEIGHTS.arm(name).solve(problem, bench())
    assert quality(problem, found)[0] >= 0.75  # two sweeps; chance is a third
    visits = problem.weights * problem.sweeps
    counted = measures(problem, found)
    assert counted["evaluations"] == (16.0 * visits,)  # all the same: what differs is the pick
    assert counted["oracle queries"] == (3.0 * visits if name == "grover" else 0.0,)


def test_without_training_the_loss_is_that_of_the_frequencies(bench: Any) -> None:
    problem = small()
    found = WEIGHTS.arm("largest").solve(problem, bench())
    assert found.loss == pytest.approx(np.log(3), abs=1e-9)
    assert quality(problem, found)[0] == pytest.approx(1 / 3)


def test_the_arithmetic_oracle_counts_products_of_all_rows_twice_a_query() -> None:
    problem = small()
    products = 120 * (4 * 4 + 4 * 3)
    assert arithmetic_oracle(problem).toffoli == 3 * 2 * products * TOFFOLI_OF_A_PRODUCT


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        replace(small(), labels=np.zeros(3, np.int64))
