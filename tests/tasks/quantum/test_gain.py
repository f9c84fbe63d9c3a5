"""The geometric difference against cases that are known in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.quantum.gain import geometric_difference

POINTS = np.random.default_rng(0).normal(size=(30, 4))
SQUARED = np.square(POINTS[:, None] - POINTS).sum(axis=-1)
GAUSSIAN = np.exp(-SQUARED / 8)


def test_a_kernel_gains_nothing_over_itself() -> None:
    assert geometric_difference(GAUSSIAN, GAUSSIAN, 1e-9) == pytest.approx(1.0, abs=1e-3)
    assert geometric_difference(3 * GAUSSIAN, 5 * GAUSSIAN, 1e-9) == pytest.approx(1.0, abs=1e-3)
    assert geometric_difference(GAUSSIAN, GAUSSIAN) < 1.0  # the regularisation only lowers it


def test_against_the_identity_it_is_the_root_of_the_largest_eigenvalue() -> None:
    largest = np.linalg.eigvalsh(GAUSSIAN)[-1]
    assert geometric_difference(GAUSSIAN, np.eye(30), 0.0) == pytest.approx(np.sqrt(largest))


def test_the_rank_one_kernel_of_a_direction_the_classical_one_lacks_reaches_the_bound_of_the_regularisation() -> None:
    """Q = m v v', C has eigenvalue c on v: sqrt(m c) / (c + r), with C scaled to trace m."""
    rest, last = np.linalg.qr(np.random.default_rng(1).normal(size=(30, 30)))[0][:, :29], None
    last = np.linalg.svd(rest, full_matrices=True)[0][:, -1]
    c, r = 0.01, 0.1
    classical = c * np.outer(last, last) + (30 - c) / 29 * rest @ rest.T
    found = geometric_difference(30 * np.outer(last, last), classical, r)
    assert found == pytest.approx(np.sqrt(30 * c) / (c + r))


def test_matrices_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="two square matrices of one size"):
        geometric_difference(np.eye(3), np.eye(4))
    with pytest.raises(ValueError, match="without trace"):
        geometric_difference(np.zeros((3, 3)), np.eye(3))
