"""Covering arrays: few cases in which every pair of values of every two factors occurs."""

import itertools
import random


def pairwise(factors, seed=0):
    """Return rows, one value for each factor, that together hold every pair; greedy, the same for the same seed.

    Args:
        factors: the values of each factor.
        seed: of the order in which equals are tried.
    """
    rng = random.Random(seed)
    columns = range(len(factors))
    missing = {(i, a, j, b) for i, j in itertools.combinations(columns, 2) for a in factors[i] for b in factors[j]}
    rows = []
    while missing:
        i, a, j, b = min(missing, key=lambda pair: (pair[0], pair[2], str(pair[1]), str(pair[3])))
        row = {i: a, j: b}
        for column in rng.sample([c for c in columns if c not in row], len(factors) - 2):
            values = rng.sample(factors[column], len(factors[column]))
            row[column] = max(values, key=lambda value: _gain(row | {column: value}, column, missing))
        rows.append(tuple(row[column] for column in columns))
        missing -= _pairs(row)
    return rows


def _pairs(row):
    return {(i, row[i], j, row[j]) for i, j in itertools.combinations(sorted(row), 2)}


def _gain(row, column, missing):
    return sum((min(c, column), row[min(c, column)], max(c, column), row[max(c, column)]) in missing for c in row)
