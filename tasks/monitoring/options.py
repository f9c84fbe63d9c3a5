"""Options of the stage `monitoring`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Settings of the stage.

    Attributes:
        words: words of each prompt.
        reference: requests in the reference window.
        window: requests in each later window.
        drifted: number of windows that are mixed with the second domain.
        mixture: share of the second domain in the mixed windows.
        background: held-out passages of the base domain from which centre and bandwidth of the kernels are
            estimated; at most as many passages of the second domain are used to build mixtures with known drift.
        max_tokens: tokens that the server completes for each prompt.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    words: int = Field(48, ge=5)
    reference: int = Field(40, ge=2)
    window: int = Field(40, ge=2)
    drifted: int = Field(2, ge=0)
    mixture: float = Field(0.5, gt=0, le=1)
    background: int = Field(200, ge=0)
    max_tokens: int = Field(1, ge=1)
