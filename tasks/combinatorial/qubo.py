"""Quadratic unconstrained binary optimisation: the problem form shared by exact, annealing and quantum solvers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Bits = NDArray[np.uint8]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Qubo:
    """`E(x) = offset + linear . x + 1/2 x^T quadratic x` over x in {0, 1}^n, to be minimised.

    Attributes:
        linear: (n,), float64.
        quadratic: (n, n), float64, symmetric with a zero diagonal; an entry is the full coefficient of `x_i x_j`.
        offset: energy of the empty set.

    Raises:
        ValueError: the shapes disagree, a coefficient is not finite, or the matrix is not symmetric or has a diagonal.
    """

    linear: Floats
    quadratic: Floats
    offset: float = 0.0

    def __post_init__(self) -> None:
        linear = np.array(self.linear, np.float64)
        quadratic = np.array(self.quadratic, np.float64)
        n = linear.size
        if linear.shape != (n,) or quadratic.shape != (n, n):
            raise ValueError(f"linear {linear.shape} and quadratic {quadratic.shape} should be (n,) and (n, n)")
        if not (np.isfinite(linear).all() and np.isfinite(quadratic).all() and np.isfinite(self.offset)):
            raise ValueError("every coefficient should be finite")
        if np.diagonal(quadratic).any() or not np.array_equal(quadratic, quadratic.T):
            raise ValueError("quadratic should be symmetric with a zero diagonal; put x_i^2 = x_i into linear")
        linear.setflags(write=False)
        quadratic.setflags(write=False)
        object.__setattr__(self, "linear", linear)
        object.__setattr__(self, "quadratic", quadratic)

    @property
    def size(self) -> int:
        """Number of variables."""
        return int(self.linear.size)

    def energies(self, bits: ArrayLike) -> Floats:
        """Return the energy of each row of `bits` (m, n)."""
        x = np.atleast_2d(np.asarray(bits, np.float64))
        energies: Floats = self.offset + x @ self.linear + 0.5 * np.einsum("ij,ij->i", x @ self.quadratic, x)
        return energies

    def fields(self, bits: ArrayLike) -> Floats:
        """Return the energy that switching each variable from 0 to 1 adds: `linear + quadratic x`, (m, n)."""
        fields: Floats = self.linear + np.atleast_2d(np.asarray(bits, np.float64)) @ self.quadratic
        return fields

    def ising(self) -> tuple[Floats, Floats, float]:
        """Return `(h, J, offset)` with `E = offset + h . z + 1/2 z^T J z` for `x = (1 - z) / 2`."""
        degree = self.quadratic.sum(axis=1)
        h = -self.linear / 2 - degree / 4
        offset = self.offset + self.linear.sum() / 2 + self.quadratic.sum() / 8
        return h, self.quadratic / 4, float(offset)
