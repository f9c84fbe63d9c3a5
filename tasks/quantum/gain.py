"""Whether a quantum kernel can gain anything over a classical one on given data, before a circuit is run.

The geometric difference g (Huang et al., Nature Communications 12, 2631 (2021), arXiv 2011.01938, eq. 5): with m data,
a machine on the classical kernel needs at most g^2 times the model complexity of one on the quantum kernel, whatever
the labels are. At g about 1 the classical kernel does as well for every task; a quantum kernel can only win where g is
of the order of sqrt m.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
REGULARISATION = 0.1  # of the classical kernel, against its mean eigenvalue of 1


def geometric_difference(quantum: FloatArray, classical: FloatArray, regularisation: float = REGULARISATION) -> float:
    """Return g of a quantum Gram matrix (m, m) against a classical one, both scaled to trace m.

    `sqrt || Q^(1/2) C^(1/2) (C + r I)^(-2) C^(1/2) Q^(1/2) ||`: without r, directions that the classical kernel hardly
    has would count as if noise-free data were there to learn them.

    Args:
        quantum: Gram matrix of the quantum kernel.
        classical: Gram matrix of the classical kernel on the same data.
        regularisation: r.

    Raises:
        ValueError: the matrices differ in shape, or one has no trace.
    """
    if quantum.shape != classical.shape or quantum.ndim != 2 or quantum.shape[0] != quantum.shape[1]:
        raise ValueError(f"two square matrices of one size expected, got {quantum.shape} and {classical.shape}")
    values, vectors = np.linalg.eigh(_scaled(classical))
    values = np.maximum(values, 0.0)
    inverse = (vectors * (np.sqrt(values) / (values + regularisation))) @ vectors.T
    return float(np.sqrt(np.linalg.norm(inverse @ _scaled(quantum) @ inverse, 2)))


def _scaled(gram: FloatArray) -> FloatArray:
    trace = float(np.trace(gram))
    if trace <= 0:
        raise ValueError("a Gram matrix without trace has no scale")
    return np.asarray(gram * (len(gram) / trace))
