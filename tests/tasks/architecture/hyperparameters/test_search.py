from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tasks.architecture.hyperparameters.arms import CHALLENGER, INCUMBENT, OTHERS
from tasks.architecture.hyperparameters.bank import stored_runs
from tasks.architecture.hyperparameters.problem import Ledger, Search, oracle, quality, start_design
from tasks.architecture.hyperparameters.runs import Curve, Real, Stored
from tasks.architecture.hyperparameters.space import (
    BITS,
    SETTINGS,
    SPACE,
    bits,
    levels,
    nearest,
    of_bits,
    setting_of,
    values,
)
from tasks.bench import make_bench
from tasks.contract import Kind
from tasks.model.windows import Windows

ARMS = {arm.name: arm for arm in (INCUMBENT, CHALLENGER, *OTHERS)}


def stored(seed: int = 0) -> Stored:
    """A table whose loss is a quadratic form of the bits: both surrogates can represent it."""
    rng = np.random.default_rng(seed)
    loss = 4 + bits() @ rng.normal(0, 0.3, BITS) + (bits()[:, 0] * bits()[:, 4]) * 0.4
    return Stored(loss[:, None] + np.array([1.5, 0.8, 0.3, 0.0]), loss + 0.01, np.ones((SETTINGS, 4)).cumsum(1), 14)


def search(runs: Real | Stored, cell: int = 0, trials: int = 24) -> Search:
    return Search(runs, trials, start=10, parallel=2, cell=cell)


def test_a_setting_is_its_levels_and_its_bits() -> None:
    everything = np.arange(SETTINGS)
    np.testing.assert_array_equal(setting_of(levels()), everything)
    np.testing.assert_array_equal(of_bits(bits()), everything)
    assert len({tuple(values(setting).items()) for setting in everything.tolist()}) == SETTINGS
    assert set(values(0)) == {dimension.name for dimension in SPACE}
    with pytest.raises(ValueError, match="0 to 255, not 256"):
        values(256)


def test_the_nearest_setting_is_itself_or_a_neighbour() -> None:
    assert [nearest(values(setting)) for setting in range(SETTINGS)] == list(range(SETTINGS))
    near = values(nearest({**values(0), "matrix_lr": 0.06, "other_lr": 0.5, "batch": 4, "weight_decay": 0.6}))
    assert near == {**values(0), "matrix_lr": 0.1, "other_lr": 0.1, "batch": 8, "weight_decay": 1.0}


def test_the_default_is_what_the_dial_chooses_for_the_compute_of_a_run(real: Real) -> None:
    """Shorter trainings have higher rates; the stored tables and a run of their size have one default."""
    tables = stored_runs()
    assert {"documentation", "licences"} <= set(tables)
    assert len({runs.default for runs in tables.values()}) == 1
    short, long = (values(replace(real, tokens=tokens).default) for tokens in (10_000, 10_000_000_000))
    assert short["matrix_lr"] > long["matrix_lr"]
    assert short["other_lr"] > long["other_lr"]


@pytest.mark.parametrize("cell", range(5))
def test_the_start_design_changes_every_bit(cell: int) -> None:
    chosen = start_design(search(stored(), cell))
    assert len(set(chosen)) == 10
    assert set(bits()[chosen].sum(axis=0).tolist()) <= set(range(1, 10))


def test_all_arms_start_alike_train_no_setting_twice_and_only_quantum_ones_have_circuits(tmp_path: Path) -> None:
    problem = search(stored(), trials=12)
    for name, arm in ARMS.items():
        found = arm.solve(problem, make_bench(3, tmp_path))
        assert (found.circuits > 0) == (arm.kind is Kind.QUANTUM), name
        assert (found.tabulated > 0) == name.endswith("-tabulated"), "a tabulated oracle is charged its evaluations"
        if name == "default":
            assert len(found.trials) == 1
            continue
        assert len({trial.setting for trial in found.trials}) == len(found.trials) == 12
        assert [trial.setting for trial in found.trials[:10]] == start_design(problem)


@pytest.mark.parametrize(
    "name", [name for name in ARMS if name.startswith(("quadratic", "machine")) and name != "quadratic-grover"]
)
def test_a_surrogate_that_can_represent_the_loss_finds_its_minimum(name: str, tmp_path: Path) -> None:
    best = stored().validation[:, -1]
    regret = [
        ARMS[name].solve(search(stored(), cell, 30), make_bench(cell, tmp_path)).best.validation - best.min()
        for cell in range(2)
    ]
    assert np.mean(regret) < 0.15 * (np.median(best) - best.min())


