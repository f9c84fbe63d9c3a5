"""Principal components of normal texts as features of circuits, one a qubit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
CLIP = 3.0  # standard deviations


def standard_components(
    normal: NDArray[np.floating[Any]], texts: NDArray[np.floating[Any]], count: int, *, residual: bool = False
) -> FloatArray:
    """Return texts (m, count) on the leading principal axes of normal ones, at their unit variance, clipped.

    Fewer than `count` where the normal texts have no more directions; where they are all equal, the axis on which the
    others differ most, as it is. With `residual` the last feature is the length of what lies outside the axes,
    standardised likewise.
    """
    calm = np.asarray(normal, np.float64)
    centre = calm.mean(axis=0)
    _, singular, axes = np.linalg.svd(calm - centre, full_matrices=False)
    n = min(count - residual, int((singular > 0).sum()))
    if not n and not residual:
        axes = np.linalg.svd(texts - centre, full_matrices=False)[2]
        return np.asarray(np.clip((texts - centre) @ axes[:1].T, -CLIP, CLIP))
    spread = singular[:n] / np.sqrt(len(calm))
    found = (texts - centre) @ axes[:n].T
    features = [found / spread]
    if residual:
        within = _outside(calm - centre, axes[:n])
        features.append((_outside(texts - centre, axes[:n]) - within.mean()) / (within.std() or 1.0))
    return np.asarray(np.clip(np.hstack(features), -CLIP, CLIP))


def _outside(rows: NDArray[np.floating[Any]], axes: FloatArray) -> FloatArray:
    """Return the length (m, 1) of the part of each row that lies outside the axes."""
    return np.asarray(np.linalg.norm(rows - rows @ axes.T @ axes, axis=1, keepdims=True))
