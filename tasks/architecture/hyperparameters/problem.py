"""The search for hyperparameters: the problem, its solution, and the bookkeeping that all arms share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import qmc

from tasks.architecture.hyperparameters.runs import QUARTERS, Curve, Real, Stored
from tasks.architecture.hyperparameters.space import SPACE, bits, levels, setting_of
from tasks.contract import Budget

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

    from tasks.contract import Bench

STOPPED_AFTER = (0, 1)  # quarters after which a run may be stopped
EARLIER = 5  # runs that a median needs


@dataclass(frozen=True)
class Search:
    """Find the hyperparameters with the lowest loss in a number of training runs.

    Attributes:
        runs: what a training run comes to.
        trials: number of training runs that each arm has.
        start: number of them in the start design, before an arm uses any result.
        parallel: runs that are proposed together and may be trained at the same time.
        cell: number of the repetition; another cell draws another start design.
        budget: limits of each arm.
    """

    runs: Real | Stored
    trials: int
    start: int
    parallel: int
    cell: int = 0
    budget: Budget | None = None

    def __post_init__(self) -> None:
        if not 0 < self.start <= self.trials or self.parallel < 1:
            raise ValueError(
                f"start ({self.start}) should lie between 1 and trials ({self.trials}), "
                f"and parallel ({self.parallel}) be at least 1"
            )


@dataclass(frozen=True)
class Trial:
    """One training run of the search.

    Attributes:
        setting: the hyperparameters, as a number of the grid.
        validation: bits per byte on validation text when the run ended.
        quarters: quarters of the training that were done; fewer than four if the run was stopped early.
        test: bits per byte on test text, nan unless the run was complete; no arm may use it.
        cpu_s: CPU seconds of the training.
    """

    setting: int
    validation: float
    quarters: int
    test: float
    cpu_s: float = field(compare=False)


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        trials: training runs in the order in which they were proposed.
        queries: queries of a quantum oracle.
        circuits: circuits that were run.
        tabulated: values that were computed to make tables of an oracle.
    """

    trials: tuple[Trial, ...]
    queries: int = 0
    circuits: int = 0
    tabulated: int = 0

    @property
    def best(self) -> Trial:
        """The complete run with the lowest validation loss.

        Raises:
            ValueError: no run is complete.
        """
        complete = [trial for trial in self.trials if trial.quarters == QUARTERS]
        if not complete:
            raise ValueError("no training run of the search is complete")
        return min(complete, key=lambda trial: trial.validation)


