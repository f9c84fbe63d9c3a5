"""Fine-tuning: LoRA on a second domain; gain and forgetting are compared with full fine-tuning at equal tokens."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from typing import Any

import torch

from infra.errors import BadInput
from tasks.finetuning.options import Options
from tasks.model.causal import load_model, save_model
from tasks.model.lora import add_lora, count_trainable, merge, save_adapter
from tasks.model.score import bits_per_byte
from tasks.model.threads import torch_threads
from tasks.model.train import Recipe, Run, Watch, train
from tasks.model.windows import Windows, read_windows
from tasks.sections import Chart, Section, line
from tasks.stage import Context, Road, State

log = logging.getLogger("ketcycle.finetuning")


def measure(context: Context, _: State) -> State:
    """Measure the model before fine-tuning, and the reference: full fine-tuning with the same tokens."""
    options = context.parsed(Options)
    with torch_threads(options.threads):
        return _compare_full(context, options)


def adapt(context: Context, state: State) -> State:
    """Train the adapter, merge it, and store both adapter and merged model in the lake."""
    options = context.parsed(Options)
    with torch_threads(options.threads):
        return _adapt_and_save(context, state, options)


def headline(state: State) -> str:
    """Return the result of the stage in one line."""
    lora = state.facts["lora"]
    full = state.facts.get("full")
    beside = f" (full fine-tuning {full['gain']:.3f}, {full['forgetting']:.3f})" if full else ""
    return f"LoRA: gain {lora['gain']:.3f}, forgetting {lora['forgetting']:.3f} bits per byte{beside}"


def sections(facts: Mapping[str, Any]) -> tuple[Section, ...]:
    """Return the tables and charts of the result."""
    figures = {title: facts[name] for name, title in (("lora", "LoRA"), ("full", "full fine-tuning")) if name in facts}
    if not figures:
        return ()
    names = ("gain", "forgetting", "trained_weights", "trained_share", "tokens")
    rows = tuple((title, *(values[name] for name in names)) for title, values in figures.items())
    sentence = (
        "Bits per byte of the test text: gain on the new domain, higher is better; forgetting on the first domain, "
        "lower is better."
    )
    header = ("method", "gain", "forgetting", "trained weights", "share of the weights", "tokens")
    found: tuple[Section, ...] = (Section("Gain and forgetting", sentence, header, rows),)
    if curves := tuple(one for title, values in figures.items() for one in line(title, values.get("curve", ()))):
        chart = Chart("tokens seen", "bits per byte (validation text of the new domain)", curves)
        found += (Section("Fine-tuning curve", chart=chart),)
    return found


ROAD: Road = (measure, adapt)


def _compare_full(context: Context, options: Options) -> State:
    model = _model(context)
    before = _scores(context, model, options)
    state = State().add(before=before)
    if not options.compare_full:
        return state
    run = _train(context, model, options.recipe(context.seed, full=True), "full")
    return state.add(full=_figures(options, before, _scores(context, model, options), run, count_trainable(model)))


def _adapt_and_save(context: Context, state: State, options: Options) -> State:
    adapted = add_lora(_model(context), options.rank, options.alpha, options.dropout, context.seed)
    counts = count_trainable(adapted)
    log.info("LoRA of rank %d trains %d of %d weights", options.rank, *counts)
    run = _train(context, adapted, options.recipe(context.seed, full=False), "lora")
    with TemporaryDirectory(dir=context.scratch) as folder:
        save_adapter(adapted, Path(folder), base=str(context.require("training/model")))
        adapter_ref = context.lake.put_folder("finetuning/adapter", Path(folder), {"rank": options.rank})
    merged = merge(adapted)
    with TemporaryDirectory(dir=context.scratch) as folder:
        save_model(merged, Path(folder))
        copytree(context.lake.folder(context.require("preprocessing/tokenizer")), folder, dirs_exist_ok=True)
        model_ref = context.lake.put_folder("finetuning/model", Path(folder), {"domain": options.domain})
    figures = _figures(options, state.facts["before"], _scores(context, merged, options), run, counts)
    log.info("gain on %s %.3f, forgetting on %s %.3f bits per byte", options.domain, figures["gain"], options.base,
             figures["forgetting"])  # fmt: skip
    return state.add({"finetuning/adapter": adapter_ref, "finetuning/model": model_ref}, lora=figures)


def _model(context: Context) -> Any:
    return load_model(context.lake.folder(context.require("training/model")))


def _windows(context: Context, domain: str, split: str, limit: int | None = None) -> Windows:
    try:
        return read_windows(context.lake, context.require("preprocessing/shards"), domain, split, limit)
    except ValueError as error:
        raise BadInput(
            f"{error}; fine-tuning needs text of a second domain: give one, or set finetuning.domain to an existing one"
        ) from error


def _train(context: Context, model: torch.nn.Module, recipe: Recipe, name: str) -> Run:
    options = context.parsed(Options)
    folder = context.scratch / f"checkpoints-{name}" if recipe.checkpoint_every else None
    watch = Watch(_windows(context, options.domain, "validation", min(32, options.evaluation_windows or 32)), log=log)
    length = int(context.lake.meta(context.require("preprocessing/shards"))["context"])
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
    """Return gain and forgetting on the test splits in bits per byte; large gain and small forgetting are good."""
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
