"""Options of the decision `representatives`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Settings of the decision.

    Attributes:
        posed: maximum number of components that the arms solve; the greedy arm solves the others.
        largest_posed: maximum number of documents of a component that the arms solve.
        qubit_limit: maximum number of variables of a block that a quantum sampler solves.
        shots: samples of each circuit.
        layers: number of layers of the circuit.
        reads: annealing runs for each component.
        sweeps: sweeps of each annealing run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    posed: int = Field(128, ge=0)
    largest_posed: int = Field(120, ge=3)
    qubit_limit: int = Field(12, ge=2, le=28)
    shots: int = Field(256, ge=1)
    layers: int = Field(3, ge=1)
    reads: int = Field(32, ge=1)
    sweeps: int = Field(100, ge=1)