class Ledger:
    """Proposes training runs, stops bad ones early, and remembers the results; the same for all arms.

    A run is stopped after the first or second quarter if its loss exceeds the median of the earlier runs there
    (Golovin et al., KDD 2017); the runs of the start design are not stopped. A setting is trained once: a proposal that
    was evaluated before is replaced by the nearest one that was not.
    """

    def __init__(self, problem: Search, bench: Bench, *, start: bool = True) -> None:
        self.problem, self._bench = problem, bench
        self.trials: list[Trial] = []
        self._curves: list[Curve] = []
        if start:
            self._evaluate(start_design(problem), (), shared=True)

    @property
    def left(self) -> int:
        """Number of training runs that may still be made."""
        return self.problem.trials - len(self.trials)

    @property
    def settings(self) -> NDArray[np.int64]:
        """The evaluated settings in order."""
        return np.array([trial.setting for trial in self.trials], np.int64)

    @property
    def losses(self) -> NDArray[np.float64]:
        """Their validation losses."""
        return np.array([trial.validation for trial in self.trials])

    def knows(self, setting: int) -> bool:
        """Return whether the setting has been evaluated."""
        return any(trial.setting == setting for trial in self.trials)

    def evaluate(self, ranked: Iterable[int], at_most: int | None = None) -> list[Trial]:
        """Train the first new settings of a ranking, as many as run in parallel, and return the new trials.

        Where the ranking has too few new ones, the nearest to its first one are taken; ties are drawn.
        """
        wanted = min(at_most or self.problem.parallel, self.left)
        order = list(dict.fromkeys(int(setting) for setting in ranked))
        chosen = [setting for setting in order if not self.knows(setting)][:wanted]
        if len(chosen) < wanted:
            near = self._nearest(order[0] if order else int(self._bench.rng.integers(len(bits()))))
            chosen += [setting for setting in near if not self.knows(setting) and setting not in chosen][
                : wanted - len(chosen)
            ]
        return self._evaluate(chosen, self._limits(), shared=False)

    def found(self, queries: int = 0, circuits: int = 0, tabulated: int = 0) -> Found:
        """Return the result."""
        return Found(tuple(self.trials), queries, circuits, tabulated)

    def _nearest(self, setting: int) -> list[int]:
        distances = np.abs(levels() - levels()[setting]).sum(axis=1)
        return [int(found) for found in np.lexsort((self._bench.rng.random(len(distances)), distances))]

    def _limits(self) -> tuple[float, ...]:
        limits = []
        for quarter in STOPPED_AFTER:
            seen = [curve.validation[quarter] for curve in self._curves if len(curve.validation) > quarter]
            limits.append(float(np.median(seen)) if len(seen) >= EARLIER else float("inf"))
        return tuple(limits)

    def _evaluate(self, settings: Sequence[int], limits: tuple[float, ...], *, shared: bool) -> list[Trial]:
        problem, bench = self.problem, self._bench
        train = partial(_curve, problem.runs, limits)
        if isinstance(problem.runs, Stored):
            curves = [train(setting) for setting in settings]
        elif shared:
            curves = bench.once("start runs", lambda: bench.map(train, settings))
        else:
            curves = _remembered(bench.resume(), settings, limits, lambda missing: bench.map(train, missing))
        new = [
            Trial(setting, curve.validation[-1], len(curve.validation), curve.test, curve.cpu_s[-1])
            for setting, curve in zip(settings, curves, strict=True)
        ]
        self.trials += new
        self._curves += curves
        if isinstance(problem.runs, Real):
            quarters = sum(trial.quarters for trial in new)
            bench.spend(tokens=problem.runs.tokens * quarters // QUARTERS)
        return new


def _curve(runs: Real | Stored, limits: tuple[float, ...], setting: int) -> Curve:
    return runs.curve(setting, limits)


def _remembered(
    folder: Path, settings: Sequence[int], limits: Sequence[float], train: Callable[[list[int]], list[Curve]]
) -> list[Curve]:
    """Return the curves of a round; those that a killed attempt left in `runs.json` are not trained again."""
    path = folder / "runs.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    names = {setting: f"{setting} {list(limits)}" for setting in settings}
    missing = [setting for setting in settings if names[setting] not in stored]
    for setting, curve in zip(missing, train(missing), strict=True):
        stored[names[setting]] = asdict(curve)
    if missing:
        part = path.with_suffix(".part")
        part.write_text(json.dumps(stored))
        part.replace(path)
    found = [stored[names[setting]] for setting in settings]
    return [Curve(tuple(row["validation"]), row["test"], tuple(row["cpu_s"])) for row in found]


def start_design(problem: Search) -> list[int]:
    """Return the settings of the start: scrambled Sobol points, distinct, that use each bit with both values.

    A surrogate learns nothing about a bit that never changes (arXiv 2605.04825); designs are drawn until none is left
    out, if the number of runs allows it.
    """
    for attempt in range(100):
        sampler = qmc.Sobol(len(SPACE), seed=np.random.default_rng([problem.cell, attempt]))
        points = sampler.random_base2(10)
        counts = np.array([len(dimension.levels) for dimension in SPACE])
        settings = list(dict.fromkeys(setting_of(np.floor(points * counts).astype(np.int64)).tolist()))
        chosen = settings[: problem.start]
        used = bits()[chosen]
        if problem.start < 2 or (used.any(axis=0) & ~used.all(axis=0)).all():
            break
    return chosen


def sobol_sequence(rng: Generator) -> list[int]:
    """Return all settings in the order of one scrambled Sobol sequence."""
    counts = np.array([len(dimension.levels) for dimension in SPACE])
    points = qmc.Sobol(len(SPACE), seed=rng).random_base2(13)
    return list(dict.fromkeys(setting_of(np.floor(points * counts).astype(np.int64)).tolist()))


def quality(_: Search, found: Found) -> tuple[float, ...]:
    """Return minus the test loss of the setting with the lowest validation loss."""
    return (-found.best.test,)


def oracle(problem: Search) -> tuple[float, ...]:
    """Return minus the lowest test loss of the table; unknown where runs are real."""
    return (-float(problem.runs.test.min()),) if isinstance(problem.runs, Stored) else ()
