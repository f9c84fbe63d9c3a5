"""The hyperparameters of the two delay models, laid on the grid that the arms of the architecture stage search.

Both grids have the shape of `tasks.architecture.hyperparameters.space`: six ordered dimensions with 4, 4, 2, 2, 2 and 2
levels, 256 settings. So the same arms search them, and a stored table of real fits answers all of them.
"""

from __future__ import annotations

from collections.abc import Mapping

from tasks.architecture.hyperparameters.space import Dimension, levels

GRIDS: Mapping[str, tuple[Dimension, ...]] = {
    "boosting": (
        Dimension("learning_rate", (0.02, 0.06, 0.2, 0.6)),
        Dimension("leaves", (4, 8, 16, 48)),
        Dimension("trees", (40, 120)),
        Dimension("samples_a_leaf", (10, 100)),
        Dimension("columns", (0.3, 1.0)),
        Dimension("l2", (0.0, 10.0)),
    ),
    "network": (
        Dimension("learning_rate", (0.0003, 0.001, 0.004, 0.016)),
        Dimension("width", (8, 16, 32, 64)),
        Dimension("depth", (1, 2)),
        Dimension("batch", (128, 512)),
        Dimension("dropout", (0.0, 0.3)),
        Dimension("weight_decay", (0.0, 0.1)),
    ),
}


def values(model: str, setting: int) -> dict[str, float]:
    """Return the hyperparameters of a setting of a model by name."""
    rows = levels()[setting].tolist()
    return {d.name: d.levels[level] for d, level in zip(GRIDS[model], rows, strict=True)}
