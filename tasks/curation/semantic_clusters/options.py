"""Options of the decision `semantic_clusters`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Settings of the decision.

    Attributes:
        documents: maximum number of documents that are clustered; 0 = skip the decision.
        characters: number of first characters of a document that are embedded.
        threshold: cosine similarity from which a document counts as a copy in meaning of another one.
        clusters: number of clusters; documents are compared within a cluster.
        iterations: maximum number of iterations of Lloyd's algorithm.
        shots: samples of each circuit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    documents: int = Field(384, ge=0)
    characters: int = Field(2000, ge=100)
    threshold: float = Field(0.93, gt=0, le=1)
    clusters: int = Field(4, ge=2)
    iterations: int = Field(4, ge=1)
    shots: int = Field(256, ge=1)
