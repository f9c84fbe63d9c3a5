"""Options of the stage `training`; the defaults are the demo profile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from tasks.model.train import Recipe


class Options(BaseModel):
    """Settings of the stage.

    Attributes:
        model: folder of the pretrained model that the stage `architecture` uses; empty = a new model is trained.
        evaluate: text file on which a pretrained model is scored; empty = none.
        evaluate_windows: number of evenly spaced windows of the file `evaluate`, None = all.
        domain: domain of the training text.
        tokens: training tokens; the default takes about a minute and a half on one core.
        batch: windows per training step; small batches learn more per token, and a step is cheap.
        matrix_lr: learning rate of Muon, which updates matrices.
        other_lr: learning rate of AdamW, which updates all other weights.
        weight_decay: weight decay of matrices.
        threads: number of torch threads; results are bit-identical for the same number of threads.
        evaluate_every: training steps between evaluations, 0 = none.
        checkpoint_every: training steps between checkpoints, 0 = none.
        keep: number of latest checkpoints that are kept.
        evaluation_windows: held-out windows on which the final losses are measured, None = all.
        prompt_words: number of first words of a held-out document that serve as the prompt of a sample.
        samples: number of text samples at each evaluation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = ""
    evaluate: str = ""
    evaluate_windows: int | None = Field(32, ge=1)
    domain: str = "base"
    tokens: int = Field(450_000, ge=1)
    batch: int = Field(8, ge=1)
    matrix_lr: float = Field(0.02, gt=0)
    other_lr: float = Field(0.03, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    threads: int = Field(1, ge=1)
    evaluate_every: int = Field(100, ge=0)
    checkpoint_every: int = Field(50, ge=0)
    keep: int = Field(2, ge=1)
    evaluation_windows: int | None = Field(256, ge=1)
    prompt_words: int = Field(6, ge=1)
    samples: int = Field(2, ge=0)

    def recipe(self, seed: int) -> Recipe:
        """Return the recipe of the training loop."""
        from tasks.model.train import Recipe  # imports torch, which checking options does not need

        names = ("tokens", "batch", "matrix_lr", "other_lr", "weight_decay", "threads", "evaluate_every")
        more = ("checkpoint_every", "keep")
        return Recipe(seed=seed, **{name: getattr(self, name) for name in (*names, *more)})
