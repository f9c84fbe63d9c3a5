"""The generator of the pairwise cases."""

import itertools

import pytest
from covering import pairwise


@pytest.mark.parametrize("sizes", [(2, 2, 2), (5, 4, 3, 2), (9, 7, 2, 2, 2)])
def test_every_pair_of_values_occurs_in_about_as_few_rows_as_the_two_largest_factors_need(sizes):
    factors = [tuple(f"{column}{value}" for value in range(size)) for column, size in enumerate(sizes)]
    rows = pairwise(factors)
    for (i, first), (j, second) in itertools.combinations(enumerate(factors), 2):
        assert {(row[i], row[j]) for row in rows} == set(itertools.product(first, second))
    fewest = sorted(sizes)[-1] * sorted(sizes)[-2]
    assert fewest <= len(rows) <= 1.5 * fewest
    assert rows == pairwise(factors), "the same for the same seed"
