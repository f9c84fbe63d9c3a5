from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks.bench import make_bench
from tasks.contract import Kind
from tasks.finetuning.tuning_policy import bank
from tasks.finetuning.tuning_policy.arms import (
    CHALLENGER,
    INCUMBENT,
    OTHERS,
    learn_circuit,
    learn_network,
    learn_table,
)
from tasks.finetuning.tuning_policy.policies import Circuit, Network, Table, Tuning, probabilities
from tasks.finetuning.tuning_policy.problem import Campaign, Ledger, Tuned, curve, measures, quality
from tasks.finetuning.tuning_policy.runs import Episode, Real, Split, Stored, losses
from tasks.finetuning.tuning_policy.space import DEFAULT, SETTINGS, indicators, levels, states, values
from tasks.model.causal import load_model
from tasks.model.windows import Windows

ARMS = {arm.name: arm for arm in (INCUMBENT, CHALLENGER, *OTHERS)}


def stored(seed: int = 0) -> Stored:
    """A table whose rewards are a sum of one term for each level, with a little noise."""
    rng = np.random.default_rng(seed)
    worth = indicators()[:, 1:] @ rng.normal(0, 1, 12)
    rewards = worth[:, None] - np.quantile(worth, 0.5) + rng.normal(0, 0.05, (SETTINGS, 3))
    return Stored(rewards, rewards, np.ones((SETTINGS, 3)))


def campaign(runs: Stored | Real, episodes: int = 40, parallel: int = 4) -> Campaign:
    return Campaign(runs, episodes, parallel, elsewhere=5, shots=128)


def episodes(*given: tuple[int, float]) -> tuple[Episode, ...]:
    return tuple(Episode(setting, reward, reward, 1.0) for setting, reward in given)


def test_a_setting_is_its_levels_and_a_state_is_what_was_chosen_so_far() -> None:
    assert len({values(setting) for setting in range(SETTINGS)}) == SETTINGS
    assert values(DEFAULT) == (0.0, 8, 0.01)
    np.testing.assert_array_equal(levels() @ [16, 4, 1], np.arange(SETTINGS))
    assert len({tuple(row) for row in states().tolist()}) == 21
    with pytest.raises(ValueError, match="0 to 63, not 64"):
        values(64)


def test_the_probability_of_a_setting_is_the_product_along_its_states() -> None:
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(21, 4)))
    law, step = probabilities(logits), logits.softmax(dim=1)
    assert float(law.sum()) == pytest.approx(1.0)
    mixture, rank, rate = levels()[37].tolist()
    expected = step[0, mixture] * step[1 + mixture, rank] * step[5 + 4 * mixture + rank, rate]
    assert float(law[37]) == pytest.approx(float(expected))


