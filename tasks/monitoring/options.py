"""Options of the stage `monitoring`; the defaults are the demo profile."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Settings of the stage.

    Attributes:
        words: of a prompt.
        reference: requests of the reference window.
        window: requests of each later window.
        drifted: windows mixed with the second domain.
        mixture: share of the second domain in them.
        background: held-out passages of the base domain that fix centre and bandwidth of the kernels, and as
            many of the second domain for planting mixtures at most.
        max_tokens: tokens to be completed for each prompt.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    words: int = Field(48, ge=5)
    reference: int = Field(40, ge=2)
    window: int = Field(40, ge=2)
    drifted: int = Field(2, ge=0)
    mixture: float = Field(0.5, gt=0, le=1)
    background: int = Field(200, ge=0)
    max_tokens: int = Field(1, ge=1)
