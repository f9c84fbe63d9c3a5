from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from qiskit.primitives import StatevectorEstimator
from qiskit_aer.primitives import SamplerV2

from tasks.architecture.hyperparameters.problem import Found, Search, Trial
from tasks.architecture.hyperparameters.runs import Stored
from tasks.architecture.hyperparameters.space import SETTINGS, levels
from tasks.contract import Bench
from tasks.pilots.flights.fourier import LAYERS, FourierCircuit, angles, ridge_series
from tasks.pilots.flights.grids import GRIDS, has_shape_of_the_search, values
from tasks.pilots.flights.problem import measures, quality
from tasks.pilots.flights.subtask import FLIGHTS


@pytest.fixture
def bench(tmp_path: Path) -> Any:
    def make(seed: int = 1) -> Bench:
        sampler, estimator = SamplerV2(seed=seed), StatevectorEstimator()
        return Bench(np.random.default_rng(seed), sampler, estimator, list, lambda _, f: f(), tmp_path)

    return make


def bowl(trials: int = 20) -> Search:
    """A search whose loss is a smooth bowl over the levels, lowest at setting 127 of 256."""
    at = angles()
    loss = 1.0 - 0.1 * np.cos(at - at[127]).sum(axis=1)
    quarters = np.tile(loss[:, None], (1, 4))
    return Search(Stored(quarters, loss.copy(), np.ones_like(quarters)), trials, 5, 5)


@pytest.mark.parametrize("name", sorted(GRIDS))
def test_grids_have_the_shape_that_the_searches_know(name: str) -> None:
    assert has_shape_of_the_search(GRIDS[name])
    assert len({tuple(values(name, setting).values()) for setting in range(SETTINGS)}) == SETTINGS


def test_the_kernel_of_the_ridge_is_the_fidelity_of_the_loaded_angles() -> None:
    """An RY by an angle and its uncompute return |0> with probability cos^2 of half the difference."""
    few = np.arange(0, SETTINGS, 37)
    states = [np.stack([np.cos(angles()[few] / 2), np.sin(angles()[few] / 2)], axis=2)] * LAYERS
    kernel = np.prod([np.einsum("adk,bdk->abd", s, s) ** 2 for s in states], axis=0).prod(axis=2)
    across = np.prod(np.cos((angles()[few][:, None] - angles()[few][None]) / 2) ** (2 * LAYERS), axis=2)
    np.testing.assert_allclose(across, kernel, atol=1e-12)


def test_the_ridge_fits_a_series_of_its_frequencies() -> None:
    at, rng = angles(), np.random.default_rng(0)
    target = np.cos(at - at[127]).sum(axis=1)
    seen = rng.permutation(SETTINGS)[:120]
    found = ridge_series(seen, target[seen] - target[seen].mean())
    assert np.corrcoef(found, target)[0, 1] > 0.95


def test_the_circuit_has_the_frequencies_of_its_layers() -> None:
    """Along one angle, the other five fixed, the expectations are a series of degree two: no third harmonic."""
    circuit, x = FourierCircuit(3).circuit, np.arange(16) * 2 * np.pi / 16
    inputs = np.tile(np.linspace(0.3, 1.1, 6), (16, 1))
    inputs[:, 2] = x
    with torch.inference_mode():
        found = circuit(torch.from_numpy(inputs.astype(np.float32))).numpy()
    power = np.abs(np.fft.rfft(found, axis=0)) / 16
    assert power[3:].max() < 1e-5
    assert power[1:3].max() > 1e-2


@pytest.mark.parametrize("name", ["fourier-circuit", "fourier-circuit-exact", "fourier-ridge"])
def test_a_series_finds_the_bottom_of_a_bowl(name: str, bench: Any) -> None:
    problem = bowl()
    found = FLIGHTS.arm(name).solve(problem, bench())
    assert len(found.trials) == problem.trials
    assert quality(problem, found)[0] >= -0.06  # a random search of 20 is at .1 to .2
    assert found.circuits == (3 * SETTINGS if name == "fourier-circuit" else 0)


def test_regrets_fall_and_end_with_the_quality() -> None:
    problem = bowl(20)
    trials = tuple(Trial(s, float(problem.runs.validation[s, -1]), 4, 1.0, 1.0) for s in (0, 255, 127))  # type: ignore[union-attr]
    found = Found((*trials[:1] * 10, *trials[1:]))
    told = measures(problem, found)
    assert told["regret at 10"][0] > told["regret at 20"][0] == pytest.approx(0.0)
    assert quality(problem, found)[0] == pytest.approx(0.0)


def test_levels_are_laid_on_half_a_period() -> None:
    assert angles().min() == 0.0
    assert angles().max() == pytest.approx(np.pi * 3 / 4)
    assert angles().shape == levels().shape
