"""The settings of a fine-tuning run: share of base text, rank of LoRA, learning rate; four levels each, 64 settings.

A setting is a number; its levels are the digits to base four, the share of base text first. A policy chooses the levels
one after another, so it meets 21 states: nothing chosen, a share chosen (4), share and rank chosen (16).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEVELS = 4
MIXTURES = (0.0, 0.125, 0.25, 0.5)
RANKS = (1, 4, 8, 16)
RATES = (0.001, 0.003, 0.01, 0.03)
SETTINGS = LEVELS**3
STATES = 1 + LEVELS + LEVELS**2
DEFAULT = 0 * 16 + RANKS.index(8) * 4 + RATES.index(0.01)  # what a run does without the decision


def values(setting: int) -> tuple[float, int, float]:
    """Return share of base text, rank and learning rate of a setting.

    Raises:
        ValueError: there is no such setting.
    """
    if not 0 <= setting < SETTINGS:
        raise ValueError(f"there are the settings 0 to {SETTINGS - 1}, not {setting}")
    mixture, rank, rate = levels()[setting].tolist()
    return MIXTURES[mixture], RANKS[rank], RATES[rate]


@cache
def levels() -> NDArray[np.int64]:
    """Return the levels of every setting, (64, 3)."""
    table: NDArray[np.int64] = np.arange(SETTINGS)[:, None] // np.array([16, 4, 1]) % LEVELS
    table.setflags(write=False)
    return table


@cache
def indicators() -> NDArray[np.float64]:
    """Return every setting as a constant and one indicator for each level, (64, 13)."""
    one_hot = (levels()[:, :, None] == np.arange(LEVELS)).reshape(SETTINGS, -1)
    table = np.concatenate([np.ones((SETTINGS, 1)), one_hot], axis=1)
    table.setflags(write=False)
    return table


@cache
def states() -> NDArray[np.float64]:
    """Return every state as four inputs from -1 to 1, (21, 4).

    The inputs are the number of levels chosen, the share of base text and the rank as levels at equal distances (0 =
    not chosen), and the product of these two.
    """
    scale = np.linspace(-1, 1, LEVELS)
    rows = [(-1.0, 0.0, 0.0, 0.0)]
    rows += [(0.0, mixture, 0.0, 0.0) for mixture in scale]
    rows += [(1.0, mixture, rank, mixture * rank) for mixture in scale for rank in scale]
    table = np.array(rows)
    table.setflags(write=False)
    return table
