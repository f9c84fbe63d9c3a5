"""Options of the decision `hybrid_layer`; by default it is not posed in a run."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Settings of the decision.

    Attributes:
        tokens: training tokens of each small model, 0 = the decision is not posed. The model of a run keeps its
            ordinary layers in any case: the transformers format has no circuit layer, so a comparison in a run adds
            evidence on its text and changes nothing else.
        place: layer in question, the feed-forward part or the output projection of the attention of the last block.
        width: numbers between the two linear maps, qubits of the circuit.
        layers: input blocks of the circuit, an even number.
        shots: samples of each circuit in inference.
        windows: test windows that are predicted.
        cpu_s: CPU seconds that each arm may use.
        domain: domain of the text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: int = Field(0, ge=0)
    place: Literal["feed-forward", "attention"] = "feed-forward"
    width: int = Field(6, ge=1, le=12)
    layers: int = Field(2, ge=2, le=16, multiple_of=2)
    shots: int = Field(256, ge=1)
    windows: int = Field(24, ge=1)
    cpu_s: float = Field(120.0, gt=0)
    domain: str = "base"
