"""Options of the decision `representatives`; the defaults are the demo profile."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Settings of the decision.

    Attributes:
        posed: components that are put before the arms of `representatives` at most; the others are decided by
            greedy.
        largest_posed: documents of the largest component that is put before the arms.
        qubit_limit: largest block of a component that a sampler gets.
        shots: samples of each circuit.
        layers: of the circuit for `representatives`.
        reads: of an annealer for each component.
        sweeps: of an annealer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    posed: int = Field(128, ge=0)
    largest_posed: int = Field(120, ge=3)
    qubit_limit: int = Field(12, ge=2, le=28)
    shots: int = Field(256, ge=1)
    layers: int = Field(3, ge=1)
    reads: int = Field(32, ge=1)
    sweeps: int = Field(100, ge=1)
