"""Options of the stage `architecture`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Settings of the stage.

    Attributes:
        model: folder of a pretrained model, which is used unchanged; empty = `depth` sets the shape of a new model.
        scale: training compute as a multiple of the demo profile's. With it, `core_minutes`, `gpu_hours` or `joules`
            the scaling rules choose depth, tokens, batch, learning rates and weight decay, wherever these are not set.
        core_minutes: CPU minutes of the training.
        gpu_hours: hours of the training on the card of this machine; where there is none, on an H100 by its datasheet.
        joules: modelled joules of the training.
        depth: number of transformer blocks; width, heads and feed-forward units follow from it unless they are set.
        width: hidden size; unset = 32 for each block.
        heads: number of attention heads; unset = one for each 32 of width.
        ffn: number of feed-forward units; unset = 8/3 of the width.
        batch: windows per training step that the memory estimate assumes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = ""
    scale: float | None = Field(None, gt=0)
    core_minutes: float | None = Field(None, gt=0)
    gpu_hours: float | None = Field(None, gt=0)
    joules: float | None = Field(None, gt=0)
    depth: int = Field(4, ge=1, le=48)
    width: int | None = Field(None, ge=8)
    heads: int | None = Field(None, ge=1)
    ffn: int | None = Field(None, ge=8)
    batch: int = Field(8, ge=1)
