"""Options of the decision `semantic_clusters`; the defaults are the demo profile."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Settings of the decision.

    Attributes:
        documents: documents that are put before `semantic_clusters` at most; 0 = leave it out.
        characters: head of a document that is embedded.
        threshold: cosine similarity from which a document repeats another one.
        clusters: number of clusters in which documents are compared.
        iterations: of Lloyd's algorithm at most.
        shots: samples of each circuit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    documents: int = Field(384, ge=0)
    characters: int = Field(2000, ge=100)
    threshold: float = Field(0.93, gt=0, le=1)
    clusters: int = Field(4, ge=2)
    iterations: int = Field(4, ge=1)
    shots: int = Field(256, ge=1)
