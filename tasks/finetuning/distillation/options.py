"""Options of the decision `distillation`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Settings of the decision.

    Attributes:
        tokens: tokens that a student without a teacher trains on; arms with a teacher get as much arithmetic in all.
            0 = the decision is left out.
        readings: times that a student without a teacher reads its text with these tokens.
        batch: windows of a step.
        draws: tokens drawn from the teacher for each position.
        shots: samples of each circuit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: int = Field(0, ge=0)
    readings: int = Field(5, ge=1)
    batch: int = Field(8, ge=1)
    draws: int = Field(12, ge=1)
    shots: int = Field(256, ge=1)
