"""Options of the stage `inference`; the defaults are the demo profile."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Settings of the stage.

    Attributes:
        domains: domains that calibrate and judge; those without text are left out.
        recovery_tokens: training after the removal, 0 = none.
        matrix_lr: learning rate of Muon in it.
        other_lr: learning rate of AdamW in it.
        muon: use Muon for the matrices in it; off for a pretrained model, whose wide matrices make it slow.
        batch: windows per step.
        threads: torch threads.
        evaluation_windows: held-out windows of each figure, None = all.
        speed_s: CPU seconds that each measurement of the reading speed takes.
        register_model: whether the model is registered in MLflow.
        name: name of the registered model.
        alias: alias that points to the new version; the gate decides whether it may serve.
        serve: whether the server is started once and asked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    domains: tuple[str, ...] = ("base", "second")
    recovery_tokens: int = Field(40_000, ge=0)
    matrix_lr: float = Field(0.005, gt=0)
    other_lr: float = Field(0.005, gt=0)
    muon: bool = True
    batch: int = Field(8, ge=1)
    threads: int = Field(1, ge=1)
    evaluation_windows: int | None = Field(96, ge=1)
    speed_s: float = Field(1.0, gt=0)
    register_model: bool = True
    name: str = "ketcycle"
    alias: str = "challenger"
    serve: bool = True
