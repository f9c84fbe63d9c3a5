"""Simulated annealing, path-integral annealing, and annealing by swaps for a fixed number of chosen variables.

All three are classical; path-integral annealing is "quantum-inspired": a Monte Carlo simulation of a transverse
field on ordinary hardware.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dimod
import numpy as np
from dwave.samplers import PathIntegralAnnealingSampler, SimulatedAnnealingSampler

if TYPE_CHECKING:
    from numpy.random import Generator

    from tasks.combinatorial.qubo import Bits, Qubo


def simulated_annealing(qubo: Qubo, reads: int, sweeps: int, rng: Generator) -> Bits:
    """Anneal single flips (Ocean's sampler, its own temperature range); return (reads, n)."""
    sampler: Any = SimulatedAnnealingSampler  # untyped
    return _sample(sampler(), qubo, reads, sweeps, rng)


def path_integral_annealing(qubo: Qubo, reads: int, sweeps: int, rng: Generator) -> Bits:
    """Anneal the path integral of a transverse-field Ising model (Ocean's sampler); return (reads, n)."""
    sampler: Any = PathIntegralAnnealingSampler  # untyped
    return _sample(sampler(), qubo, reads, sweeps, rng)


def cardinality_annealing(
    qubo: Qubo, k: int, reads: int, sweeps: int, rng: Generator, temperatures: tuple[float, float] = (2.0, 2e-3)
) -> Bits:
    """Anneal swaps of a chosen and an unchosen variable, so that every state has exactly `k` ones; (reads, n).

    A sweep proposes n swaps in each read. The temperature falls geometrically, by default from the largest change that
    a swap can make on average to a thousandth of it, so the last sweeps are a descent.

    Args:
        qubo: what is minimised.
        k: ones of every state.
        reads: independent runs.
        sweeps: sweeps of each run.
        rng: draws the swaps.
        temperatures: the first and the last one, in units of the typical change of a flip.

    Raises:
        ValueError: `k` is not between 0 and n.
    """
    n = qubo.size
    if not 0 <= k <= n:
        raise ValueError(f"k ({k}) should lie between 0 and the number of variables ({n})")
    order = rng.permuted(np.tile(np.arange(n), (reads, 1)), axis=1)
    bits = np.zeros((reads, n), np.uint8)
    rows = np.arange(reads)
    bits[rows[:, None], order[:, :k]] = 1
    if k in (0, n) or reads == 0:
        return bits
    inside, outside = order[:, :k].copy(), order[:, k:].copy()
    fields = qubo.fields(bits)
    scale = float(np.std(fields)) + float(np.sqrt(np.mean(qubo.quadratic**2)))
    for temperature in np.geomspace(*temperatures, max(1, sweeps)) * (scale or 1.0):
        at_in = rng.integers(k, size=(n, reads))
        at_out = rng.integers(n - k, size=(n, reads))
        # A change is taken with probability exp(-dE / T): dE is compared with an exponential draw.
        thresholds = temperature * rng.exponential(size=(n, reads))
        for a, b, threshold in zip(at_in, at_out, thresholds, strict=True):
            leaving, entering = inside[rows, a], outside[rows, b]
            change = fields[rows, entering] - fields[rows, leaving] - qubo.quadratic[leaving, entering]
            taken = np.flatnonzero(change <= threshold)
            if not taken.size:
                continue
            out, new = leaving[taken], entering[taken]
            fields[taken] += qubo.quadratic[new] - qubo.quadratic[out]
            inside[taken, a[taken]], outside[taken, b[taken]] = new, out
    bits[:] = 0
    bits[rows[:, None], inside] = 1
    return bits


def _sample(sampler: Any, qubo: Qubo, reads: int, sweeps: int, rng: Generator) -> Bits:
    n = qubo.size
    if n == 0 or reads == 0:
        return np.zeros((reads, n), np.uint8)
    model = dimod.BinaryQuadraticModel(qubo.linear, qubo.quadratic / 2, qubo.offset, dimod.BINARY)
    found = sampler.sample(model, num_reads=reads, num_sweeps=sweeps, seed=int(rng.integers(2**31)))
    columns = np.argsort(np.asarray(found.variables))
    bits: Bits = found.record.sample[:, columns].astype(np.uint8)
    return bits
