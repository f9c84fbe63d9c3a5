"""Options of the decision `state_loading`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Settings of the decision.

    Attributes:
        vectors: number of documents whose vectors are loaded; 0 = skip the decision.
        background: maximum number of further documents from which axes and codebooks are learnt.
        size: memory for each vector in bytes.
        cells: number of cells of the bucket-brigade memory: 2, 4, 8 or 16.
        passes: optimization passes over the angles of approximate circuits.
        shots: samples of each circuit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    vectors: int = Field(16, ge=0)
    background: int = Field(1024, ge=2)
    size: int = Field(64, ge=22, le=256)
    cells: Literal[2, 4, 8, 16] = 8
    passes: int = Field(100, ge=1)
    shots: int = Field(1024, ge=1)
