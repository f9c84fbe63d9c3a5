"""What a search for the settings of the delay model came to: its regret. The problem is that of `hyperparameters`."""

from __future__ import annotations

from collections.abc import Mapping

from tasks.architecture.hyperparameters.problem import Found, Search
from tasks.architecture.hyperparameters.runs import QUARTERS, Stored

AT = (10, 20, 40)  # fits at which the regret is shown


def regret(problem: Search, found: Found, count: int) -> float:
    """Return the lowest validation loss of the first complete fits minus the lowest of the table, in nats.

    Raises:
        TypeError: the fits are not stored, so that the lowest loss is not known.
    """
    complete = [trial.validation for trial in found.trials[:count] if trial.quarters == QUARTERS]
    return float(min(complete) - _stored(problem).validation[:, -1].min())


def quality(problem: Search, found: Found) -> tuple[float, ...]:
    """Return minus the regret after all fits."""
    return (-regret(problem, found, len(found.trials)),)


def measures(problem: Search, found: Found) -> Mapping[str, tuple[float, ...]]:
    """Return the regrets on the way, the excess of the test loss over the lowest, the fits and their CPU seconds."""
    return {
        **{f"regret at {count}": (regret(problem, found, count),) for count in AT if count <= problem.trials},
        "excess test loss": (found.best.test - float(_stored(problem).test.min()),),
        "fits": (float(len(found.trials)),),
        "fit CPU s": (sum(trial.cpu_s for trial in found.trials),),
    }


def _stored(problem: Search) -> Stored:
    if not isinstance(problem.runs, Stored):
        raise TypeError("the regret is known for a table of stored fits only")
    return problem.runs
