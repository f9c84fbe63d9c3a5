"""The grid pilot: its days, its circuits against closed forms, and agreement up to the names of the clusters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from qiskit.primitives import StatevectorSampler
from qiskit.quantum_info import Statevector, partial_trace

from tasks.bench import make_bench
from tasks.contract import NothingToGain
from tasks.pilots.grid import days as module
from tasks.pilots.grid.arms import INCUMBENT, OTHERS, cluster_by_angle_swaps
from tasks.pilots.grid.bank import example, grid_of
from tasks.pilots.grid.days import groups
from tasks.pilots.grid.distances import (
    angle_swap_circuit,
    day_angles,
    exact_angle_fidelities,
    side_by_side_inner_products,
)
from tasks.pilots.grid.problem import Clusters, agreement, inertia, measures, quality


def test_there_are_four_years_and_four_profiles_of_whole_days() -> None:
    found = groups()
    assert {name: len(of) for name, of in found.items()} == {"mix": 4, "hours": 4, "load": 4}
    assert [len(days.values) for days in found["load"].values()] == [365] * 4  # without the day that lacks an hour
    assert sum(len(days.values) for days in found["mix"].values()) > 1450
    days = found["hours"]["2018"]
    assert days.values.shape[1] == 24
    assert 100 < days.weekend.sum() < 107
    assert np.bincount(days.season).min() >= 88


def test_a_changed_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.SHA256, "load_days.parquet", "0" * 64)
    with pytest.raises(ValueError, match="install ketcycle again"):
        module._table("load_days.parquet")


def test_the_swap_test_of_angles_gives_the_product_of_qubit_fidelities() -> None:
    rows = np.random.default_rng(2).uniform(-1, 1, (2, 3))
    bare = angle_swap_circuit(2).remove_final_measurements(inplace=False)
    angles = day_angles(rows)
    state = Statevector(bare.assign_parameters(np.hstack([angles[0], angles[1]])))
    one = float(np.real(partial_trace(state, range(4)).data[1, 1]))
    assert 1 - 2 * one == pytest.approx(exact_angle_fidelities(rows[:1], rows[1:])[0, 0])


def test_overlaps_side_by_side_are_those_of_the_pairs_one_by_one() -> None:
    rng = np.random.default_rng(5)
    points, centroids = (np.abs(rng.normal(size=(rows, 4))) for rows in (3, 2))  # 6 pairs in 2 circuits of 4
    exact = (points / np.linalg.norm(points, axis=1)[:, None]) @ (
        centroids / np.linalg.norm(centroids, axis=1)[:, None]
    ).T
    found = side_by_side_inner_products(points, centroids, StatevectorSampler(seed=4), 20_000, 4)
    assert found == pytest.approx(exact, abs=0.02)


def test_agreement_does_not_depend_on_the_names_of_clusters() -> None:
    reference = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    assert agreement(reference, np.array([2, 2, 2, 2, 0, 0, 1, 1])) == 1.0
    # three of four, one of two and two of two are in the matched cluster
    assert agreement(reference, np.array([1, 1, 1, 0, 0, 2, 2, 2])) == pytest.approx((3 / 4 + 1 / 2 + 1) / 3)
    assert agreement(reference, np.zeros(8, int)) == pytest.approx(1 / 3)


def test_quality_is_the_share_of_the_variance_that_lies_between_clusters() -> None:
    points = np.array([[1.0, 0.0], [0.8, 0.6], [-1.0, 0.0], [-0.8, 0.6], [0.0, 1.0]])
    labels = np.array([0, 0, 1, 1, 2])
    assert inertia(points, labels) == pytest.approx(2 * (0.1**2 + 0.3**2) * 2)
    problem = example(np.random.default_rng(7))
    (value,) = quality(problem, Clusters(tuple(range(3)) + (0,) * 9))
    assert 0 < value < 1
    assert quality(problem, Clusters((0,) * 12)) == (pytest.approx(0),)


def test_exact_arms_agree_with_lloyd_and_ten_starts_are_not_worse(tmp_path: Path) -> None:
    problem = grid_of(groups()["load"]["H0-A"], np.arange(0, 64, 2), 7, start=3)
    arms = {arm.name: arm for arm in OTHERS}
    lloyd = arms["lloyd"].solve(problem, make_bench(0, tmp_path))
    assert measures(problem, lloyd)["agreement"] == (1.0,)
    assert arms["swap-amplitudes-exact"].solve(problem, make_bench(0, tmp_path)).labels == lloyd.labels
    for name in ("overlap-exact", "quantum-k-means-exact"):
        assert measures(problem, arms[name].solve(problem, make_bench(0, tmp_path)))["agreement"][0] > 0.95
    best = INCUMBENT.solve(problem, make_bench(0, tmp_path))
    assert quality(problem, best)[0] >= quality(problem, lloyd)[0] - 1e-9


def test_circuits_that_are_too_wide_are_not_begun(tmp_path: Path) -> None:
    problem = grid_of(groups()["mix"]["2017"], np.arange(32), 15, start=1)
    with pytest.raises(NothingToGain, match="96 circuits of 17 qubits"):
        cluster_by_angle_swaps(problem, make_bench(0, tmp_path))
