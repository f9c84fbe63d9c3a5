"""Classical post-processing of samples: descent to a local minimum by swaps, and projection to a number of ones.

The sampler and its control, uniform bits, need the same repair; otherwise a comparison measures the repair.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import ArrayLike

    from tasks.combinatorial.qubo import Bits, Qubo

GAIN = 1e-12


def project(qubo: Qubo, bits: ArrayLike, k: int) -> Bits:
    """Switch the cheapest bits of each row on or off until exactly `k` are on; (m, n).

    Raises:
        ValueError: `k` is not between 0 and n.
    """
    if not 0 <= k <= qubo.size:
        raise ValueError(f"k ({k}) should lie between 0 and the number of variables ({qubo.size})")
    x = np.atleast_2d(np.array(bits, np.uint8))
    fields = qubo.fields(x)
    for value, sign in ((0, 1.0), (1, -1.0)):
        while True:
            rows = np.flatnonzero(sign * (k - x.sum(axis=1, dtype=np.int64)) > 0)
            if not rows.size:
                break
            at = np.where(x[rows] == value, sign * fields[rows], np.inf).argmin(axis=1)
            x[rows, at] ^= 1
            fields[rows] += sign * qubo.quadratic[at]
    return x


def swap_descent(qubo: Qubo, bits: ArrayLike) -> Bits:
    """Swap the chosen and the unchosen bit of each row that lowers its energy most until no swap does; (m, n)."""
    x = np.atleast_2d(np.array(bits, np.uint8))
    n = qubo.size
    fields = qubo.fields(x)
    tolerance = _tolerance(qubo)
    active = np.arange(len(x)) if n else np.arange(0)
    while active.size:
        leaving = np.where(x[active] == 1, -fields[active], np.inf)
        entering = np.where(x[active] == 0, fields[active], np.inf)
        change = leaving[:, :, None] + entering[:, None, :] - qubo.quadratic
        at = change.reshape(active.size, n * n).argmin(axis=1)
        out, new = np.divmod(at, n)
        falls = change[np.arange(active.size), out, new] < -tolerance
        active, out, new = active[falls], out[falls], new[falls]
        x[active, out], x[active, new] = 0, 1
        fields[active] += qubo.quadratic[new] - qubo.quadratic[out]
    return x


def repair_cardinality(qubo: Qubo, bits: ArrayLike, k: int) -> Bits:
    """Project each row to `k` ones, then descend by swaps; (m, n)."""
    return swap_descent(qubo, project(qubo, bits, k))


def swapped(bits: ArrayLike) -> Bits:
    """Return the states that differ from one, (n,), by the swap of a chosen and an unchosen bit, (k (n - k), n)."""
    state = np.asarray(bits, np.uint8)
    pairs = [(out, new) for out in np.flatnonzero(state) for new in np.flatnonzero(state == 0)]
    x = np.tile(state, (len(pairs), 1))
    for row, pair in zip(x, pairs, strict=True):
        row[list(pair)] ^= 1
    return x


def uniform_subsets(n: int, k: int, shots: int, rng: Generator) -> Bits:
    """Draw uniform k-subsets, (shots, n): the control of a sampler of k-subsets."""
    x = np.zeros((shots, n), np.uint8)
    x[:, :k] = 1
    return rng.permuted(x, axis=1)


def marginal_bits(samples: ArrayLike, shots: int, rng: Generator) -> Bits:
    """Draw every bit by its frequency in `samples`, independently: the sampler without its correlations."""
    frequency = np.asarray(samples, np.float64).mean(axis=0)
    bits: Bits = (rng.random((shots, frequency.size)) < frequency).astype(np.uint8)
    return bits


def best(qubo: Qubo, bits: ArrayLike) -> Bits:
    """Return the row of least energy, (n,)."""
    x = np.atleast_2d(np.asarray(bits, np.uint8))
    row: Bits = x[int(qubo.energies(x).argmin())]
    return row


def _tolerance(qubo: Qubo) -> float:
    """Return the change that counts as rounding; without it a descent may cycle."""
    return GAIN * (1.0 + float(np.abs(qubo.linear).sum() + np.abs(qubo.quadratic).sum()))
