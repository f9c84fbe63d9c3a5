from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.bench import make_bench
from tasks.contract import Kind
from tasks.preprocessing.state_loading.bank import example
from tasks.preprocessing.state_loading.codes import principal_axes
from tasks.preprocessing.state_loading.problem import Loading, quality
from tasks.preprocessing.state_loading.subtask import STATE_LOADING
from tasks.text.embeddings import normalised


@pytest.fixture(scope="module")
def problem() -> Loading:
    return replace(example(np.random.default_rng(3)), shots=20_000)


@pytest.fixture(scope="module")
def solved(problem: Loading, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    shared = make_bench(0, tmp_path_factory.mktemp("scratch"))
    return {arm.name: arm.solve(problem, shared) for arm in STATE_LOADING.arms}


def test_every_fidelity_is_the_squared_cosine_with_what_the_form_stands_for(
    problem: Loading, solved: dict[str, Any]
) -> None:
    true = normalised(problem.vectors)
    for arm in STATE_LOADING.arms:
        loaded = solved[arm.name]
        cosines = np.square((loaded.vectors * true).sum(axis=1))
        noise = 5 * 0.5 / np.sqrt(problem.shots / loaded.preparations) if arm.kind is Kind.QUANTUM else 1e-5
        np.testing.assert_allclose(loaded.fidelities, cosines, atol=noise, err_msg=arm.name)


def test_trees_and_memories_hold_the_leading_components(problem: Loading, solved: dict[str, Any]) -> None:
    learnt = normalised(problem.background).astype(np.float64)
    turned = normalised(problem.vectors) @ principal_axes(learnt)
    for name, leading in (("amplitude", 8), ("qram", problem.cells)):
        weight = np.square(turned[:, :leading]).sum(axis=1)
        loaded = solved[name]
        noise = 5 * 0.5 / np.sqrt(problem.shots / loaded.preparations)
        np.testing.assert_allclose(loaded.fidelities, weight, atol=noise, err_msg=name)


def test_every_form_keeps_to_its_bytes(problem: Loading, solved: dict[str, Any]) -> None:
    assert all(loaded.size <= problem.size for loaded in solved.values())
    assert solved["staircase"].size == solved["staircase-exact"].size


def test_circuits_count_their_gates_and_codes_have_none(solved: dict[str, Any]) -> None:
    gates = {arm.name: (arm.kind, solved[arm.name].two_qubit_gates) for arm in STATE_LOADING.arms}
    assert all((kind is Kind.QUANTUM) == (count > 0) for kind, count in gates.values())
    assert gates["staircase"][1] == 3  # one layer over 4 qubits
    assert gates["amplitude"][1] == 4  # a tree of 8 leaves: 2^3 - 3 - 1
    assert solved["qram"].preparations > 1


def test_what_does_not_fit_is_refused(problem: Loading) -> None:
    with pytest.raises(ValueError, match="between 10 and 16 bytes are possible, not 9"):
        replace(problem, size=9)
    with pytest.raises(ValueError, match=r"2, 4, 8 or 16 cells and at most 10, not 16"):
        replace(problem, cells=16)
    with pytest.raises(ValueError, match="other vectors of length 16"):
        replace(problem, background=problem.background[:, :8])
    with pytest.raises(ValueError, match="vectors of at least 4 numbers"):
        replace(problem, vectors=problem.vectors[0])


def test_a_solution_of_other_vectors_is_refused(problem: Loading, solved: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="6 fidelities should be as many as 5 vectors"):
        quality(replace(problem, vectors=problem.vectors[:5]), solved["pca"])


def test_vectors_that_are_no_power_of_two_long_lose_what_the_padding_takes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    odd = Loading(rng.normal(size=(4, 13)), rng.normal(size=(60, 13)), size=10, cells=4, passes=20, shots=20_000)
    shared = make_bench(0, tmp_path)
    exact, measured = (STATE_LOADING.arm(name).solve(odd, shared) for name in ("staircase-exact", "staircase"))
    np.testing.assert_allclose(exact.fidelities, measured.fidelities, atol=5 * 0.5 / np.sqrt(odd.shots))
    assert exact.vectors.shape == (4, 13)
