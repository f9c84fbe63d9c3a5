"""A campaign of fine-tuning runs: the problem, its solution, its quality, and the bookkeeping that all arms share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tasks.contract import Budget
from tasks.finetuning.tuning_policy.runs import Episode, Real, Stored
from tasks.finetuning.tuning_policy.space import SETTINGS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tasks.contract import Bench

NEAR = 0.95  # share of the best reward that counts as reached


@dataclass(frozen=True)
class Campaign:
    """Find the setting with the highest reward in a number of fine-tuning runs, called episodes.

    Attributes:
        runs: what a run comes to.
        episodes: runs that each arm has.
        parallel: runs that are proposed together and may be trained at the same time.
        elsewhere: the setting that was best on other texts.
        shots: measurements of each circuit.
        cell: number of the repetition; another cell begins with another of the stored seeds.
        budget: limits of each arm.
    """

    runs: Real | Stored
    episodes: int
    parallel: int
    elsewhere: int
    shots: int
    cell: int = 0
    budget: Budget | None = None

    def __post_init__(self) -> None:
        if min(self.episodes, self.parallel, self.shots) < 1:
            raise ValueError(
                f"episodes ({self.episodes}), parallel ({self.parallel}) and shots ({self.shots}) should be at least 1"
            )


@dataclass(frozen=True)
class Tuned:
    """What a campaign came to.

    Attributes:
        episodes: the runs in the order in which they were proposed.
        circuits: circuits that were run.
    """

    episodes: tuple[Episode, ...]
    circuits: int = field(default=0)

    def recommended(self, count: int | None = None) -> int | None:
        """Return the setting with the highest mean reward in the first episodes; None if no reward is above 0.

        A setting that is worse than leaving the model alone is not recommended.
        """
        means = mean_rewards(self.episodes[:count])
        best = int(np.nanargmax(means))
        return best if means[best] > 0 else None


def mean_rewards(episodes: Sequence[Episode]) -> NDArray[np.float64]:
    """Return the mean reward of every setting, (64,), nan where it has no episode."""
    settings = [episode.setting for episode in episodes]
    counts = np.bincount(settings, minlength=SETTINGS)
    sums = np.bincount(settings, weights=[episode.reward for episode in episodes], minlength=SETTINGS)
    return np.asarray(np.where(counts, sums / np.maximum(counts, 1), np.nan))


class Ledger:
    """Makes the runs of an arm and remembers them; the same for all arms."""

    def __init__(self, problem: Campaign, bench: Bench) -> None:
        self.problem, self._bench = problem, bench
        self.episodes: list[Episode] = []

    @property
    def left(self) -> int:
        """Number of episodes that may still be had."""
        return self.problem.episodes - len(self.episodes)

    @property
    def together(self) -> int:
        """Number of episodes of the next round."""
        return min(self.problem.parallel, self.left)

    @property
    def standardised(self) -> NDArray[np.float64]:
        """Rewards so far with mean 0 and standard deviation 1."""
        rewards = np.array([episode.reward for episode in self.episodes])
        return np.asarray((rewards - rewards.mean()) / (rewards.std() or 1.0))

    def run(self, settings: Sequence[int]) -> list[Episode]:
        """Make one run of each setting; a setting that was run before gets the next seed."""
        problem, tried = self.problem, [episode.setting for episode in self.episodes]
        repetitions = []
        for setting in settings:
            repetitions.append(problem.cell + tried.count(setting))
            tried.append(setting)
        new = self._remembered(list(zip(settings, repetitions, strict=True)))
        self.episodes += new
        if isinstance(problem.runs, Real):
            self._bench.spend(tokens=len(new) * problem.runs.tokens)
        return new

    def tuned(self, circuits: int = 0) -> Tuned:
        """Return what the campaign came to."""
        return Tuned(tuple(self.episodes), circuits)

    def _remembered(self, wanted: list[tuple[int, int]]) -> list[Episode]:
        """Return the runs; of real ones, those that a killed attempt left in `runs.json` are not made again."""
        runs = self.problem.runs
        if isinstance(runs, Stored):
            return [runs.run(*one) for one in wanted]
        path = self._bench.resume() / "runs.json"
        stored = json.loads(path.read_text()) if path.exists() else {}
        missing = [one for one in wanted if str(one) not in stored]
        for one, episode in zip(missing, self._bench.map(partial(_run, runs), missing), strict=True):
            stored[str(one)] = asdict(episode)
        if missing:
            part = path.with_suffix(".part")
            part.write_text(json.dumps(stored))
            part.replace(path)
        return [Episode(**stored[str(one)]) for one in wanted]


def _run(runs: Real, one: tuple[int, int]) -> Episode:
    return runs.run(*one)


def curve(problem: Campaign, tuned: Tuned) -> NDArray[np.float64]:
    """Return, after each episode, the share of the best reward that the recommended setting is worth on test text.

    The worth of a setting is its mean over all stored seeds. An arm with fewer episodes keeps its last value.

    Raises:
        TypeError: the runs are not stored, so that the best reward is not known.
    """
    if not isinstance(problem.runs, Stored):
        raise TypeError("the best reward is known for stored runs only")
    worth = problem.runs.worth
    chosen = [tuned.recommended(count) for count in range(1, len(tuned.episodes) + 1)]
    found = [0.0 if setting is None else float(worth[setting]) for setting in chosen]
    found += found[-1:] * (problem.episodes - len(found))
    return np.asarray(np.array(found) / worth.max())


def quality(problem: Campaign, tuned: Tuned) -> tuple[float, ...]:
    """Return the mean of `curve` over the episodes; unknown where runs are real."""
    return (float(curve(problem, tuned).mean()),) if isinstance(problem.runs, Stored) else ()


def measures(problem: Campaign, tuned: Tuned) -> Mapping[str, tuple[float, ...]]:
    """Return how soon the recommended setting is near the best one and stays there, and what that takes.

    A campaign that never arrives counts with all of its episodes; `arrives` tells it apart.
    """
    if not isinstance(problem.runs, Stored):
        return {}
    shares = curve(problem, tuned)
    away = np.flatnonzero(shares < NEAR)
    arrives = not len(away) or away[-1] + 1 < len(shares)
    needed = int(away[-1]) + 2 if len(away) and arrives else len(shares) if len(away) else 1
    spent = np.cumsum([episode.cpu_s for episode in tuned.episodes])
    return {
        "episodes to 95 %": (float(needed),),
        "training CPU s to 95 %": (float(spent[min(needed, len(spent)) - 1]),),
        "arrives": (float(arrives),),
        "share of the best at the end": (float(shares[-1]),),
    }


def oracle(problem: Campaign) -> tuple[float, ...]:
    """Return the quality of knowing the best setting; unknown where runs are real."""
    return (1.0,) if isinstance(problem.runs, Stored) else ()
