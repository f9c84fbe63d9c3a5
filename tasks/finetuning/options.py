"""Options of the stage `finetuning`; the defaults are the demo profile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from tasks.model.train import Recipe


class Options(BaseModel):
    """Settings of the stage.

    Attributes:
        domain: the domain to adapt to.
        base: the domain whose loss is watched for forgetting.
        tokens: training tokens, the same number for LoRA and for full fine-tuning.
        batch: windows per training step.
        rank: rank of the LoRA factors.
        alpha: LoRA scale; the product of the factors is multiplied by alpha / rank.
        dropout: dropout probability on the input of the LoRA factors.
        lora_lr: learning rate of the factors (AdamW).
        full_matrix_lr: learning rate of full fine-tuning for matrices (Muon).
        full_other_lr: learning rate of full fine-tuning for embeddings and norms (AdamW).
        compare_full: whether full fine-tuning also runs, as the reference.
        threads: number of torch threads.
        checkpoint_every: training steps between checkpoints, 0 = none.
        evaluation_windows: held-out windows on which each loss is measured, None = all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    domain: str = "second"
    base: str = "base"
    tokens: int = Field(100_000, ge=1)
    batch: int = Field(8, ge=1)
    rank: int = Field(8, ge=1)
    alpha: int = Field(16, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    lora_lr: float = Field(0.01, gt=0)
    full_matrix_lr: float = Field(0.005, gt=0)
    full_other_lr: float = Field(0.01, gt=0)
    compare_full: bool = True
    threads: int = Field(1, ge=1)
    checkpoint_every: int = Field(50, ge=0)
    evaluation_windows: int | None = Field(128, ge=1)

    @model_validator(mode="after")
    def _two_domains(self) -> Self:
        if self.domain == self.base:
            raise ValueError(f"domain and base are both {self.domain!r}; adapt to another domain than the base")
        return self

    def recipe(self, seed: int, *, full: bool) -> Recipe:
        """Return the recipe of the training loop: full fine-tuning or the LoRA adapter."""
        from tasks.model.train import Recipe  # imports torch, which checking options does not need

        return Recipe(
            tokens=self.tokens,
            batch=self.batch,
            matrix_lr=self.full_matrix_lr,
            other_lr=self.full_other_lr if full else self.lora_lr,
            muon=full,
            seed=seed,
            threads=self.threads,
            checkpoint_every=self.checkpoint_every,
        )
