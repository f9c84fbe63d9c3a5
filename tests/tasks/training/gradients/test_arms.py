from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qiskit.primitives import StatevectorSampler
from qiskit.quantum_info import Statevector

from tasks.bench import make_bench
from tasks.contract import Bench, Budget
from tasks.quantum.layer import reuploading_circuit
from tasks.training.gradients import arms
from tasks.training.gradients.bank import example
from tasks.training.gradients.estimate import Spent, Training
from tasks.training.gradients.problem import (
    Texts,
    bindings,
    exact_gradient,
    executions_to,
    loss,
    outputs,
    slope,
    training_losses,
)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(scratch=tmp_path)


@pytest.fixture(scope="module")
def task() -> Texts:
    return example(np.random.default_rng(7))


def states(task: Texts, weights: np.ndarray, row: int) -> np.ndarray:
    circuit = reuploading_circuit(task.qubits, task.layers)
    circuit.remove_final_measurements()
    [[values]] = bindings(task, weights[None], task.inputs[[row]])
    return np.asarray(Statevector(circuit.assign_parameters(values)).data)


def test_outputs_are_those_of_qiskit(task: Texts) -> None:
    weights = task.start()
    signs = np.array([[1 - 2 * (state >> qubit & 1) for qubit in range(3)] for state in range(8)]).mean(axis=1)
    expected = [np.abs(states(task, weights, row)) ** 2 @ signs for row in range(4)]
    assert outputs(task, weights[None], task.inputs[:4])[0] == pytest.approx(expected, abs=1e-9)


def test_parameter_shift_without_shot_noise_is_the_exact_gradient(task: Texts, bench: Bench) -> None:
    training = Training(replace(task, budget=Budget(executions=10**9)), bench, exact=True)
    gains = replace(arms.TUNED["parameter-shift"], texts=len(task.labels))
    _, expected = exact_gradient(task, training.weights, np.arange(len(task.labels)))
    assert arms.shifted_gradient(training, gains) == pytest.approx(expected, abs=1e-9)


def test_the_mean_over_all_directions_is_the_gradient(task: Texts, bench: Bench) -> None:
    training = Training(replace(task, budget=Budget(executions=10**9)), bench, exact=True)
    gains = replace(arms.TUNED["spsa"], texts=len(task.labels), width=1e-3)
    directions = np.array(list(product([-1.0, 1.0], repeat=task.size)))
    along, _ = arms.differences(training, gains, directions, 1)
    _, expected = exact_gradient(task, training.weights, np.arange(len(task.labels)))
    assert along @ directions / len(directions) == pytest.approx(expected, abs=1e-5)


def test_the_variance_of_a_shot_is_about_what_shots_show(task: Texts, bench: Bench) -> None:
    drawing = replace(bench, sampler=StatevectorSampler(seed=np.random.default_rng(1)))  # anew for every row
    training = Training(replace(task, budget=Budget(executions=10**9)), drawing)
    rows, weights = np.arange(4), np.repeat(training.weights[None], 200, axis=0)
    exact = outputs(task, weights[:1], task.inputs[rows])
    measured = loss(training.outputs(weights, rows, 64), task.labels[rows]).var() * 64
    per_shot = (slope(exact, task.labels[rows]) ** 2 * (1 - exact**2) / task.qubits).mean() / len(rows)
    assert 0.4 < measured / per_shot < 2.5  # outcomes of the qubits are not quite independent


def test_overlaps_are_those_of_the_states(task: Texts, bench: Bench) -> None:
    training = Training(replace(task, budget=Budget(executions=10**9)), bench)
    other = training.weights + 0.3
    expected = np.abs(np.vdot(states(task, training.weights, 2), states(task, other, 2))) ** 2
    measured = training.overlaps(np.array([[training.weights, other]]), 2, 20_000)
    assert measured[0] == pytest.approx(expected, abs=0.015)


def test_the_block_metric_is_that_of_fubini_and_study(task: Texts, bench: Bench) -> None:
    training = Training(replace(task, budget=Budget(executions=10**9)), bench)
    weights, step = training.weights, 1e-5
    state = states(task, weights, 1)
    slopes = np.array(
        [
            (states(task, weights + step * axis, 1) - states(task, weights - step * axis, 1)) / (2 * step)
            for axis in np.eye(task.size)
        ]
    )
    overlap = slopes.conj() @ state
    whole = np.real(slopes.conj() @ slopes.T - np.outer(overlap, overlap.conj()))
    blocks = np.kron(np.eye(task.size // task.qubits), np.ones((task.qubits, task.qubits)))
    assert training.metric(1, 20_000) == pytest.approx(whole * blocks, abs=0.01)


@pytest.mark.parametrize("name", list(arms.TUNED))
def test_no_arm_spends_more_than_the_budget(task: Texts, bench: Bench, name: str) -> None:
    small = replace(task, budget=Budget(executions=2000))
    arm: Any = next(a for a in (arms.INCUMBENT, arms.CHALLENGER, *arms.OTHERS) if a.name == name)
    solved = arm.solve(small, bench)
    assert all(used <= 2000 for used, _ in solved.path)
    assert len(solved.weights) == task.size


def test_training_lowers_the_loss(task: Texts, bench: Bench) -> None:
    start = exact_gradient(task, task.start(), np.arange(len(task.labels)))[0]
    assert training_losses(task, arms.INCUMBENT.solve(task, bench), 1)[0][1] < 0.6 * start
    assert training_losses(task, arms.CHALLENGER.solve(task, bench), 1)[0][1] < start


def test_training_losses_are_those_of_the_path(task: Texts, bench: Bench) -> None:
    solved = arms.CHALLENGER.solve(task, bench)
    losses = training_losses(task, solved)
    last = exact_gradient(task, np.array(solved.weights), np.arange(len(task.labels)))[0]
    assert losses[-1][1] == pytest.approx(last, abs=1e-9)
    assert [used for used, _ in losses] == [used for used, _ in solved.path] == sorted({used for used, _ in losses})
    assert training_losses(task, solved, 2) == losses[-2:]


def test_a_step_that_does_not_fit_is_not_made(task: Texts, bench: Bench) -> None:
    training = Training(replace(task, budget=Budget(executions=99)), bench)
    with pytest.raises(Spent):
        training.outputs(training.weights[None], np.arange(10), 10)
    assert training.executions == 0


def test_executions_to_a_loss_are_those_of_the_first_step_there() -> None:
    curve = ((100, 0.9), (200, 0.5), (300, 0.7))
    assert executions_to(curve, 0.5) == 200
    assert executions_to(curve, 0.4) is None
