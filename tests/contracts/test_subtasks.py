"""What every subtask of every stage must hold."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks.bench import make_bench
from tasks.contract import PILOTS, Instance, Kind, Material, Subtask, content_key
from tasks.curation.representatives.bank import PUBLISHED_SOURCE
from tasks.finetuning import models
from tasks.inference.pruning import bank as pruning_bank
from tasks.policy import size_bucket
from tasks.registry import names, subtasks
from tasks.terms import terms

torch.set_num_threads(1)

pytestmark = pytest.mark.slow

ALL = list(subtasks().values())


@pytest.fixture(scope="module", params=ALL, ids=lambda s: s.key)
def posed(request: pytest.FixtureRequest) -> tuple[Subtask[Any, Any], Any]:
    subtask: Subtask[Any, Any] = request.param
    return subtask, subtask.example(np.random.default_rng(7))


@pytest.fixture(scope="module")
def solved(posed: tuple[Subtask[Any, Any], Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    subtask, problem = posed
    return {
        arm.name: arm.solve(problem, make_bench(1, tmp_path_factory.mktemp(arm.name.replace("/", "-"))))
        for arm in subtask.arms
    }


def test_every_folder_of_a_decision_is_on_the_road_of_its_stage() -> None:
    assert sorted(subtask.key for subtask in ALL) == sorted(names())


def test_what_was_fixed_before_the_studies_is_what_they_use(posed: tuple[Subtask[Any, Any], Any]) -> None:
    subtask, _ = posed
    fixed = terms(subtask.key)
    assert (subtask.tolerance, subtask.metric) == (fixed.tolerance, fixed.metric)
    assert len(fixed.reason) > 20
    assert fixed.tolerance > 0


def test_a_twin_is_an_arm_without_circuits_of_the_same_decision(posed: tuple[Subtask[Any, Any], Any]) -> None:
    subtask, _ = posed
    assert subtask.challenger is None or subtask.challenger.twin
    for arm in subtask.arms:
        if arm.twin:
            assert arm.kind is Kind.QUANTUM
            assert subtask.arm(arm.twin).kind is Kind.TWIN
    twins = {arm.name for arm in subtask.arms if arm.kind is Kind.TWIN}
    assert twins <= {arm.twin for arm in subtask.arms}


def test_every_subtask_names_its_opponents(posed: tuple[Subtask[Any, Any], Any]) -> None:
    subtask, _ = posed
    assert subtask.incumbent.kind is Kind.CLASSICAL
    assert subtask.challenger is None or subtask.challenger.kind is Kind.QUANTUM
    assert any(arm.kind is Kind.CONTROL for arm in subtask.others)
    assert len({arm.name for arm in subtask.arms}) == len(subtask.arms)
    assert subtask.metric
    assert subtask.tolerance >= 0


def test_all_arms_return_one_type(posed: tuple[Subtask[Any, Any], Any], solved: dict[str, Any]) -> None:
    assert len({type(solution) for solution in solved.values()}) == 1


def test_quality_has_one_value_per_instance(posed: tuple[Subtask[Any, Any], Any], solved: dict[str, Any]) -> None:
    subtask, problem = posed
    lengths = {name: len(subtask.quality(problem, solution)) for name, solution in solved.items()}
    assert len(set(lengths.values())) == 1
    assert next(iter(lengths.values())) >= 1
    for solution in solved.values():
        assert np.isfinite(subtask.quality(problem, solution)).all()


def test_the_incumbent_reaches_its_floor(posed: tuple[Subtask[Any, Any], Any], solved: dict[str, Any]) -> None:
    subtask, problem = posed
    assert np.mean(subtask.quality(problem, solved[subtask.incumbent.name])) >= subtask.floor > -np.inf


def test_no_arm_beats_the_proven_optimum(posed: tuple[Subtask[Any, Any], Any], solved: dict[str, Any]) -> None:
    subtask, problem = posed
    if subtask.oracle is None:
        pytest.skip(f"{subtask.key} has no proven optimum")
    best = np.asarray(subtask.oracle(problem))
    for name, solution in solved.items():
        assert (np.asarray(subtask.quality(problem, solution)) <= best + 1e-9).all(), name


def test_the_same_seed_gives_the_same_solution(
    posed: tuple[Subtask[Any, Any], Any], solved: dict[str, Any], tmp_path: Path
) -> None:
    subtask, problem = posed
    for arm in subtask.arms:
        again = arm.solve(problem, make_bench(1, tmp_path))
        assert content_key(again) == content_key(solved[arm.name]), arm.name


def test_the_problem_is_named_by_its_content(posed: tuple[Subtask[Any, Any], Any]) -> None:
    subtask, problem = posed
    assert content_key(problem) == content_key(subtask.example(np.random.default_rng(7)))
    assert content_key(problem) != content_key(subtask.example(np.random.default_rng(8)))


@pytest.fixture
def short_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a bank trains is trained for a moment: how its instances are made does not depend on it."""
    for module in (pruning_bank, models):
        monkeypatch.setattr(module, "RECIPE", replace(module.RECIPE, tokens=2_000))


def drawn(subtask: Subtask[Any, Any], material: Material, seed: int = 0) -> list[Instance[Any]]:
    return list(subtask.bank(material, np.random.default_rng(seed)))


@pytest.mark.parametrize("subtask", ALL, ids=lambda s: s.key)
def test_the_bank_has_twice_the_observations_of_its_design(subtask: Subtask[Any, Any], material: Material) -> None:
    bank = drawn(subtask, material)
    sources = Counter(instance.source for instance in bank)
    assert len(bank) >= 2 * subtask.design.least
    assert len(sources) >= subtask.design.sources
    assert subtask.stage == PILOTS or set(sources) <= {*material.texts, PUBLISHED_SOURCE}  # a pilot has its own data
    assert len({(instance.source, instance.name) for instance in bank}) == len(bank)
    assert {instance.source for instance in bank[: len(sources)]} == set(sources)  # in turns
    # The sizes that a run of the default profile has are the ones with the most instances.
    assert max(Counter(size_bucket(instance.size) for instance in bank).values()) >= 2 * subtask.design.least


@pytest.mark.usefixtures("short_trainings")
@pytest.mark.parametrize("subtask", ALL, ids=lambda s: s.key)
def test_an_instance_is_one_problem_of_known_truth_and_made_the_same_each_time(
    subtask: Subtask[Any, Any], material: Material, tmp_path: Path
) -> None:
    first, again = drawn(subtask, material)[:2], drawn(subtask, material)[:2]
    assert [instance.name for instance in first] == [instance.name for instance in again]
    problems = [instance.pose() for instance in first]
    assert content_key(problems[1]) == content_key(again[1].pose())
    assert content_key(problems[0]) != content_key(problems[1])
    for instance, problem in zip(first, problems, strict=True):
        assert subtask.size(problem) == instance.size
        assert subtask.oracle is None or len(subtask.oracle(problem)) <= 1
        assert pickle.loads(pickle.dumps(instance)).name == instance.name  # noqa: S301  (our own)
    (value,) = subtask.quality(problem, subtask.incumbent.solve(problem, make_bench(2, tmp_path)))
    assert np.isfinite(value)
