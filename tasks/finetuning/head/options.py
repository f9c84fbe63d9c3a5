"""Options of the decision `head`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Settings of the decision.

    Attributes:
        per_class: labelled passages of each domain; 0 = the decision is left out.
        tested: passages of each domain on which the heads are compared.
        words: words of a passage; short passages make the task harder.
        components: principal components that the circuit head and its opponents read, one qubit each.
        layers: input blocks of the circuit.
        steps: training steps of the circuit head for each input scale.
        shots: samples of each circuit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    per_class: int = Field(20, ge=0)
    tested: int = Field(50, ge=1)
    words: int = Field(8, ge=1)
    components: int = Field(8, ge=2, le=12)
    layers: int = Field(2, ge=1)
    steps: int = Field(60, ge=1)
    shots: int = Field(256, ge=1)
