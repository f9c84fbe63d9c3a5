"""Options of the stage `architecture`; the defaults are the demo profile."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Settings of the stage.

    Attributes:
        model: folder of a pretrained model, taken as it is; empty = the dial decides.
        depth: the dial: blocks, and with them width, heads and feed-forward units.
        width: hidden size, else 32 for each block.
        heads: attention heads, else one for each 32 of width.
        ffn: feed-forward units, else 8/3 of the width.
        batch: windows per training step that the memory estimate assumes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = ""
    depth: int = Field(4, ge=1, le=48)
    width: int | None = Field(None, ge=8)
    heads: int | None = Field(None, ge=1)
    ffn: int | None = Field(None, ge=8)
    batch: int = Field(8, ge=1)
