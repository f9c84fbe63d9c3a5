"""Options of the decision `low_rank`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Settings of the decision.

    Attributes:
        share: rank as a share of the full one; 0 = the decision is left out.
        block: size of the blocks of the variational arms, a power of two.
        layers: layers of the variational circuits.
        steps: training steps of the variational circuits.
        shots: samples of each circuit.
        positions: text positions whose inputs are read, half to weight the error and half to measure it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: float = Field(0.25, ge=0, lt=1)
    block: int = Field(8, ge=2, le=32)
    layers: int = Field(6, ge=1)
    steps: int = Field(60, ge=1)
    shots: int = Field(1024, ge=1)
    positions: int = Field(512, ge=16)
