"""Division of texts into works, and of works among instances; the banks that deal them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.contract import Material
from tasks.evaluation.rules import smallest_n
from tasks.monitoring.anomaly.bank import tuning as anomaly_tuning
from tasks.monitoring.drift.bank import tuning as drift_tuning
from tasks.policy import LOOKS, may_replace
from tasks.registry import find_subtask
from tasks.text.works import dealt, works_of

MATERIAL = Material({"a": ("p", "q", "r", "s"), "b": ("x", "y")}, Path(), {"a": ("one", "two", "one", "three")})


def test_texts_of_one_work_stay_together_and_a_work_is_either_for_banks_or_for_tuning() -> None:
    both = [works_of(MATERIAL, "a", tuning=kept) for kept in (False, True)]
    assert sorted(both[0] + both[1]) == [("p", "r"), ("q",), ("s",)]
    assert works_of(MATERIAL, "b") == [("x", "y")]
    assert works_of(MATERIAL, "b", tuning=True) == []


def test_works_are_dealt_whole_and_to_one_hand_only() -> None:
    assert list(dealt([[1, 2], [3], [4], [5, 6, 7], [8]], 3)) == [[1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize(
    "key", ["curation/semantic_clusters", "preprocessing/state_loading", "monitoring/drift", "monitoring/anomaly"]
)
def test_a_bank_has_the_independent_units_that_a_certificate_needs(key: str, material: Material) -> None:
    subtask = find_subtask(key)
    units = [instance.unit for instance in subtask.bank(material, np.random.default_rng([0, 7]))]
    assert "" not in units
    assert len(set(units)) >= smallest_n(LOOKS[0][1] / len(may_replace(subtask)))


@pytest.mark.parametrize("tuning", [drift_tuning, anomaly_tuning])
def test_there_are_instances_to_tune_on_and_every_source_has_some(
    tuning: Callable[..., Any], material: Material
) -> None:
    found = list(tuning(material, np.random.default_rng([0, 7])))
    assert {instance.source for instance in found} == set(material.texts)
    assert len(found) >= 20


@pytest.mark.parametrize(
    "key", ["finetuning/adapter", "finetuning/low_rank", "finetuning/distillation", "inference/pruning"]
)
def test_a_bank_has_five_sizes_early_so_that_costs_can_be_fitted(key: str, material: Material) -> None:
    found = list(islice(find_subtask(key).bank(material, np.random.default_rng([0, 7])), 24))
    assert len({instance.size for instance in found}) == 5
    assert len({(instance.source, instance.name) for instance in found}) == 24
