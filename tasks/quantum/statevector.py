"""The probabilities that QAOA circuits sample, from the energies of all bit strings; numpy, no circuit.

A diagonal of length 2^n (or of all k-subsets) already contains the solution of its problem, so this is no solver: it is
the cheapest exact sampler of the circuits of `tasks.quantum.qaoa`, and defines the cost charged for simulating them.
Precomputed-diagonal simulation: Lykov et al., SC-W 2023, arXiv 2309.04841.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from tasks.quantum.qaoa import round_robin, scale, sector_scale

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

    from tasks.combinatorial.qubo import Bits, Floats, Qubo


def qaoa_probabilities(qubo: Qubo, gammas: Floats, betas: Floats) -> Floats:
    """Return the probability of each bit string of `qaoa_circuit`, (2^n,); bit i of the index is variable i."""
    n = qubo.size
    bits = ((np.arange(2**n)[:, None] >> np.arange(n)) & 1).astype(np.uint8)
    energies = qubo.energies(bits)
    factor = _factor(n, scale(qubo))
    state = np.full(2**n, 2 ** (-n / 2), np.complex128)
    for gamma, beta in zip(gammas, betas, strict=True):
        state *= np.exp(-1j * gamma * factor * energies)
        for qubit in range(n):
            pairs = state.reshape(-1, 2, 2**qubit)
            zero, one = pairs[:, 0].copy(), pairs[:, 1].copy()
            pairs[:, 0] = np.cos(beta) * zero + 1j * np.sin(beta) * one
            pairs[:, 1] = np.cos(beta) * one + 1j * np.sin(beta) * zero
    return _normalised(state)


def dicke_qaoa_probabilities(qubo: Qubo, k: int, gammas: Floats, betas: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Return all k-subsets as numbers, bit i for variable i, and the probability of each in `dicke_qaoa_circuit`."""
    n = qubo.size
    subsets = np.array(sorted(sum(1 << i for i in chosen) for chosen in combinations(range(n), k)), np.int64)
    energies = qubo.energies((subsets[:, None] >> np.arange(n)) & 1)
    factor = _factor(n, sector_scale(qubo, k))
    swaps = []
    for i, j in round_robin(n):
        here = np.flatnonzero((subsets >> i & 1) > (subsets >> j & 1))
        swaps.append((here, np.searchsorted(subsets, subsets[here] ^ (1 << i | 1 << j))))
    state = np.full(len(subsets), len(subsets) ** -0.5, np.complex128)
    for gamma, beta in zip(gammas, betas, strict=True):
        state *= np.exp(-1j * gamma * factor * energies)
        # exp(i beta / n (XX + YY)) turns |01> and |10> into each other by the angle 2 beta / n.
        turn, keep = 1j * np.sin(2 * beta / n), np.cos(2 * beta / n)
        for here, there in swaps:
            first, second = state[here], state[there]
            state[here], state[there] = keep * first + turn * second, keep * second + turn * first
    return subsets, _normalised(state)


def draw(probabilities: Floats, n: int, shots: int, rng: Generator, subsets: NDArray[np.int64] | None = None) -> Bits:
    """Draw bit strings, (shots, n); `subsets` are the strings that the probabilities refer to, by default all 2^n."""
    index = rng.choice(len(probabilities), shots, p=probabilities)
    strings = index if subsets is None else subsets[index]
    return ((strings[:, None] >> np.arange(n)) & 1).astype(np.uint8)


def _factor(n: int, deviation: float) -> float:
    return float(np.sqrt(n) / (2 * deviation)) if deviation > 0 else 0.0


def _normalised(state: NDArray[np.complex128]) -> Floats:
    probabilities: Floats = np.abs(state) ** 2
    return np.asarray(probabilities / probabilities.sum())
