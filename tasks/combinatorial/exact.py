"""Exact minimisation by enumeration: every subset is evaluated, so the result is proven optimal.

The variables are split in a low and a high half; energies of all combinations are the sum of two tables and one
matrix product, so 24 dense variables take a tenth of a second and a few tens of MiB.
"""

from __future__ import annotations

from math import comb
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tasks.combinatorial.qubo import Bits, Floats, Qubo

LIMIT = 24
CELLS = 1 << 20


def minimise(qubo: Qubo) -> Bits:
    """Return a minimiser of the energy, (n,).

    Raises:
        ValueError: more than 24 variables.
    """
    return _search(qubo, None)


def minimise_cardinality(qubo: Qubo, k: int) -> Bits:
    """Return a minimiser of the energy among the bit strings with exactly `k` ones, (n,).

    Raises:
        ValueError: more than 2^24 candidates, or `k` is not between 0 and n.
    """
    if not 0 <= k <= qubo.size:
        raise ValueError(f"k ({k}) should lie between 0 and the number of variables ({qubo.size})")
    return _search(qubo, k)


def all_bits(n: int) -> Bits:
    """Return all bit strings of length n, (2^n, n); column i is bit i of the row's number."""
    return ((np.arange(1 << n)[:, None] >> np.arange(n)) & 1).astype(np.uint8)


def subsets(n: int, k: int) -> Bits:
    """Return all bit strings of length n with k ones in ascending order of their number, (n choose k, n)."""
    numbers = np.arange(1 << n)
    ones = np.zeros(len(numbers), np.uint8)
    for i in range(n):
        ones += ((numbers >> i) & 1).astype(np.uint8)
    listed: Bits = ((numbers[ones == k][:, None] >> np.arange(n)) & 1).astype(np.uint8)
    return listed


def _search(qubo: Qubo, k: int | None) -> Bits:
    n = qubo.size
    candidates = 1 << n if k is None else comb(n, k)
    if candidates > 1 << LIMIT or n > 2 * LIMIT - 8:  # the tables of the two halves are enumerated in any case
        raise ValueError(
            f"enumeration takes at most {LIMIT} variables (2^{LIMIT} candidates), not {n} ({candidates} candidates); "
            "anneal, or split the problem"
        )
    half = n // 2
    low, high = all_bits(half).astype(np.float64), all_bits(n - half).astype(np.float64)
    low_energy = _part(low, qubo.linear[:half], qubo.quadratic[:half, :half])
    high_energy = _part(high, qubo.linear[half:], qubo.quadratic[half:, half:])
    cross = low @ qubo.quadratic[:half, half:]
    low_ones, high_ones = low.sum(1).astype(int), high.sum(1).astype(int)
    best: tuple[float, int, int] = (np.inf, 0, 0)
    for ones in range(n - half + 1) if k is not None else (-1,):
        rows = np.arange(len(high)) if k is None else np.flatnonzero(high_ones == ones)
        columns = np.arange(len(low)) if k is None else np.flatnonzero(low_ones == k - ones)
        if not len(rows) or not len(columns):
            continue
        step = max(1, CELLS // len(columns))
        for start in range(0, len(rows), step):
            chunk = rows[start : start + step]
            energies = high[chunk] @ cross[columns].T
            energies += low_energy[columns]
            energies += high_energy[chunk][:, None]
            at = int(energies.argmin())
            row, column = divmod(at, len(columns))
            best = min(best, (float(energies[row, column]), int(chunk[row]), int(columns[column])))
    _, at_high, at_low = best
    return np.concatenate([low[at_low], high[at_high]]).astype(np.uint8)


def _part(bits: Floats, linear: Floats, quadratic: Floats) -> Floats:
    energies: Floats = bits @ linear + 0.5 * np.einsum("ij,ij->i", bits @ quadratic, bits)
    return energies
