"""Options of the decision `largest`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Settings of the decision.

    Attributes:
        documents: documents to choose from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    documents: int = Field(8, ge=2, le=16)
