"""Architecture: a Llama-style model whose depth sets its shape, or a pretrained one, and its cost per token."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from typing import Any

from infra.errors import BadInput
from infra.lake import link_or_copy
from tasks.architecture.config import (
    HEAD_WIDTH,
    TOKENS_PER_PARAMETER,
    Shape,
    build_model,
    ffn_of_width,
    shape_of_dial,
    widened,
)
from tasks.architecture.dial import DEMO_FLOPS, Budget, best_depth, choose
from tasks.architecture.hyperparameters.space import SPACE
from tasks.architecture.options import Options
from tasks.architecture.rate import Rate, card_rate, measure_rate
from tasks.budget import joules_per_cpu_s
from tasks.model.causal import load_tokenizer, save_model
from tasks.model.pretrained import read_config, read_model, take_files
from tasks.model.windows import count_windows
from tasks.sections import Chart, Section, line
from tasks.stage import Context, Road, State

log = logging.getLogger("ketcycle.architecture")

DIAL = ("scale", "core_minutes", "gpu_hours", "joules")
ROOM = 2  # times the tokens that a measured rate predicts: a training that is faster uses its whole time


def choose_shape(context: Context, state: State) -> State:
    """Choose the shape of the model; what a search found holds where the options say nothing."""
    options = context.parsed(Options)
    meta = context.lake.meta(context.require("preprocessing/shards"))
    if options.model:
        return _pretrained(Path(options.model).expanduser(), meta["vocab_size"], meta["context"])
    budget = _budget(options)
    found, sizes = state.facts.get("hyperparameters", {}), (meta["vocab_size"], meta["context"])
    if budget is None:
        shape = _shape(options, found, options.depth, *sizes)
    else:
        unique = _unique_tokens(context, meta["context"])
        depth = options.depth if "depth" in options.model_fields_set else best_depth(budget, *sizes, unique)
        shape = _shape(options, found, depth, *sizes)
        state = _dial(state, options, budget, shape, unique)
    return state.add(
        shape={name: getattr(shape, name) for name in ("depth", "width", "heads", "ffn", "vocab_size", "context")},
        parameters=shape.parameters,
        forward_flops_per_token=shape.forward_flops_per_token,
        training_flops_per_token=shape.training_flops_per_token,
        weights_mb=4 * shape.parameters / 2**20,
        training_memory_mb=shape.training_bytes(options.batch) / 2**20,
        compute_optimal_tokens=TOKENS_PER_PARAMETER * shape.parameters,
    )


def make_model(context: Context, state: State) -> State:
    """Initialise the weights, or load the pretrained ones, and save the model with its tokenizer."""
    options = context.parsed(Options)
    if options.model:
        return _take(context, state, Path(options.model).expanduser())
    tokenizer = load_tokenizer(context.lake.folder(context.require("preprocessing/tokenizer")))
    shape = Shape(**state.facts["shape"])
    model = build_model(shape, int(tokenizer.eos_token_id), context.seed)
    counted = sum(parameter.numel() for parameter in model.parameters())
    log.info("%d parameters in %d blocks of width %d", counted, shape.depth, shape.width)
    with TemporaryDirectory(dir=context.scratch) as folder:
        save_model(model, Path(folder))
        copytree(context.lake.folder(context.require("preprocessing/tokenizer")), folder, dirs_exist_ok=True)
        about = {"parameters": counted, "recipe": _recipe(state), "dial": state.facts.get("dial")}
        ref = context.lake.put_folder("architecture/model", Path(folder), about)
    return state.add({"architecture/model": ref})


def headline(state: State) -> str:
    """Return the result of the stage in one line."""
    shape = state.facts["shape"]
    if state.facts.get("pretrained"):
        return f"pretrained {shape['type']}: {state.facts['parameters']:,} parameters, {shape['depth']} blocks"
    return f"{state.facts['parameters']:,} parameters, {shape['depth']} blocks of width {shape['width']}"


def sections(facts: Mapping[str, Any]) -> tuple[Section, ...]:
    """Return the tables and charts of the result."""
    if "shape" not in facts:
        return ()
    sizes = ("parameters", "forward_flops_per_token", "training_flops_per_token", "weights_mb", "training_memory_mb")
    values = {**facts["shape"], **{name: facts[name] for name in sizes if name in facts}}
    named = tuple((name.replace("_", " ").replace(" mb", ", MiB"), value) for name, value in values.items())
    made: tuple[Section, ...] = (Section("Shape of the model", header=("figure", "value"), rows=named),)
    if found := facts.get("hyperparameters"):
        rows = tuple((d.name.replace("_", " "), found[d.name]) for d in SPACE)
        sentence = (
            f"The best of {found['runs']} training runs of a small model, {found['stopped_early']} stopped early."
        )
        chart = Chart("training run", "bits per byte (validation text)", line("loss of a run", found["losses"]))
        made += (Section("Hyperparameters", sentence, ("hyperparameter", "value"), rows, chart),)
    if dial := facts.get("dial"):
        figures = {**{name: dial[name] for name in DIAL if name in dial}, **dial["recipe"]}
        rows = tuple((name.replace("_", " "), value) for name, value in figures.items())
        rows += tuple(("rate of the processor", rate["source"]) for rate in dial.get("rates", ()))
        rows += (("predicted bits per byte", dial["predicted"]), ("error at runs left out", dial["residual"]))
        sentence = f"Chosen by the scaling rules; {dial['beyond']:.2g} times the compute of the largest run of the fit."
        made += (Section("Dial", sentence, ("figure", "value"), rows),)
    if hybrid := facts.get("hybrid_layer"):
        rows = tuple((name.replace("_", " "), value) for name, value in hybrid.items())
        sentence = "A small model of its own; the model of the run keeps its ordinary layers."
        made += (Section("Layer in question", sentence, ("figure", "value"), rows),)
    return made


ROAD: Road = ("hyperparameters", "hybrid_layer", choose_shape, make_model)


def _budget(options: Options) -> Budget | None:
    """Return the budget that the dial sets, or None."""
    if all(getattr(options, name) is None for name in DIAL):
        return None
    times: list[tuple[float, Rate]] = []
    if cpu_s := _cpu_s(options):
        times.append((cpu_s, measure_rate("cpu")))
    if options.gpu_hours is not None:
        times.append((3600 * options.gpu_hours, card_rate()))
    return Budget(None if options.scale is None else options.scale * DEMO_FLOPS, tuple(times))


def _cpu_s(options: Options) -> float | None:
    """Return the CPU seconds of the training that the dial sets, or None."""
    seconds = [] if options.core_minutes is None else [60 * options.core_minutes]
    if options.joules is not None:
        seconds.append(options.joules / joules_per_cpu_s())
    return min(seconds, default=None)


def _unique_tokens(context: Context, length: int) -> int:
    """Return the training tokens of the largest domain."""
    windows = count_windows(context.lake, context.require("preprocessing/shards"))
    return max(1, length * max((count for (_, split), count in windows.items() if split == "train"), default=0))


def _dial(state: State, options: Options, budget: Budget, shape: Shape, unique_tokens: int) -> State:
    """Choose tokens and settings of the training by the scaling rules, and say what they predict."""
    chosen = choose(budget, shape, unique_tokens)
    recipe: dict[str, Any] = dict(chosen.recipe)
    if (cpu_s := _cpu_s(options)) is not None:
        recipe |= {"core_minutes": cpu_s / 60, "device": "cpu"}
        if options.scale is None and options.gpu_hours is None:
            recipe["tokens"] *= ROOM
    for _, rate in budget.times:
        log.info("dial: %.3g s a token and %.3g s a TFLOP, %s", rate.seconds, 1e12 * rate.seconds_per_flop, rate.source)
        if not rate.measured:
            here = recipe["tokens"] * measure_rate("cpu").each(shape.training_flops_per_token)
            log.warning("there is no card: this training would take about %.3g CPU hours here", here / 3600)
    log.info(
        "dial: %d blocks of width %d, %s tokens, batch %d, rates %.3g and %.3g, weight decay %.2g; predicted %.3f "
        "bits per byte (+- %.3f, %s)",
        shape.depth,
        shape.width,
        f"{chosen.recipe['tokens']:,}",
        recipe["batch"],
        recipe["matrix_lr"],
        recipe["other_lr"],
        recipe["weight_decay"],
        chosen.predicted,
        chosen.residual,
        "within the runs of the fit" if chosen.beyond <= 1 else f"{chosen.beyond:.1f} times their compute",
    )
    given = {name: value for name in DIAL if (value := getattr(options, name)) is not None}
    figures: dict[str, Any] = {"flops": chosen.flops, "predicted": chosen.predicted, "residual": chosen.residual}
    figures |= {"beyond": chosen.beyond, "unique_tokens": unique_tokens}
    figures |= {"rates": [asdict(rate) for _, rate in budget.times]}
    return state.add(dial={**given, **figures, "recipe": recipe})


def _shape(options: Options, found: Mapping[str, Any], depth: int, vocab_size: int, context: int) -> Shape:
    dial = shape_of_dial(depth, vocab_size, context)
    if found.get("depth") == 1 and not {"depth", "width"} & options.model_fields_set:
        dial = widened(dial)
    width = options.width or dial.width
    heads = options.heads or max(1, width // HEAD_WIDTH)
    if width % heads or (width // heads) % 2:
        raise BadInput(
            f"architecture.width {width} should be an even multiple of architecture.heads {heads}; change one of them"
        )
    return Shape(dial.depth, width, heads, options.ffn or ffn_of_width(width), vocab_size, context)


def _recipe(state: State) -> dict[str, float]:
    """Return the settings of the training that the dial and a search found, the search's first.

    The training takes those that its options leave open.
    """
    found = state.facts.get("hyperparameters", {})
    searched = {n: found[n] for n in ("matrix_lr", "other_lr", "batch", "warmup", "weight_decay") if n in found}
    return {**state.facts.get("dial", {}).get("recipe", {}), **searched}


def _pretrained(folder: Path, vocab_size: int, context: int) -> State:
    config: Any = read_config(folder)
    limit = int(getattr(config, "max_position_embeddings", None) or context)
    if context > limit:
        raise BadInput(
            f"preprocessing.context {context} is more than the {limit} tokens that {folder} reads; set a smaller one"
        )
    if vocab_size > config.vocab_size:
        raise BadInput(
            f"the tokenizer in {folder} has {vocab_size} tokens, the model only {config.vocab_size}; "
            "give the tokenizer that belongs to the model"
        )
    depth, width = int(config.num_hidden_layers), int(config.hidden_size)
    shape = {"type": config.model_type, "depth": depth, "width": width, "heads": int(config.num_attention_heads)}
    return State().add(pretrained=str(folder), shape=shape | {"vocab_size": int(config.vocab_size), "context": context})


def _take(context: Context, state: State, folder: Path) -> State:
    """Load the model once to check that it is complete and to count its weights, then copy its files."""
    model: Any = read_model(folder)
    counted = sum(parameter.numel() for parameter in model.parameters())
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    matrices = counted - embedding.numel() + (embedding.numel() if head is None or head.weight is embedding else 0)
    del model
    shape = state.facts["shape"]
    forward = 2 * matrices + 4 * shape["depth"] * shape["context"] * shape["width"]
    log.info("%d parameters in %d blocks of width %d, pretrained", counted, shape["depth"], shape["width"])
    with TemporaryDirectory(dir=context.scratch) as taken:
        take_files(folder, Path(taken))
        for path in context.lake.folder(context.require("preprocessing/tokenizer")).iterdir():
            (Path(taken) / path.name).unlink(missing_ok=True)
            link_or_copy(path, Path(taken) / path.name)
        ref = context.lake.put_folder(
            "architecture/model", Path(taken), {"parameters": counted, "pretrained": folder.resolve().name}
        )
    return state.add(
        {"architecture/model": ref},
        parameters=counted,
        forward_flops_per_token=forward,
        training_flops_per_token=3 * forward,
        weights_mb=4 * counted / 2**20,
    )
