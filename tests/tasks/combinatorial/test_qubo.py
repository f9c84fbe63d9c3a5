from __future__ import annotations

from itertools import product

import dimod
import numpy as np
import pytest

from tasks.combinatorial.qubo import Qubo


def _random(n: int, seed: int) -> Qubo:
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.normal(size=(n, n)), 1)
    return Qubo(rng.normal(size=n), upper + upper.T, 1.5)


def test_energies_agree_with_dimod() -> None:
    qubo = _random(6, 0)
    model = dimod.BinaryQuadraticModel(qubo.linear, qubo.quadratic / 2, qubo.offset, "BINARY")
    bits = np.array(list(product([0, 1], repeat=6)))
    expected = model.energies((bits, range(6)))
    np.testing.assert_allclose(qubo.energies(bits), expected, atol=1e-12)


def test_the_ising_form_has_the_same_energies() -> None:
    qubo = _random(6, 1)
    h, J, offset = qubo.ising()
    bits = np.array(list(product([0, 1], repeat=6)))
    z = 1 - 2 * bits
    energies = offset + z @ h + 0.5 * np.einsum("ij,jk,ik->i", z, J, z)
    np.testing.assert_allclose(energies, qubo.energies(bits), atol=1e-12)


def test_a_field_is_what_switching_a_bit_on_adds() -> None:
    qubo = _random(5, 2)
    bits = np.array(list(product([0, 1], repeat=5)), np.uint8)
    on, off = bits.copy(), bits.copy()
    on[:, 3], off[:, 3] = 1, 0
    np.testing.assert_allclose(qubo.fields(bits)[:, 3], qubo.energies(on) - qubo.energies(off), atol=1e-12)


@pytest.mark.parametrize(
    ("linear", "quadratic", "message"),
    [
        (np.zeros(2), np.zeros((3, 3)), "should be"),
        (np.zeros(2), np.array([[0.0, 1.0], [2.0, 0.0]]), "symmetric"),
        (np.zeros(2), np.eye(2), "zero diagonal"),
        (np.array([np.nan, 0.0]), np.zeros((2, 2)), "finite"),
    ],
)
def test_malformed_problems_are_refused(linear: np.ndarray, quadratic: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Qubo(linear, quadratic)


def test_coefficients_cannot_be_changed_from_outside() -> None:
    linear = np.zeros(2)
    qubo = Qubo(linear, np.zeros((2, 2)))
    linear[0] = 1.0
    assert qubo.linear[0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        qubo.linear[0] = 1.0
