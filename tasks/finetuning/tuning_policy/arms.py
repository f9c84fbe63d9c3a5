"""Arms of `tuning_policy`: bandits, policies that learn by REINFORCE, one of them a circuit, and fixed choices.

All arms have the same number of episodes, propose them in rounds of the same size, and recommend by the same rule.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tasks.contract import Arm, Bench, Kind
from tasks.finetuning.tuning_policy.policies import Circuit, Network, Table, Tuning, generator_of, reinforce
from tasks.finetuning.tuning_policy.problem import Campaign, Ledger, Tuned, mean_rewards
from tasks.finetuning.tuning_policy.space import DEFAULT, SETTINGS, STATES, indicators

if TYPE_CHECKING:
    from numpy.typing import NDArray

NOISE = 0.5  # standard deviation of a standardised reward under the additive model, interactions included
EPSILON = 0.1
TABLE = Tuning(rate=0.01)  # the lowest of the grid: close to uniform draws
NETWORK = Tuning(rate=0.03, steps=4)
CIRCUIT = Tuning(rate=0.1, entropy=0.03, steps=4)


def take(problem: Campaign, bench: Bench, *, elsewhere: bool) -> Tuned:
    """Choose nothing: one run of the default setting, or of the one that was best on other texts."""
    ledger = Ledger(problem, bench)
    ledger.run([problem.elsewhere if elsewhere else DEFAULT])
    return ledger.tuned()


def draw_uniformly(problem: Campaign, bench: Bench) -> Tuned:
    """Draw settings uniformly, without replacement while there are new ones."""
    ledger = Ledger(problem, bench)
    order: list[int] = []
    while ledger.left:
        if len(order) < ledger.together:
            order += bench.rng.permutation(SETTINGS).tolist()
        ledger.run(order[: ledger.together])
        del order[: problem.parallel]
    return ledger.tuned()


def play_greedily(problem: Campaign, bench: Bench) -> Tuned:
    """Take the setting with the highest mean reward, or with probability .1 any setting (epsilon-greedy)."""
    ledger = Ledger(problem, bench)
    while ledger.left:
        explored = bench.rng.random(ledger.together) < EPSILON if ledger.episodes else np.ones(ledger.together, bool)
        best = int(np.nanargmax(mean_rewards(ledger.episodes))) if ledger.episodes else DEFAULT
        drawn = bench.rng.integers(SETTINGS, size=len(explored))
        ledger.run(np.where(explored, drawn, best).tolist())
    return ledger.tuned()


def sample_posterior(problem: Campaign, bench: Bench, *, additive: bool) -> Tuned:
    """Draw rewards from their posterior and take the highest, once for each episode (Thompson sampling).

    The model is linear with normal noise and a standard normal prior on the weights; rewards are standardised.

    Args:
        problem: the campaign.
        bench: what the arm works with.
        additive: a reward is a sum of one term for each of the three levels; otherwise every setting has a reward of
            its own, of which the other settings say nothing.
    """
    ledger = Ledger(problem, bench)
    features = indicators() if additive else np.eye(SETTINGS)
    while ledger.left:
        mean: NDArray[np.float64] = np.zeros(features.shape[1])
        covariance: NDArray[np.float64] = np.eye(features.shape[1])
        if ledger.episodes:
            known = features[[episode.setting for episode in ledger.episodes]]
            covariance = np.asarray(np.linalg.inv(covariance + known.T @ known / NOISE**2), np.float64)
            mean = covariance @ known.T @ ledger.standardised / NOISE**2
        weights = bench.rng.multivariate_normal(mean, covariance, ledger.together, method="cholesky")
        ledger.run((features @ weights.T).argmax(axis=0).tolist())
    return ledger.tuned()


def learn_table(tuning: Tuning, problem: Campaign, bench: Bench) -> Tuned:
    """Learn free logits of every state."""
    ledger = Ledger(problem, bench)
    reinforce(Table(), tuning, ledger, bench)
    return ledger.tuned()


def learn_network(tuning: Tuning, problem: Campaign, bench: Bench) -> Tuned:
    """Learn a network with one hidden layer."""
    ledger = Ledger(problem, bench)
    reinforce(Network(tuning.scale, generator_of(bench)), tuning, ledger, bench)
    return ledger.tuned()


def learn_circuit(tuning: Tuning, exact: bool, problem: Campaign, bench: Bench) -> Tuned:
    """Learn a circuit; settings are drawn from measured or from exact expectations."""
    ledger, policy = Ledger(problem, bench), Circuit(tuning.scale, generator_of(bench))
    if exact:
        reinforce(policy, tuning, ledger, bench)
        return ledger.tuned()
    reinforce(policy, tuning, ledger, bench, read=lambda: policy.measured(bench, problem.shots))
    return ledger.tuned(circuits=STATES * -(-problem.episodes // problem.parallel))


INCUMBENT: Arm[Campaign, Tuned] = Arm("thompson", Kind.CLASSICAL, partial(sample_posterior, additive=True))
CHALLENGER: Arm[Campaign, Tuned] = Arm(
    "circuit", Kind.QUANTUM, partial(learn_circuit, CIRCUIT, False), twin="circuit-exact"
)
OTHERS: tuple[Arm[Campaign, Tuned], ...] = (
    Arm("random", Kind.CONTROL, draw_uniformly),
    Arm("default", Kind.CONTROL, partial(take, elsewhere=False), does_nothing=True),
    Arm("circuit-untrained", Kind.CONTROL, partial(learn_circuit, Tuning(0.0, CIRCUIT.scale), True)),
    Arm("thompson-separate", Kind.CLASSICAL, partial(sample_posterior, additive=False)),
    Arm("epsilon-greedy", Kind.CLASSICAL, play_greedily),
    Arm("network", Kind.CLASSICAL, partial(learn_network, NETWORK)),
    Arm("table", Kind.CLASSICAL, partial(learn_table, TABLE)),
    Arm("best-elsewhere", Kind.CLASSICAL, partial(take, elsewhere=True)),
    Arm("circuit-exact", Kind.TWIN, partial(learn_circuit, CIRCUIT, True)),
)