def test_policies_are_small_and_the_measured_circuit_approaches_the_exact_one(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    circuit = Circuit(1.0, generator)
    sizes = [sum(p.numel() for p in policy.parameters()) for policy in (circuit, Network(1.0, generator), Table())]
    assert sizes == [44, 58, 84]
    with torch.no_grad():
        apart = circuit.measured(make_bench(0, tmp_path), 4096) - circuit()
    assert float(apart.abs().max()) < 6 / 4096**0.5


def test_all_arms_have_the_same_episodes_and_only_the_executed_circuit_counts_circuits(tmp_path: Path) -> None:
    problem = campaign(stored(), episodes=10)
    for name, arm in ARMS.items():
        found = arm.solve(problem, make_bench(3, tmp_path))
        assert found.circuits == (63 if arm.kind is Kind.QUANTUM else 0), name  # 21 states in each of three rounds
        assert len(found.episodes) == (1 if name in ("default", "best-elsewhere") else 10), name
    assert ARMS["default"].solve(problem, make_bench(0, tmp_path)).episodes[0].setting == DEFAULT
    assert ARMS["best-elsewhere"].solve(problem, make_bench(0, tmp_path)).episodes[0].setting == 5
    drawn = ARMS["random"].solve(campaign(stored(), episodes=SETTINGS), make_bench(0, tmp_path)).episodes
    assert len({episode.setting for episode in drawn}) == SETTINGS


def test_a_setting_that_is_run_again_gets_the_next_seed(tmp_path: Path) -> None:
    runs = stored()
    ledger = Ledger(replace(campaign(runs), cell=1), make_bench(0, tmp_path))
    found = [*ledger.run([7, 7]), *ledger.run([7])]
    assert [episode.reward for episode in found] == [runs.validation[7, seed] for seed in (1, 2, 0)]


def test_quality_is_the_mean_share_of_the_best_reward_on_the_way() -> None:
    rewards = np.zeros((SETTINGS, 1))
    rewards[[3, 9], 0] = 0.5, 1.0
    problem = campaign(Stored(rewards, rewards, np.ones((SETTINGS, 1))), episodes=4)
    tuned = Tuned(episodes((1, -0.2), (3, 0.5), (9, 1.0), (3, 0.5)))
    assert curve(problem, tuned).tolist() == [0.0, 0.5, 1.0, 1.0]
    assert quality(problem, tuned) == (0.625,)
    found = measures(problem, tuned)
    assert found["episodes to 95 %"] == found["training CPU s to 95 %"] == (3.0,)
    assert found["arrives"] == (1.0,)
    late = measures(problem, Tuned(tuned.episodes[:2]))
    assert (late["episodes to 95 %"], late["arrives"]) == ((4.0,), (0.0,))
    assert Tuned(episodes((1, -0.2))).recommended() is None


@pytest.mark.parametrize(
    "solve",
    [
        INCUMBENT.solve,
        partial(learn_table, Tuning(0.3)),
        partial(learn_network, Tuning(0.1)),
        partial(learn_circuit, Tuning(0.1, steps=4), True),
    ],
)
def test_what_learns_earns_more_than_random_choices(solve: Any, tmp_path: Path) -> None:
    def earned(how: Any) -> float:
        late = [
            episode.reward
            for seed in range(3)
            for episode in how(campaign(stored(seed), 80), make_bench(seed, tmp_path)).episodes[40:]
        ]
        return float(np.mean(late))

    assert earned(solve) > earned(ARMS["random"].solve) + 0.5


def test_the_shipped_tables_are_complete_and_leave_their_own_text_out() -> None:
    tables = bank.stored_runs()
    assert len(tables) >= 3
    for name, runs in tables.items():
        assert runs.validation.shape == runs.test.shape == (SETTINGS, 3)
        assert runs.worth.max() > 0, name
        assert np.corrcoef(runs.validation.mean(axis=1), runs.worth)[0, 1] > 0.9
        others = [other.worth / other.worth.max() for key, other in tables.items() if key != name]
        assert bank.best_elsewhere(name) == int(np.mean(others, axis=0).argmax())


def windows(seed: int, count: int, other: int) -> Windows:
    """Text of two alternating tokens, of which one differs between two texts."""
    tokens = np.where((np.arange(17)[None] + np.random.default_rng(seed).integers(0, 2, (count, 1))) % 2, 1, other)
    return Windows(tokens.astype(np.int64), np.full(count, 16, np.int64))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Real:
    from tasks.finetuning.models import byte_config
    from tasks.model.causal import save_model
    from tasks.model.recipe import Recipe
    from tasks.model.small import new_model
    from tasks.model.training.loop import train

    folder, model = tmp_path_factory.mktemp("model"), new_model(byte_config(16, 1), 0)
    target, base = (Split(*(windows(seed, 16, other) for seed in range(3))) for other in (2, 3))
    train(model, base.train, Recipe(tokens=1024, batch=8, matrix_lr=0.05))
    save_model(model, folder)
    return Real(folder, target, base, losses(load_model(folder), target, base), tokens=512, batch=4)


def test_a_real_run_gains_and_is_remembered_after_a_kill(real: Real, tmp_path: Path) -> None:
    setting = 3 * 16 + DEFAULT
    first = real.run(setting, 0)
    assert first.reward > 0.1
    assert first.reward == real.run(setting, 0).reward != real.run(setting, 1).reward
    problem = campaign(real)
    Ledger(problem, make_bench(0, tmp_path)).run([setting])

    def refuse(_: object, items: list[Any]) -> list[Any]:
        assert not items
        return []

    again = replace(make_bench(0, tmp_path), map=refuse)
    assert Ledger(problem, again).run([setting])[0].reward == first.reward
    assert quality(problem, Tuned((first,))) == ()
