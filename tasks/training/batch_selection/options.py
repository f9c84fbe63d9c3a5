"""Options of the decision `batch_selection`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Settings of the decision.

    Attributes:
        pool: maximum number of training windows to select from; a training that reads more, or 0, selects nothing.
        share: share of the windows that a selection keeps.
        block: windows of a block, which is one problem with as many variables.
        shots: samples of each circuit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pool: int = Field(1024, ge=0)
    share: float = Field(0.5, gt=0, lt=1)
    block: int = Field(10, ge=4, le=20)
    shots: int = Field(64, ge=1)
