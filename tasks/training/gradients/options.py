"""Options of the decision `gradients`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Settings of the decision.

    Attributes:
        texts: texts of each domain that the circuit learns to tell apart, 0 = the decision is left out.
        qubits: number of qubits, and of features of a text.
        layers: input blocks of the circuit.
        executions: circuits times shots that each method may use.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    texts: int = Field(24, ge=0)
    qubits: int = Field(4, ge=2, le=10)
    layers: int = Field(2, ge=1, le=8)
    executions: int = Field(20_000, ge=1)
