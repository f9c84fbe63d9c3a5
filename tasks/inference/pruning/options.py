"""Options of the decision `pruning`; the defaults are the demo profile."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Settings of the decision.

    Attributes:
        parts: what can be removed: `heads` (and feed-forward channels, of a Llama-style decoder) or whole
            `blocks`.
        units: removable parts at most; of more blocks the least harmful ones are chosen.
        share: share of them that goes.
        allowance: bits per byte that the removal may cost before leaving the model alone is better.
        calibration_tokens: text that the methods see; under 16,000 noise is as large as the differences.
        selection_windows: text that they are judged on.
        surrogate_tokens: text on which the pairwise expansion is compared with the true loss, 0 = not compared.
        surrogate_masks: random subsets of that comparison.
        prove: whether the loss without every possible subset is evaluated, so that arms are held against the
            optimum.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    parts: Literal["heads", "blocks"] = "heads"
    units: int = Field(14, ge=2, le=64)
    share: float = Field(1 / 3, gt=0, lt=1)
    allowance: float = Field(0.1, ge=0)
    calibration_tokens: int = Field(16_384, ge=1)
    selection_windows: int = Field(64, ge=1)
    surrogate_tokens: int = Field(2_048, ge=0)
    surrogate_masks: int = Field(40, ge=3)
    prove: bool = False
