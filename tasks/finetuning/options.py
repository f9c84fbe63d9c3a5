"""Options of the stage `finetuning`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from tasks.model.recipe import Recipe

TuningMethod = Literal["full", "lora", "rslora", "dora", "pissa", "vera", "oft", "hra", "road"]


class Options(BaseModel):
    """Settings of the stage.

    Attributes:
        method: how the model is adapted; `full` trains every weight, the others are adapters of `peft`.
        beside: methods that are trained with the same budget for comparison; their adapters are saved, too.
        domain: the domain to adapt to, where no file is given.
        base: the domain whose loss is watched for forgetting.
        data: file of JSON lines to adapt to in place of a domain; a row has messages, or prompt and completion, or
            text.
        preferences: file of JSON lines with prompt, chosen and rejected, for preference tuning (DPO) afterwards;
            empty = none. Needs the extra `preference`.
        held_out: share of the rows of a file that are not trained on; half of them are the validation rows.
        base_share: share of the training windows that is text of the base domain (rehearsal), which lowers forgetting.
        template: Jinja file with the chat template; empty = the tokenizer's own, else a plain one.
        packing: whether several rows of a file share a window.
        tokens: training tokens of each method.
        epochs: passes over the rows of a file, in place of `tokens`; None = `tokens`.
        batch: windows per training step.
        rank: rank of the adapter; of OFT the block size.
        alpha: scale of LoRA; the product of the factors is multiplied by alpha / rank.
        dropout: dropout probability on the input of the adapter.
        adapter_lr: learning rate of the adapter (AdamW).
        full_matrix_lr: learning rate of full fine-tuning for matrices (Muon).
        full_other_lr: learning rate of full fine-tuning for embeddings and norms (AdamW).
        preference_lr: learning rate of preference tuning.
        preference_beta: strength with which preference tuning keeps the model near its start.
        preference_steps: training steps of preference tuning.
        threads: number of torch threads.
        checkpoint_every: training steps between checkpoints, 0 = none.
        evaluation_windows: held-out windows on which each loss is measured, None = all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: TuningMethod = "lora"
    beside: tuple[TuningMethod, ...] = ("full",)
    domain: str = "second"
    base: str = "base"
    data: str = ""
    preferences: str = ""
    held_out: float = Field(0.1, gt=0, lt=1)
    base_share: float = Field(0.0, ge=0, lt=1)
    template: str = ""
    packing: bool = True
    tokens: int = Field(100_000, ge=1)
    epochs: float | None = Field(None, gt=0)
    batch: int = Field(8, ge=1)
    rank: int = Field(8, ge=1)
    alpha: int = Field(16, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    adapter_lr: float = Field(0.01, gt=0)
    full_matrix_lr: float = Field(0.005, gt=0)
    full_other_lr: float = Field(0.01, gt=0)
    preference_lr: float = Field(5e-5, gt=0)
    preference_beta: float = Field(0.1, gt=0)
    preference_steps: int = Field(20, ge=1)
    threads: int = Field(1, ge=1)
    checkpoint_every: int = Field(50, ge=0)
    evaluation_windows: int | None = Field(128, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.domain == self.base and not self.data:
            raise ValueError(f"domain and base are both {self.domain!r}; adapt to another domain than the base")
        if self.method in self.beside or len(set(self.beside)) < len(self.beside):
            raise ValueError(f"method {self.method} and beside {', '.join(self.beside)} name a method twice")
        if self.epochs is not None and not self.data:
            raise ValueError("epochs needs a file of rows (data); a domain is trained on for a number of tokens")
        return self

    def recipe(self, seed: int, method: str, tokens: int) -> Recipe:
        """Return the recipe of the training loop for full fine-tuning or an adapter."""
        from tasks.model.recipe import Recipe  # imports torch, which checking options does not need

        full = method == "full"
        return Recipe(
            tokens=tokens,
            batch=self.batch,
            matrix_lr=self.full_matrix_lr,
            other_lr=self.full_other_lr if full else self.adapter_lr,
            muon=full,
            seed=seed,
            threads=self.threads,
            checkpoint_every=self.checkpoint_every,
        )
