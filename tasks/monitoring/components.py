"""Principal components of normal texts as features of circuits, one a qubit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
CLIP = 3.0  # standard deviations


def standard_components(normal: NDArray[np.floating[Any]], texts: NDArray[np.floating[Any]], count: int) -> FloatArray:
    """Return texts (m, count) on the leading principal axes of normal ones, at their unit variance, clipped.

    Fewer than `count` where the normal texts have no more directions.
    """
    calm = np.asarray(normal, np.float64)
    centre = calm.mean(axis=0)
    _, singular, axes = np.linalg.svd(calm - centre, full_matrices=False)
    n = min(count, int((singular > 0).sum()))
    spread = singular[:n] / np.sqrt(len(calm))
    return np.asarray(np.clip((texts - centre) @ axes[:n].T / spread, -CLIP, CLIP))
