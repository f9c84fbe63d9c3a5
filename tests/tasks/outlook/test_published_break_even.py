"""The published crossing at 34 qubits, from its shape and from our coefficients."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.outlook.published_break_even import (
    GATES_A_QUBIT,
    crossing_qubits,
    simulation_j,
    simulation_over_device,
)


def test_both_meet_at_the_published_number_of_qubits():
    assert simulation_over_device(34) == 1
    assert simulation_over_device(33) == pytest.approx(0.5 * 34 / 33)
    assert simulation_over_device(44) == pytest.approx(1024 * 34 / 44)


def test_the_crossing_is_where_simulation_becomes_dearer():
    one = np.ones(3)
    device = 2.0**30 * GATES_A_QUBIT * 30 * np.array([0.999, 1.0, 1.001])
    assert crossing_qubits(device, one, one).tolist() == [30, 30, 31]
    assert simulation_j(30, one, one) == pytest.approx(2.0**30 * GATES_A_QUBIT * 30)
    assert np.isinf(crossing_qubits(1e99 * one, one, one)).all()
