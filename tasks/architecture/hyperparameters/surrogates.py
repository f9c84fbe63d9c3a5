"""Models of the loss over the bits of a setting, fitted to the runs so far, and what minimises them.

Both models are quadratic in the bits, so their minimiser is a QUBO of eight variables. Losses above the 75th percentile
are cut to it before the fit: a diverged run shows that a setting is bad, not how bad.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize
from sklearn.linear_model import RidgeCV

from tasks.architecture.hyperparameters.space import BITS, bits, of_bits
from tasks.combinatorial.annealing import simulated_annealing
from tasks.combinatorial.qubo import Qubo
from tasks.quantum.qaoa import linear_ramp, sample_qaoa
from tasks.quantum.statevector import draw, qaoa_probabilities

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tasks.combinatorial.qubo import Bits, Floats
    from tasks.contract import Bench

ALPHAS = tuple(np.logspace(-2, 2, 9))
RANK, PENALTY = 3, 0.1  # of the factorisation machine
SHOTS, LAYERS = 128, 3
READS, SWEEPS = 32, 100

Fit = Callable[["NDArray[np.int64]", "Floats", "Bench"], Qubo]
Minimise = Callable[[Qubo, "Bench"], "NDArray[np.int64]"]


def standardised(losses: Floats) -> Floats:
    """Return the losses cut at their 75th percentile, with mean 0 and deviation 1."""
    cut = np.minimum(losses, np.quantile(losses, 0.75))
    deviation = float(cut.std())
    return np.asarray((cut - cut.mean()) / (deviation if deviation > 0 else 1.0))


def fit_quadratic(settings: NDArray[np.int64], losses: Floats, bench: Bench) -> Qubo:
    """Return ridge regression on bits and pairs of bits; its penalty is chosen by leave-one-out errors."""
    del bench
    rows, pairs = bits()[settings].astype(np.float64), _pairs()
    features = np.hstack([rows, rows[:, pairs[0]] * rows[:, pairs[1]]])
    model = RidgeCV(alphas=ALPHAS).fit(features, standardised(losses))
    quadratic = np.zeros((BITS, BITS))
    quadratic[pairs] = model.coef_[BITS:]
    return Qubo(model.coef_[:BITS], quadratic + quadratic.T, float(model.intercept_))


def fit_factorisation_machine(settings: NDArray[np.int64], losses: Floats, bench: Bench) -> Qubo:
    """Return a factorisation machine (Rendle 2010): the coefficient of a pair is the product of two factors."""
    rows, target = bits()[settings].astype(np.float64), standardised(losses)
    start = np.concatenate([np.zeros(1 + BITS), bench.rng.normal(0, 0.1, BITS * RANK)])

    def loss(parameters: Floats) -> tuple[float, Floats]:
        weights, factors = parameters[1 : 1 + BITS], parameters[1 + BITS :].reshape(BITS, RANK)
        sums = rows @ factors
        paired = (np.square(sums).sum(1) - rows @ np.square(factors).sum(1)) / 2
        error = parameters[0] + rows @ weights + paired - target
        gradient = np.concatenate(
            [
                [error.sum()],
                rows.T @ error + PENALTY * weights,
                (rows.T @ (error[:, None] * sums) - (rows.T @ error)[:, None] * factors + PENALTY * factors).ravel(),
            ]
        )
        return float(error @ error + PENALTY * np.square(parameters[1:]).sum()) / 2, gradient

    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 60}).x
    factors = found[1 + BITS :].reshape(BITS, RANK)
    quadratic = factors @ factors.T
    np.fill_diagonal(quadratic, 0.0)
    return Qubo(found[1 : 1 + BITS], (quadratic + quadratic.T) / 2, float(found[0]))


def minimise_exactly(qubo: Qubo, bench: Bench) -> NDArray[np.int64]:
    """Return all settings, the lowest energy first."""
    del bench
    return np.argsort(qubo.energies(bits()), kind="stable")


def minimise_by_annealing(qubo: Qubo, bench: Bench) -> NDArray[np.int64]:
    """Return what simulated annealing found, the lowest energy first."""
    return ranked(qubo, simulated_annealing(qubo, READS, SWEEPS, bench.rng))


def minimise_by_qaoa(qubo: Qubo, bench: Bench) -> NDArray[np.int64]:
    """Return the samples of QAOA with fixed angles, the lowest energy first; one job."""
    return ranked(qubo, sample_qaoa([qubo], bench.sampler, SHOTS, linear_ramp(LAYERS))[0])


def minimise_by_exact_samples(qubo: Qubo, bench: Bench) -> NDArray[np.int64]:
    """Return as many samples from the exact distribution of the QAOA circuit, the lowest energy first."""
    probabilities = qaoa_probabilities(qubo, *linear_ramp(LAYERS))
    return ranked(qubo, draw(probabilities, BITS, SHOTS, bench.rng))


def minimise_by_uniform_samples(qubo: Qubo, bench: Bench) -> NDArray[np.int64]:
    """Return as many uniform bit strings as QAOA has shots, the lowest energy first."""
    return ranked(qubo, bench.rng.integers(0, 2, (SHOTS, BITS), np.uint8))


def ranked(qubo: Qubo, samples: Bits) -> NDArray[np.int64]:
    """Return the settings among samples (m, 8), each once, the lowest energy first."""
    settings = np.unique(of_bits(samples))
    return settings[np.argsort(qubo.energies(bits()[settings]), kind="stable")]


@cache
def _pairs() -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    first, second = np.triu_indices(BITS, 1)
    return first, second
