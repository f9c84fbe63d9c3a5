"""Options of the stage `inference`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Settings of the stage.

    Attributes:
        domains: domains whose text is used for calibration and evaluation; domains without text are left out.
        recovery_tokens: training tokens after the removal, 0 = no recovery training.
        matrix_lr: learning rate of Muon in recovery training.
        other_lr: learning rate of AdamW in recovery training.
        muon: whether recovery training uses Muon for matrices; set it to false for a pretrained model, whose wide
            matrices make Muon slow.
        batch: windows per training step.
        threads: number of torch threads.
        evaluation_windows: held-out windows on which each loss is measured, None = all.
        speed_s: CPU seconds of each measurement of the reading speed.
        forms_s: CPU seconds of each measurement of a number format (fp32, bfloat16, INT8); 0 = none is measured.
        forms_loss: bits per byte that a number format may lose against fp32.
        exports: forms in which the model is also written, for other runtimes: `gguf` and `gguf-q8_0` (llama.cpp),
            `onnx` and `onnx-int4` (ONNX Runtime; OpenVINO reads the former). They need the extra `exports`.
        ledger_tokens: tokens read, over which the lifecycle ledger counts what pruning saves.
        licences: licence of each domain, for the model card, e.g. {base: PSF-2.0}; of a pretrained model as `model`,
            of the files of rows as `data` and `preferences`.
        register_model: whether the model is registered in MLflow.
        name: name of the registered model.
        alias: alias that points to the new version; the promotion gate decides whether that version may serve.
        serve: whether the server is started once and answers test requests.
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
    forms_s: float = Field(1.0, ge=0)
    forms_loss: float = Field(0.01, ge=0)
    exports: tuple[Literal["gguf", "gguf-q8_0", "onnx", "onnx-int4"], ...] = ()
    ledger_tokens: int = Field(1_000_000, ge=0)
    licences: dict[str, str] = Field(default_factory=dict)
    register_model: bool = True
    name: str = "ketcycle"
    alias: str = "challenger"
    serve: bool = True
