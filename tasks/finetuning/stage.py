"""Fine-tuning: LoRA to a second domain, with gain and forgetting beside full fine-tuning at equal tokens."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from infra.errors import BadInput
from infra.lake import Ref
from tasks.contract import Subtask
from tasks.model.causal import load_model, save_model
from tasks.model.lora import add_lora, count_trainable, merge, save_adapter
from tasks.model.score import bits_per_byte
from tasks.model.threads import torch_threads
from tasks.model.train import Recipe, Run, Watch, train
from tasks.model.windows import Windows, read_windows
from tasks.stage import Context, State

log = logging.getLogger("ketcycle.finetuning")

SUBTASKS: tuple[Subtask[Any, Any], ...] = ()
INPUTS = ("preprocessing/shards", "preprocessing/tokenizer", "training/model")


class Options(BaseModel):
    """Settings of the stage; the defaults are the demo profile.

    Attributes:
        domain: the domain to adapt to.
        base: the domain whose loss is watched for forgetting.
        tokens: budget, the same for LoRA and for full fine-tuning.
        batch: windows per step.
        rank: rank of the LoRA factors.
        alpha: LoRA scale; the product of the factors counts alpha / rank.
        dropout: on the input of the factors.
        lora_lr: learning rate of the factors (AdamW).
        full_matrix_lr: learning rate of full fine-tuning for matrices (Muon).
        full_other_lr: learning rate of full fine-tuning for embeddings and norms (AdamW).
        compare_full: whether full fine-tuning runs beside, as the reference.
        threads: torch threads.
        checkpoint_every: steps between checkpoints, 0 = none.
        evaluation_windows: held-out windows of each figure, None = all.
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
        """Return the training loop's recipe, of full fine-tuning or of the adapter."""
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


def prepare(context: Context) -> State:
    """Measure the model as it is, and the reference: full fine-tuning with the same tokens."""
    options = context.parsed(Options)
    with torch_threads(options.threads):
        return _compare_full(context, options)


def pose(context: Context, state: State, subtask: str) -> Any:
    """Return the problem of one decision; the stage has none yet."""
    raise KeyError(f"finetuning has no subtask {subtask!r}")


def apply(context: Context, state: State, subtask: str, solution: Any) -> State:
    """Do what follows from a decision; the stage has none yet."""
    raise KeyError(f"finetuning has no subtask {subtask!r}")


def publish(context: Context, state: State) -> State:
    """Train the adapter, merge it, and put both adapter and merged model into the lake."""
    options = context.parsed(Options)
    with torch_threads(options.threads):
        return _adapt_and_save(context, state, options)


def headline(state: State) -> str:
    """Return the result of the stage in one line."""
    lora = state.facts["lora"]
    full = state.facts.get("full")
    beside = f" (full fine-tuning {full['gain']:.3f}, {full['forgetting']:.3f})" if full else ""
    return f"LoRA: gain {lora['gain']:.3f}, forgetting {lora['forgetting']:.3f} bits per byte{beside}"


def _compare_full(context: Context, options: Options) -> State:
    model = _model(context)
    before = _scores(context, model, options)
    state = State().add(before=before)
    if not options.compare_full:
        return state
    run = _train(context, model, options.recipe(context.seed, full=True), "full")
    return state.add(full=_figures(options, before, _scores(context, model, options), run, count_trainable(model)))


def _adapt_and_save(context: Context, state: State, options: Options) -> State:
    inputs = _inputs(context)
    adapted = add_lora(_model(context), options.rank, options.alpha, options.dropout, context.seed)
    counts = count_trainable(adapted)
    log.info("LoRA of rank %d trains %d of %d weights", options.rank, *counts)
    run = _train(context, adapted, options.recipe(context.seed, full=False), "lora")
    with TemporaryDirectory(dir=context.scratch) as folder:
        save_adapter(adapted, Path(folder), base=str(inputs["training/model"]))
        adapter_ref = context.lake.put_folder("finetuning/adapter", Path(folder), {"rank": options.rank})
    merged = merge(adapted)
    with TemporaryDirectory(dir=context.scratch) as folder:
        save_model(merged, Path(folder))
        copytree(context.lake.folder(inputs["preprocessing/tokenizer"]), folder, dirs_exist_ok=True)
        model_ref = context.lake.put_folder("finetuning/model", Path(folder), {"domain": options.domain})
    figures = _figures(options, state.facts["before"], _scores(context, merged, options), run, counts)
    log.info("gain on %s %.3f, forgetting on %s %.3f bits per byte", options.domain, figures["gain"], options.base,
             figures["forgetting"])  # fmt: skip
    return state.add({"finetuning/adapter": adapter_ref, "finetuning/model": model_ref}, lora=figures)


def _inputs(context: Context) -> Mapping[str, Ref]:
    missing = [name for name in INPUTS if name not in context.inputs]
    if missing:
        raise BadInput(f"finetuning reads {', '.join(missing)}, not there yet; run preprocessing and training before")
    return context.inputs


def _model(context: Context) -> Any:
    return load_model(context.lake.folder(_inputs(context)["training/model"]))


def _windows(context: Context, domain: str, split: str, limit: int | None = None) -> Windows:
    try:
        return read_windows(context.lake, context.inputs["preprocessing/shards"], domain, split, limit)
    except ValueError as error:
        raise BadInput(
            f"{error}; fine-tuning needs text of a second domain: give one, or set finetuning.domain to one there is"
        ) from error


def _train(context: Context, model: torch.nn.Module, recipe: Recipe, name: str) -> Run:
    options = context.parsed(Options)
    folder = context.scratch / f"checkpoints-{name}" if recipe.checkpoint_every else None
    watch = Watch(_windows(context, options.domain, "validation", min(32, options.evaluation_windows or 32)), log=log)
    length = int(context.lake.meta(context.inputs["preprocessing/shards"])["context"])
    return train(model, _windows(context, options.domain, "train", recipe.reach(length)), recipe, watch, folder)


def _scores(context: Context, model: torch.nn.Module, options: Options) -> dict[str, dict[str, float]]:
    return {
        domain: {
            split: bits_per_byte(model, _windows(context, domain, split, options.evaluation_windows))
            for split in ("validation", "test")
        }
        for domain in (options.domain, options.base)
    }


def _figures(
    options: Options,
    before: Mapping[str, Mapping[str, float]],
    after: Mapping[str, Mapping[str, float]],
    run: Run,
    counts: tuple[int, int],
) -> dict[str, Any]:
    """Gain and forgetting on the test splits in bits per byte; positive gain and small forgetting are good."""
    return {
        "after": after,
        "gain": before[options.domain]["test"] - after[options.domain]["test"],
        "forgetting": after[options.base]["test"] - before[options.base]["test"],
        "trained_weights": counts[0],
        "trained_share": counts[0] / counts[1],
        "tokens": run.tokens,
        "tokens_per_s": run.tokens_per_s,
        "resumed_at": run.resumed_at,
        "curve": [[int(row["tokens"]), row["bits_per_byte"]] for row in run.history if "bits_per_byte" in row],
    }
