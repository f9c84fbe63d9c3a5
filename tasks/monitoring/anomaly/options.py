"""Options of the decision `anomaly`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Settings of the decision.

    Attributes:
        shots: samples of each circuit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shots: int = Field(128, ge=1)
