"""From which size one way is cheaper: closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.outlook.crossing import crossing, grid

SIZES = grid(1.0, 1e6)


def draws(values, n=3):
    return np.tile(np.asarray(values, dtype=float)[:, None], (1, n))


def test_two_known_lines_cross_at_the_known_size():
    # 1000 n = n^2 at n = 1000
    found = crossing(SIZES, draws(1000 * SIZES), draws(SIZES**2), draws(0 * SIZES))
    assert found.answer == "from"
    assert found.size == pytest.approx(np.full(3, 1000.0), rel=1e-9)
    assert found.band == pytest.approx((1000.0, 1000.0, 1000.0))
    assert np.isinf(found.until).all()


def test_each_draw_has_its_own_crossing():
    factor = np.array([10.0, 100.0, 1e9])
    found = crossing(SIZES, factor * SIZES[:, None], draws(SIZES**2), draws(0 * SIZES))
    assert found.size[:2] == pytest.approx([10, 100])
    assert np.isinf(found.size[2])
    assert found.reached == pytest.approx(2 / 3)
    assert not found.never.any()  # nothing forbids it beyond the sizes looked at


def test_a_device_of_no_watts_with_a_dearer_classical_part_never_breaks_even():
    own, rival = draws(3 * SIZES), draws(2 * SIZES)
    found = crossing(SIZES, own + 0.0, rival, own)
    assert found.answer == "none"
    assert found.impossible == 1.0


def test_a_dearer_part_that_grows_slower_is_not_called_impossible():
    own, rival = draws(1e9 * SIZES), draws(SIZES**1.5)
    found = crossing(SIZES, own, rival, own)
    assert found.answer == "not below"
    assert found.impossible == 0.0


def test_what_is_cheaper_for_a_while_is_dearer_again_from_the_known_size():
    # 100 + n^2 is below 1000 n from .1 (before the first size) to 999.9
    found = crossing(SIZES, draws(100 + SIZES**2), draws(1000 * SIZES), draws(0 * SIZES))
    assert found.size == pytest.approx(np.ones(3))
    assert found.end == pytest.approx(999.9, rel=1e-3)
    # n^2 + 1e6 against 2001 n: cheaper between 1000 - 31.7 and 1000 + 32.6, seen where a size lies between
    fine = grid(1.0, 1e6, 2000)
    window = crossing(fine, draws(fine**2 + 1e6), draws(2001 * fine), draws(0 * fine))
    assert window.size == pytest.approx(np.full(3, 968.9), rel=2e-3)
    assert window.end == pytest.approx(1032.1, rel=2e-3)


def test_ways_that_become_equal_by_rounding_end_at_a_size():
    sizes = np.array([1.0, 10.0, 100.0])
    second = np.array([[1.0], [1e40], [1e80]])
    first = np.array([[0.5], [np.nextafter(1e40, 0)], [1e80]])  # cheaper by the last bit, then equal
    found = crossing(sizes, first, second, first)
    assert found.size == pytest.approx([1.0])
    assert found.until == pytest.approx([100.0])
