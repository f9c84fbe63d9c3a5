"""Options of the decision `adapter`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Settings of the decision.

    Attributes:
        steps: training steps of each adapter and learning rate; 0 = the decision is left out.
        batch: windows of a step.
        rates: learning rates that every adapter tries (AdamW); the validation text chooses.
        block: size of the blocks of the Cayley adapter; a power of two that divides the width.
        shots: samples of each circuit.
        positions: text positions on which the adapters are executed and compared.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(10, ge=0)
    batch: int = Field(8, ge=1)
    rates: tuple[float, ...] = (0.003, 0.01, 0.03)
    block: int = Field(4, ge=2, le=64)
    shots: int = Field(256, ge=1)
    positions: int = Field(256, ge=1)
