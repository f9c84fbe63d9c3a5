"""The clinical pilot: its tables, its circuits against closed forms, and the published row by the exact kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qiskit.quantum_info import Statevector

from tasks.bench import make_bench
from tasks.contract import Material, NothingToGain
from tasks.pilots.clinical import tables as module
from tasks.pilots.clinical.arms import OTHERS, angle_circuit, angle_fidelities, angles
from tasks.pilots.clinical.bank import bank, example
from tasks.pilots.clinical.problem import Predictions, measures, quality
from tasks.pilots.clinical.tables import tables


def instances(source: str, contains: str) -> list[Any]:
    found = bank(Material({}, Path("nowhere")), np.random.default_rng([0, 7]))
    return [instance.pose() for instance in found if instance.source == source and contains in instance.name]


def test_the_tables_have_the_published_sizes_and_no_column_that_tells_the_outcome() -> None:
    found = {name: (table.values.shape, int(table.labels.sum())) for name, table in tables().items()}
    assert found["breast cancer"] == ((569, 30), 212)
    assert found["heart failure"] == ((299, 11), 96)
    assert found["bone marrow"] == ((170, 32), 80)
    columns = {name for table in tables().values() for name in table.columns}
    assert not columns & {"time", "DEATH_EVENT", "survival_time", "survival_status", "ANCrecovery", "Relapse", "IIIV"}


def test_a_changed_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.SHA256, "heart_failure.csv", "0" * 64)
    with pytest.raises(ValueError, match="install ketcycle again"):
        module._heart_failure()


def test_the_angle_circuit_has_the_product_of_cosines() -> None:
    rng = np.random.default_rng(3)
    left, right = rng.uniform(0, np.pi, (2, 4)), rng.uniform(0, np.pi, (3, 4))
    bare = angle_circuit(4).remove_final_measurements(inplace=False)
    seen = [[abs(Statevector(bare.assign_parameters(x - y))[0]) ** 2 for y in right] for x in left]
    assert angle_fidelities(left, right) == pytest.approx(np.array(seen))


def test_the_published_row_of_breast_cancer_is_met_within_two_hundredths() -> None:
    assert len(instances("breast cancer", "N=8, fold")) == 50
    folds = instances("breast cancer", "split 2")
    arms = {arm.name: arm for arm in OTHERS}
    nothing: Any = None
    for name, published in (("qdc-exact", 0.92), ("qksvm-exact", 0.92), ("sqksvm-exact", 0.88)):
        hard = [measures(fold, arms[name].solve(fold, nothing))["auc_labels"][0] for fold in folds]
        assert np.mean(hard) == pytest.approx(published, abs=0.02), name


def test_scores_are_ranked_and_labels_are_not() -> None:
    problem = example(np.random.default_rng(1))
    perfect = Predictions((0,) * len(problem.truth), tuple(map(float, problem.truth)))
    assert quality(problem, perfect) == (1.0,)
    assert measures(problem, perfect)["auc_labels"] == (0.5,)


def test_too_many_circuits_are_not_begun(tmp_path: Path) -> None:
    (fold, *_) = instances("heart failure", "N=8, fold")
    with pytest.raises(NothingToGain, match="circuits would be simulated"):
        angles(fold, make_bench(scratch=tmp_path))