def test_quality_is_the_test_loss_of_the_best_validation_loss(tmp_path: Path) -> None:
    problem = search(stored())
    found = ARMS["random"].solve(problem, make_bench(0, tmp_path))
    best = min((t for t in found.trials if t.quarters == 4), key=lambda t: t.validation)
    assert quality(problem, found) == (-best.test,)
    assert oracle(problem) == (-stored().test.min(),)
    assert quality(problem, found)[0] <= oracle(problem)[0]


def test_a_run_above_the_median_of_the_earlier_ones_is_stopped(tmp_path: Path) -> None:
    ledger = Ledger(search(stored()), make_bench(0, tmp_path))
    assert all(trial.quarters == 4 for trial in ledger.trials)
    median = np.median(ledger.losses)
    new = [setting for setting in range(SETTINGS) if not ledger.knows(setting)]
    worst = max(new, key=lambda setting: stored().validation[setting, -1])
    better = min(new, key=lambda setting: stored().validation[setting, -1])
    bad, good = ledger.evaluate([worst, better])
    assert bad.quarters == 1
    assert bad.validation == pytest.approx(stored().validation[worst, 0])
    assert np.isnan(bad.test)
    assert good.quarters == 4
    assert good.validation < median


def test_a_known_proposal_is_replaced_by_the_nearest_new_one(tmp_path: Path) -> None:
    ledger = Ledger(search(stored()), make_bench(0, tmp_path))
    known = int(ledger.settings[0])
    for trial in ledger.evaluate([known]):
        assert np.abs(levels()[trial.setting] - levels()[known]).sum() <= 2


def test_a_search_needs_a_start_within_its_runs() -> None:
    with pytest.raises(ValueError, match=r"start \(10\) should lie between 1 and trials \(4\)"):
        search(stored(), trials=4)


def windows(seed: int, count: int) -> Windows:
    """Text of two alternating tokens with some noise, which a model learns within seconds."""
    rng = np.random.default_rng(seed)
    tokens = (np.arange(17)[None] + rng.integers(0, 2, (count, 1))) % 2 + 2 * (rng.random((count, 17)) < 0.05)
    return Windows(tokens.astype(np.int64), np.full(count, 16, np.int64))


@pytest.fixture(scope="module")
def real() -> Real:
    return Real(windows(0, 64), windows(1, 8), windows(2, 8), vocab_size=4, tokens=1024, seed=0)


SMALL = int(setting_of(np.array([2, 2, 0, 0, 0, 0])))


def test_a_real_run_learns_and_reports_each_quarter(real: Real) -> None:
    curve = real.curve(SMALL, ())
    assert len(curve.validation) == len(curve.cpu_s) == 4
    assert curve.validation[-1] < curve.validation[0] < real.penalty == 2.0
    assert curve.test < real.penalty
    assert list(curve.cpu_s) == sorted(curve.cpu_s)
    assert replace(curve, cpu_s=()) == replace(real.curve(SMALL, ()), cpu_s=())


def test_a_real_run_ends_where_it_exceeds_a_limit(real: Real) -> None:
    curve = real.curve(SMALL, (0.0,))
    assert len(curve.validation) == 1
    assert np.isnan(curve.test)


def test_a_failed_run_gets_the_penalty(real: Real, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(*_: object) -> None:
        raise FloatingPointError("the training loss is nan")

    monkeypatch.setattr("tasks.architecture.hyperparameters.runs.train", diverge)
    curve = real.curve(SMALL, ())
    assert (curve.validation, curve.test) == ((2.0,) * 4, 2.0)


def test_a_killed_search_does_not_train_again(real: Real, tmp_path: Path) -> None:
    trained: list[int] = []

    def mapped(function: object, items: Sequence[int], /) -> list[Curve]:
        trained.extend(items)
        return [Curve((2.0, 1.5, 1.2, 1.0 + item / 1000), 1.1, (1.0, 2.0, 3.0, 4.0)) for item in items]

    problem, made = search(real, trials=14), replace(make_bench(1, tmp_path), map=mapped)
    first = ARMS["quadratic-exact"].solve(problem, made)
    assert len(trained) == 14
    again = ARMS["quadratic-exact"].solve(problem, replace(make_bench(1, tmp_path), map=mapped))
    assert again == first
    assert len(trained) == 24  # the start design alone, which arms share through `once`
