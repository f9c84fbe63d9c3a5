"""The flights pilot: grids, the searches with a Fourier series, and the regrets that its page shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qiskit_aer.primitives import SamplerV2

from tasks.architecture.hyperparameters.problem import Found, Search, Trial
from tasks.architecture.hyperparameters.runs import Stored
from tasks.architecture.hyperparameters.space import SETTINGS, SPACE, unit
from tasks.bench import make_bench
from tasks.pilots.flights.grids import GRIDS, values
from tasks.pilots.flights.problem import measures, quality
from tasks.pilots.flights.subtask import FLIGHTS


@pytest.fixture
def bench(tmp_path: Path) -> Any:
    return lambda seed=1: make_bench(seed, tmp_path, SamplerV2(seed=seed))


def bowl(trials: int = 20) -> Search:
    """A search whose loss is a smooth bowl over the levels, lowest at setting 127 of 256."""
    at = unit()
    loss = 1.0 - 0.1 * np.cos(2 * (at - at[127])).sum(axis=1)
    quarters = np.tile(loss[:, None], (1, 4))
    return Search(Stored(quarters, loss.copy(), np.ones_like(quarters)), trials, 5, 5)


@pytest.mark.parametrize("name", sorted(GRIDS))
def test_grids_have_the_shape_that_the_searches_know(name: str) -> None:
    assert [len(d.levels) for d in GRIDS[name]] == [len(d.levels) for d in SPACE]
    assert len({tuple(values(name, setting).values()) for setting in range(SETTINGS)}) == SETTINGS


@pytest.mark.parametrize("name", ["fourier-circuit", "fourier-circuit-exact", "fourier-ridge"])
def test_a_series_finds_the_bottom_of_a_bowl(name: str, bench: Any) -> None:
    problem = bowl()
    found = FLIGHTS.arm(name).solve(problem, bench())
    assert len(found.trials) == problem.trials
    assert quality(problem, found)[0] >= -0.06  # a random search of 20 is at .1 to .2
    assert (found.circuits > 0) == (name == "fourier-circuit")


def test_regrets_fall_and_end_with_the_quality() -> None:
    problem = bowl(20)
    assert isinstance(problem.runs, Stored)
    losses = problem.runs.validation[:, -1]
    trials = tuple(Trial(s, float(losses[s]), 4, 1.0, 1.0) for s in (0, 255, 127))
    found = Found((*trials[:1] * 10, *trials[1:]))
    told = measures(problem, found)
    assert told["regret at 10"][0] > told["regret at 20"][0] == pytest.approx(0.0)
    assert quality(problem, found)[0] == pytest.approx(0.0)
