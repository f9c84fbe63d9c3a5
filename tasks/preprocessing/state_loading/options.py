"""Options of the decision `state_loading`; the defaults are the demo profile."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Settings of the decision.

    Attributes:
        vectors: documents whose vectors are put before `state_loading`; 0 = leave it out.
        background: further documents from which its axes and codebooks are learnt, at most.
        size: bytes for a vector.
        cells: of the bucket-brigade memory: 2, 4, 8 or 16.
        passes: in which the angles of approximate circuits are compiled.
        shots: of each circuit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    vectors: int = Field(16, ge=0)
    background: int = Field(1024, ge=2)
    size: int = Field(64, ge=22, le=256)
    cells: Literal[2, 4, 8, 16] = 8
    passes: int = Field(100, ge=1)
    shots: int = Field(1024, ge=1)
