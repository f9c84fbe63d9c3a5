"""Options of the decision `pruning`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Settings of the decision.

    Attributes:
        parts: kind of the parts that can be removed: `heads` (with feed-forward channels of a Llama-style decoder)
            or whole `blocks`.
        units: maximum number of candidate parts; if there are more blocks, the least harmful ones are candidates.
        share: share of the candidate parts that is removed.
        allowance: maximum increase of the loss in bits per byte; above it the unpruned model is better.
        calibration_tokens: tokens of text that the arms see; below 16,000 the noise is as large as the differences.
        selection_windows: held-out windows on which the results of the arms are scored.
        surrogate_tokens: tokens on which the pairwise expansion is compared with the true loss, 0 = not compared.
        surrogate_masks: number of random subsets in the comparison of the pairwise expansion with the true loss.
        prove: whether the loss of every possible subset is evaluated, so that arms are compared with the optimum.
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
