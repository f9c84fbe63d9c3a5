"""Arms of the flights pilot: searches with a Fourier surrogate beside those of the architecture stage, at equal fits.

The published method fits a Fourier series by a circuit to the fits so far and goes where the series is lowest. The arms
differ in what makes the series: the circuit read by shots, the circuit read exactly, and ridge regression on the same
frequencies. All searches share start design, number of fits and the rule that stops a bad fit early.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.architecture.hyperparameters import arms as searches
from tasks.architecture.hyperparameters.problem import Found, Ledger, Search
from tasks.architecture.hyperparameters.surrogates import standardised
from tasks.contract import Arm, Bench, Kind
from tasks.model.threads import torch_threads
from tasks.pilots.flights.fourier import Floats, FourierCircuit, angles, ridge_series

SHOTS = 128

Surrogate = Callable[[NDArray[np.int64], Floats], Floats]  # from settings and losses to the series at all settings


def search_with(surrogate: Surrogate, problem: Search, bench: Bench, *, quantum: bool = False) -> Found:
    """Fit the surrogate to the fits so far, evaluate its lowest new settings, and repeat."""
    ledger, rounds = Ledger(problem, bench), 0
    while ledger.left:
        ledger.evaluate(np.argsort(surrogate(ledger.settings, standardised(ledger.losses)), kind="stable"))
        rounds += 1
    return ledger.found(circuits=rounds * len(angles()) if quantum else 0)


def search_by_circuit(problem: Search, bench: Bench) -> Found:
    """Train the circuit on exact expectations and read it at all settings by shots, one job a round."""
    series, inputs = _series(bench), torch.from_numpy(angles().astype(np.float32))

    def surrogate(settings: NDArray[np.int64], target: Floats) -> Floats:
        series.fit(settings, target)
        return series.read(series.circuit.estimate(inputs, bench.sampler, SHOTS))

    with torch_threads(1):
        return search_with(surrogate, problem, bench, quantum=True)


def search_by_exact_circuit(problem: Search, bench: Bench) -> Found:
    """Train the circuit and read it exactly."""
    series, inputs = _series(bench), torch.from_numpy(angles().astype(np.float32))

    def surrogate(settings: NDArray[np.int64], target: Floats) -> Floats:
        series.fit(settings, target)
        with torch.inference_mode():
            return series.read(series.circuit(inputs))

    with torch_threads(1):
        return search_with(surrogate, problem, bench)


def search_by_ridge(problem: Search, bench: Bench) -> Found:
    """Fit the series of the same frequencies by ridge regression."""
    return search_with(ridge_series, problem, bench)


def _series(bench: Bench) -> FourierCircuit:
    return FourierCircuit(int(bench.rng.integers(2**31)))


_SEARCHES = {arm.name: arm for arm in (searches.INCUMBENT, *searches.OTHERS)}

INCUMBENT: Arm[Search, Found] = _SEARCHES["gaussian-process"]
CHALLENGER: Arm[Search, Found] = Arm("fourier-circuit", Kind.QUANTUM, search_by_circuit, twin="fourier-circuit-exact")
OTHERS: tuple[Arm[Search, Found], ...] = (
    _SEARCHES["random"],
    Arm("fourier-circuit-exact", Kind.TWIN, search_by_exact_circuit),
    Arm("fourier-ridge", Kind.DEQUANTISED, search_by_ridge),
    *(_SEARCHES[name] for name in ("sobol", "tpe", "quadratic-exact")),
)
