"""The problem of `low_rank`: a weight matrix, inputs that it reads, a rank, and the error of an approximation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Matrix:
    """A weight matrix that is to be approximated within a number of stored values.

    Attributes:
        weight: (out, in).
        inputs: (n, in) inputs that the arms may read.
        held_out: (m, in) inputs on which the error is measured.
        rank: of the whole matrix; in blocks of b by b the rank is that of the same number of stored values.
        block: size of the blocks of the arms that work on blocks; divides both sides of the matrix.
        layers: layers of a variational circuit.
        steps: training steps of the variational circuits.
        shots: samples of each circuit.

    Raises:
        ValueError: the shapes do not match, or the blocks do not divide the matrix.
    """

    weight: FloatArray
    inputs: FloatArray
    held_out: FloatArray
    rank: int
    block: int = 8
    layers: int = 6
    steps: int = 60
    shots: int = 1024

    def __post_init__(self) -> None:
        rows, columns = self.weight.shape
        if self.inputs.shape[1] != columns or self.held_out.shape[1] != columns:
            raise ValueError(f"inputs {self.inputs.shape} and {self.held_out.shape} should have {columns} columns")
        if rows % self.block or columns % self.block:
            raise ValueError(f"blocks of {self.block} do not divide a matrix of {rows} x {columns}")
        if not 1 <= self.rank <= min(rows, columns):
            raise ValueError(f"rank {self.rank} should be 1 to {min(rows, columns)}")

    @property
    def block_rank(self) -> int:
        """Rank in each block with at most as many stored values as the factors of the whole matrix have."""
        rows, columns = self.weight.shape
        stored = self.rank * (rows + columns)
        return int(max(1, stored // (2 * self.block * (rows // self.block) * (columns // self.block))))


@dataclass(frozen=True, eq=False)
class Approximation:
    """An approximation of the matrix.

    Attributes:
        weight: (out, in).
        stored: values that its factors store.
    """

    weight: FloatArray
    stored: int


def quality(problem: Matrix, solution: Approximation) -> tuple[float, ...]:
    """Return minus the relative error of the outputs on held-out inputs."""
    wanted = problem.held_out @ problem.weight.T
    return (-float(np.linalg.norm(wanted - problem.held_out @ solution.weight.T) / np.linalg.norm(wanted)),)


def best_error(weight: FloatArray, rank: int) -> float:
    """Return the least Frobenius error of a matrix of that rank (Eckart and Young 1936)."""
    return float(np.sqrt(np.square(np.linalg.svd(weight, compute_uv=False)[rank:]).sum()))
