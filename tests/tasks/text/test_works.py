"""Division of texts into works, sections and hands, and of those among instances; the banks that deal them."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.contract import Material
from tasks.evaluation.rules import smallest_n
from tasks.finetuning.distillation.bank import tuning as distillation_tuning
from tasks.monitoring.anomaly.bank import tuning as anomaly_tuning
from tasks.monitoring.drift.bank import tuning as drift_tuning
from tasks.policy import LOOKS, may_replace
from tasks.registry import find_subtask
from tasks.text.works import dealt, hands, opponent, sections, works_of

SECTIONED = (
    "architecture/hybrid_layer",
    "training/batch_selection",
    "training/gradients",
    "finetuning/adapter",
    "finetuning/low_rank",
    "finetuning/head",
    "finetuning/distillation",
    "inference/pruning",
)
MATERIAL = Material({"a": ("p", "q", "r", "s"), "b": ("x", "y")}, Path(), {"a": ("one", "two", "one", "three")})


def test_texts_of_one_work_stay_together_and_a_work_is_either_for_banks_or_for_tuning() -> None:
    both = [works_of(MATERIAL, "a", tuning=kept) for kept in (False, True)]
    assert sorted(both[0] + both[1]) == [("p", "r"), ("q",), ("s",)]
    assert works_of(MATERIAL, "b") == [("x", "y")]
    assert works_of(MATERIAL, "b", tuning=True) == []


def test_works_are_dealt_whole_and_to_one_hand_only() -> None:
    assert list(dealt([[1, 2], [3], [4], [5, 6, 7], [8]], 3)) == [[1, 2, 3], [4, 5, 6, 7]]


def test_sections_are_consecutive_and_of_one_size() -> None:
    assert sections(("abc", "defg"), 4) == [b"abc\n", b"\ndef"]
    assert sections(("abc",), 4) == []


def test_hands_are_disjoint_hold_no_passage_twice_and_are_the_same_at_each_call() -> None:
    texts = (" ".join(str(i) for i in range(100)), " ".join(str(i) for i in range(40, 60)))
    found = hands(texts, 4, 6)
    passages = [passage for hand in found for passage in hand]
    assert [len(hand) for hand in found] == [6] * 4  # of 25 different passages, five of which are in both texts
    assert len(set(passages)) == 24
    assert found == hands(texts, 4, 6)
    assert passages != sorted(passages, key=lambda passage: int(passage.split()[0]))
    assert hands(texts, 4, 26) == []


@pytest.mark.parametrize("turn", range(6))
def test_every_source_is_the_opponent_of_one_other_at_each_turn(turn: int) -> None:
    names = ["a", "b", "c", "d"]
    others = [opponent(name, turn, names) for name in names]
    assert sorted(others) == names
    assert all(name != other for name, other in zip(names, others, strict=True))
    assert {opponent("a", turn + more, names) for more in range(3)} == {"b", "c", "d"}


def words_of(value: Any) -> set[str]:
    """Return the whole numbered words in what an instance is posed from."""
    if isinstance(value, bytes):
        return words_of(value.decode())
    if isinstance(value, str):
        return set(re.findall(r"\b[a-d]\d{7}\b", value))
    return {word for part in value for word in words_of(part)} if isinstance(value, list | tuple) else set()


@pytest.mark.parametrize("key", SECTIONED)
def test_no_two_units_share_text(key: str, tmp_path: Path) -> None:
    texts = {name: (" ".join(f"{name}{i:07d}" for i in range(120_000)),) for name in "abcd"}  # no word comes twice
    bank = list(find_subtask(key).bank(Material(texts, tmp_path), np.random.default_rng([0, 7])))
    owner: dict[str, str] = {}
    for instance in bank:
        words = words_of(instance.pose.args)  # type: ignore[attr-defined]
        assert len(words) > 1000
        assert {owner.setdefault(word, instance.unit) for word in words} == {instance.unit}
    assert len(set(owner.values())) == len({instance.unit for instance in bank}) >= 8


@pytest.mark.parametrize(
    "key",
    [
        "curation/semantic_clusters",
        "preprocessing/state_loading",
        "monitoring/drift",
        "monitoring/anomaly",
        *SECTIONED,
    ],
)
def test_a_bank_has_the_independent_units_that_a_certificate_needs(key: str, material: Material) -> None:
    subtask = find_subtask(key)
    units = [instance.unit for instance in subtask.bank(material, np.random.default_rng([0, 7]))]
    assert "" not in units
    assert len(set(units)) >= smallest_n(LOOKS[0][1] / len(may_replace(subtask)))


@pytest.mark.parametrize("tuning", [distillation_tuning, drift_tuning, anomaly_tuning])
def test_there_are_instances_to_tune_on_and_every_source_has_some(
    tuning: Callable[..., Any], material: Material
) -> None:
    found = list(tuning(material, np.random.default_rng([0, 7])))
    assert {instance.source for instance in found} == set(material.texts)
    assert len(found) >= 20


@pytest.mark.parametrize("key", SECTIONED)
def test_a_bank_has_five_sizes_and_eight_units_early_so_that_costs_can_be_fitted(key: str, material: Material) -> None:
    found = list(islice(find_subtask(key).bank(material, np.random.default_rng([0, 7])), 24))
    assert len({instance.size for instance in found}) == 5
    assert len({instance.unit for instance in found}) >= 8
    assert len({(instance.source, instance.name) for instance in found}) == 24
