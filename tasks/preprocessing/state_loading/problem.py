"""The problem of `state_loading`: vectors to be loaded, and the fidelity of a stored form."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.quantum.encodings import (
    qubits_for,
)
from tasks.quantum.qram import LARGEST
from tasks.quantum.staircase import staircase_angles


@dataclass(frozen=True, eq=False)
class Loading:
    """Document vectors that are to be loaded.

    Attributes:
        vectors: (n, d) embeddings; scaled to unit length here.
        background: (b, d) embeddings of other documents, from which axes and codebooks are learnt.
        size: bytes for each vector.
        cells: number of cells of the bucket-brigade memory.
        passes: optimization passes over the angles of the staircase.
        start: seed of the random numbers that all arms share.
        shots: samples of each circuit.
        names: ids of the documents, if they have any; not part of the problem's identity.

    Raises:
        ValueError: vectors and background differ in length, there are fewer bytes than angles for the qubits, or no
            memory has this number of cells.
    """

    vectors: NDArray[np.floating[Any]]
    background: NDArray[np.floating[Any]]
    size: int = 64
    cells: int = 8
    passes: int = 100
    start: int = 0
    shots: int = 1024
    names: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or not len(self.vectors) or self.vectors.shape[1] < 4:
            raise ValueError(f"vectors of at least 4 numbers expected, got {self.vectors.shape}")
        if self.background.shape[1:] != self.vectors.shape[1:] or len(self.background) < 2:
            raise ValueError(
                f"at least 2 other vectors of length {self.vectors.shape[1]} expected, got {self.background.shape}"
            )
        least = staircase_angles(self.qubits, 1)
        if not least <= self.size <= self.vectors.shape[1]:
            raise ValueError(f"between {least} and {self.vectors.shape[1]} bytes are possible, not {self.size}")
        if self.cells not in (2, 4, 8, LARGEST) or self.cells > self.size:
            raise ValueError(f"a memory has 2, 4, 8 or {LARGEST} cells and at most {self.size}, not {self.cells}")

    @property
    def qubits(self) -> int:
        """Qubits that the whole vector needs."""
        return qubits_for(self.vectors.shape[1])

    @property
    def layers(self) -> int:
        """Layers of the staircase whose angles fit into the bytes."""
        return (self.size - self.qubits) // (2 * (self.qubits - 1))


@dataclass(frozen=True)
class Loaded:
    """The vectors in a stored form.

    Attributes:
        vectors: (n, d) unit vectors that the form represents, in the coordinates of the problem.
        fidelities: fidelity of each vector, computed or, for circuits, measured.
        size: bytes for each vector.
        two_qubit_gates: two-qubit gates of one preparation, before routing; 0 without a circuit.
        depth: two-qubit depth of one preparation.
        preparations: mean number of executions until one vector is loaded.
    """

    vectors: NDArray[np.float32]
    fidelities: tuple[float, ...]
    size: int
    two_qubit_gates: int = 0
    depth: int = 0
    preparations: float = 1.0


def quality(problem: Loading, solution: Loaded) -> tuple[float, ...]:
    """Return the mean fidelity of the vectors: they share axes and codebooks and are one instance."""
    if len(solution.fidelities) != len(problem.vectors):
        raise ValueError(f"{len(solution.fidelities)} fidelities should be as many as {len(problem.vectors)} vectors")
    return (float(np.mean(solution.fidelities)),)
