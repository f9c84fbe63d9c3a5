"""Options of the stage `training`."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from tasks.model.recipe import Recipe


class Options(BaseModel):
    """Settings of the stage.

    What is not set is taken from the scaling dial or the search of `architecture`, where they were used.

    Attributes:
        model: folder of the pretrained model that the stage `architecture` uses; empty = a new model is trained.
        evaluate: text file on which a pretrained model is scored; empty = none.
        evaluate_windows: number of evenly spaced windows of the file `evaluate`, None = all.
        domain: domain of the training text.
        tokens: training tokens; the default takes about a minute on one core.
        steps: limit in optimiser steps, None = none.
        core_minutes: limit in CPU minutes of the training, None = none.
        joules: limit in modelled joules of the training, None = none.
        batch: windows per training step; small batches learn more per token, and a step is cheap.
        parts: parts that the windows of a step are read in, one after another or by several processes.
        matrix_lr: learning rate of Muon, which updates matrices.
        other_lr: learning rate of AdamW, which updates all other weights.
        warmup: share of the steps with rising learning rate.
        final: learning rate at the end, as a share of the peak.
        clip: maximum norm of the whole gradient.
        weight_decay: weight decay of matrices; larger where the text is read many times.
        dropout: share of the outputs of attention and feed-forward parts that are dropped.
        isolate: no token attends to another document of its window.
        precision: `bf16` multiplies matrices in bfloat16, `auto` does so where the processor has instructions for it.
        device: `cuda` trains on the card, `auto` does so where there is one.
        workers: number of Dask workers that train together, as far as they are free; 1 = the one that has the task.
            Unset = two if a step has 2,048 tokens or more, else one. Two give the same bits as one with `parts` 2.
        exchange_every: training steps between two exchanges. 1 = gradients are summed in every step; more = each worker
            steps on its own and the weights are averaged, for slow networks.
        threads: number of torch threads; results are bit-identical for the same processor and number of threads.
        evaluate_every: training steps between evaluations, 0 = none.
        patience: evaluations without a new lowest bits per byte after which training stops, 0 = never.
        checkpoint_every: training steps between checkpoints, 0 = none.
        keep: number of latest checkpoints that are kept.
        evaluation_windows: held-out windows on which the final losses are measured, None = all.
        reference_windows: training windows that the n-gram references learn from at most.
        prompt_words: number of first words of a held-out document that serve as the prompt of a sample.
        samples: number of text samples at each evaluation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = ""
    evaluate: str = ""
    evaluate_windows: int | None = Field(32, ge=1)
    domain: str = "base"
    tokens: int = Field(200_000, ge=1)
    steps: int | None = Field(None, ge=1)
    core_minutes: float | None = Field(None, gt=0)
    joules: float | None = Field(None, gt=0)
    batch: int = Field(8, ge=1)
    parts: int = Field(1, ge=1)
    matrix_lr: float = Field(0.02, gt=0)
    other_lr: float = Field(0.03, gt=0)
    warmup: float = Field(0.05, ge=0, lt=1)
    final: float = Field(0.05, ge=0, le=1)
    clip: float = Field(1.0, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    isolate: bool = False
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int | None = Field(None, ge=1)
    exchange_every: int = Field(1, ge=1)
    threads: int = Field(1, ge=1)
    evaluate_every: int = Field(100, ge=0)
    patience: int = Field(0, ge=0)
    checkpoint_every: int = Field(50, ge=0)
    keep: int = Field(2, ge=1)
    evaluation_windows: int | None = Field(256, ge=1)
    reference_windows: int = Field(16_384, ge=1)
    prompt_words: int = Field(6, ge=1)
    samples: int = Field(2, ge=0)

    def recipe(self, seed: int, separator: int | None = None, joules_per_cpu_s: float = 1.0) -> Recipe:
        """Return the recipe of the training loop.

        Args:
            seed: seed of the run.
            separator: token between documents.
            joules_per_cpu_s: modelled joules of a CPU second, by which a budget in joules becomes one in core-minutes.
        """
        from tasks.model.recipe import Recipe

        values = {field.name: getattr(self, field.name) for field in fields(Recipe) if hasattr(self, field.name)}
        if self.joules is not None:
            minutes = self.joules / joules_per_cpu_s / 60
            values["core_minutes"] = min(minutes, self.core_minutes or minutes)
        return Recipe(seed=seed, separator=separator if self.isolate else None, **values)
