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


def energies_of_all(qubo: Qubo) -> Floats:
    """Return the energy of every bit string, (2^n,); bit i of the index is variable i."""
    found = np.full(1, qubo.offset)
    fields = [np.zeros(1) for _ in range(qubo.size)]
    for i in range(qubo.size):
        found = np.concatenate([found, found + qubo.linear[i] + fields[i]])
        for j in range(i + 1, qubo.size):
            fields[j] = np.concatenate([fields[j], fields[j] + qubo.quadratic[i, j]])
    return found


def qaoa_probabilities(
    qubo: Qubo, gammas: Floats, betas: Floats, start: Floats | None = None, energies: Floats | None = None
) -> Floats:
    """Return the probability of each bit string of `qaoa_circuit`, (2^n,); bit i of the index is variable i.

    Args:
        qubo: the problem.
        gammas: angles of the phases.
        betas: angles of the mixer.
        start: probability of a one of each variable in the start state, None for the uniform one.
        energies: what `energies_of_all` returns, if it is known already.
    """
    n = qubo.size
    ones = np.full(n, 0.5) if start is None else np.asarray(start, np.float64)
    diagonal = energies_of_all(qubo) if energies is None else energies
    factor = _factor(n, scale(qubo))
    state = np.ones(1, np.complex128)
    for share in ones:
        state = np.concatenate([np.sqrt(1 - share) * state, np.sqrt(share) * state])
    for gamma, beta in zip(gammas, betas, strict=True):
        state *= np.exp(-1j * gamma * factor * diagonal)
        for qubit, share in enumerate(ones):
            # exp(i beta (s X + z Z)), the mixer whose ground state has a one with probability `share`.
            across = 2j * np.sin(beta) * np.sqrt(share * (1 - share))
            along = 1j * np.sin(beta) * (1 - 2 * share)
            pairs = state.reshape(-1, 2, 2**qubit)
            zero, one = pairs[:, 0].copy(), pairs[:, 1].copy()
            pairs[:, 0] = (np.cos(beta) + along) * zero + across * one
            pairs[:, 1] = (np.cos(beta) - along) * one + across * zero
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
