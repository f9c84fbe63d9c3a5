"""Inference: prune the model, let it recover, register it, and see that a server answers with it."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from shutil import copytree, rmtree
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from transformers import AutoConfig

from infra import events
from infra.errors import BadInput
from infra.lake import Ref
from infra.tracking import register_model
from tasks.contract import Subtask
from tasks.inference.pruning.arms import PRUNING
from tasks.inference.pruning.blocks import without_blocks
from tasks.inference.pruning.problem import Pruning, Removal, examine_surrogate, expected_s, loss_curve, prove_optimum
from tasks.inference.pruning.units import BLOCK, Layout, Unit, choose_units, whole_blocks, zero_units
from tasks.inference.pruning.variables import least_harmful, leave_one_out
from tasks.inference.pruning.walk import unit_sizes
from tasks.model.causal import load_model, save_model
from tasks.model.score import bits_per_byte
from tasks.model.threads import torch_threads
from tasks.model.train import Recipe, Watch, train
from tasks.model.windows import Windows, count_windows, read_windows
from tasks.serving.client import complete, running_server
from tasks.serving.compact import Kept, active_parameters, compact, expand
from tasks.stage import Context, State

log = logging.getLogger("ketcycle.inference")

SUBTASKS: tuple[Subtask[Any, Any], ...] = (PRUNING,)
SOURCES = ("finetuning/model", "training/model")
ANNOUNCED_S = 120.0  # longer decisions are announced


class Options(BaseModel):
    """Settings of the stage; the defaults are the demo profile.

    Attributes:
        domains: domains that calibrate and judge; those without text are left out.
        parts: what can be removed: `heads` (and feed-forward channels, of a Llama-style decoder) or whole `blocks`.
        units: removable parts at most; of more blocks the least harmful ones are chosen.
        share: share of them that goes.
        allowance: bits per byte that the removal may cost before leaving the model alone is better.
        calibration_tokens: text that the methods see; under 16,000 noise is as large as the differences.
        selection_windows: text that they are judged on.
        surrogate_tokens: text on which the pairwise expansion is compared with the true loss, 0 = not compared.
        surrogate_masks: random subsets of that comparison.
        prove: whether the loss without every possible subset is evaluated, so that arms are held against the optimum.
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
    parts: Literal["heads", "blocks"] = "heads"
    units: int = Field(14, ge=2, le=64)
    share: float = Field(1 / 3, gt=0, lt=1)
    allowance: float = Field(0.1, ge=0)
    calibration_tokens: int = Field(16_384, ge=1)
    selection_windows: int = Field(64, ge=1)
    surrogate_tokens: int = Field(2_048, ge=0)
    surrogate_masks: int = Field(40, ge=3)
    prove: bool = False
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


def prepare(context: Context) -> State:
    """Cut the model into units and measure it as it is."""
    options = context.parsed(Options)
    source = _source(context)
    folder = context.lake.folder(source)
    with torch_threads(options.threads):
        began, before = time.monotonic(), _scores(context, load_model(folder))
        tokens_per_s = _scored_tokens(context, options) / (time.monotonic() - began)
        state = State().add(source=str(source), bits_per_byte={"before": before})
        units, why = _units(context, options)
        state = state.add(units=[str(unit) for unit in units], cannot_prune=why)
        if not units:
            log.warning("nothing to prune: %s", why)
            return state
        k = _k(options, units)
        log.info("%d units of %d blocks, %d of them go", len(units), len({u.layer for u in units}), k)
        state = state.add(unit_parameters=unit_sizes(folder, units), k=k)
        expected = expected_s(_problem(context, options, units, options.calibration_tokens), tokens_per_s)
        if not options.prove:
            del expected["proof of the optimum"]
        if sum(expected.values()) > ANNOUNCED_S:
            said = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in expected.items())
            log.info("expected at %.0f tokens/s: %s", tokens_per_s, said)
        if options.surrogate_tokens:
            problem = _problem(context, options, units, options.surrogate_tokens)
            rng = np.random.default_rng([context.seed, 1])
            state = state.add(surrogate=examine_surrogate(problem, options.surrogate_masks, rng))
        if options.prove:
            state = state.add(optimum=prove_optimum(_problem(context, options, units, options.calibration_tokens)))
    return state


def pose(context: Context, state: State, subtask: str) -> Pruning | None:
    """Return which units there are to choose from, or None for a model that cannot be cut."""
    if subtask != PRUNING.name:
        raise KeyError(f"inference has no subtask {subtask!r}")
    options = context.parsed(Options)
    units, _ = _units(context, options)
    if not units:
        return None
    problem = _problem(context, options, units, options.calibration_tokens)
    return replace(problem, optimum=state.facts.get("optimum", {}).get("bits_per_byte"))


def apply(context: Context, state: State, subtask: str, solution: Removal) -> State:
    """Note what goes; the weights are changed at publishing."""
    if subtask != PRUNING.name:
        raise KeyError(f"inference has no subtask {subtask!r}")
    gone = [state.facts["units"][index] for index in solution]
    log.info("removing %s", ", ".join(gone) or "nothing")
    return state.add(removed=list(solution), removed_units=gone)


def publish(context: Context, state: State) -> State:
    """Remove, recover, save, register, and ask the server for a completion."""
    options = context.parsed(Options)
    with torch_threads(options.threads):
        state = _prune_and_save(context, state, options)
    ref = state.refs["inference/model"]
    folder = context.lake.folder(ref)
    if options.register_model:
        meta = {"ketcycle_run": context.run_id, "lake": str(ref), "source": str(state.facts["source"])}
        version = register_model(options.name, folder, options.alias, meta)
        registered = {"name": options.name, "version": version, "source": str(ref), "run_id": context.run_id}
        events.emit("model.registered", registered, once=str(version))
        state = state.add(registered={"name": options.name, "version": version, "alias": options.alias})
        log.info("registered %s version %d as %s", options.name, version, options.alias)
    return state.add(served=_serve(context, folder, ref)) if options.serve else state


def headline(state: State) -> str:
    """Return the result of the stage in one line."""
    if not state.facts.get("removed"):
        return "nothing removed"
    figures, share = state.facts["bits_per_byte"], state.facts["parameters"]["removed_share"]
    named = ", ".join(f"{name.replace('_', ' ')} {statistics.mean(s.values()):.3f}" for name, s in figures.items())
    return f"{len(state.facts['removed'])} units ({share:.1%} of the weights) removed; bits per byte {named}"


def _prune_and_save(context: Context, state: State, options: Options) -> State:
    folder = context.lake.folder(_source(context))
    units, _ = _units(context, options)
    gone = [units[index] for index in state.facts.get("removed", ())]
    full = load_model(folder)
    whole, length = active_parameters(full), _context_length(context)
    figures: dict[str, Any] = dict(state.facts["bits_per_byte"])
    model, kept = _remove(folder, gone)
    speed = _prefill_speed(full, model, options.speed_s, length)
    curve: list[tuple[int, float]] = []
    if gone:
        curve = loss_curve(_problem(context, options, units, options.calibration_tokens), state.facts["removed"])
        figures["pruned"] = _scores(context, model)
        if options.recovery_tokens:
            figures |= _recover(context, options, model, folder)
    if kept:
        expand(model, kept, full)
    ref = _save(context, full if kept else model, state.facts.get("removed", ()))
    for left in context.scratch.glob("checkpoints-*"):  # three times the weights each, and of no use any more
        rmtree(left)
    log.info("bits per byte: %s", "; ".join(f"{name} {_line(scores)}" for name, scores in figures.items()))
    active = active_parameters(model)
    return state.add(
        {"inference/model": ref},
        bits_per_byte=figures,
        pruning_curve=curve,
        parameters={"stored": whole, "active": active, "removed_share": 1 - active / whole},
        prefill_tokens_per_cpu_s=speed,
        weights_bytes={"before": _weights_bytes(folder), "after": _weights_bytes(context.lake.folder(ref))},
        # One width for all blocks is all that the format knows: heads and channels leave zeros in the file.
        stored_as=(
            "zeros in the shape of the source; taken out when loaded by the server" if kept else "without the blocks"
        ),
    )


def _remove(folder: Path, gone: list[Unit]) -> tuple[Any, tuple[Kept, ...]]:
    """Return the model without some units, and for heads and channels what is left of each block."""
    model = load_model(folder)
    if gone and gone[0].part == BLOCK:
        return without_blocks(model, [unit.layer for unit in gone]), ()
    if gone:
        zero_units(model, gone)
    return model, compact(model)


def _recover(context: Context, options: Options, model: Any, folder: Path) -> dict[str, Any]:
    """Train the pruned model, and the unpruned one with the same arithmetic, and score both."""
    control = load_model(folder)
    ratio = _flops_per_token(model) / _flops_per_token(control)
    _freeze_empty(model)
    scores = {}
    for name, trained, tokens in (
        ("recovered", model, options.recovery_tokens),
        ("unpruned_same_compute", control, max(1, round(options.recovery_tokens * ratio))),
    ):
        recipe = Recipe(
            tokens=tokens,
            batch=options.batch,
            matrix_lr=options.matrix_lr,
            other_lr=options.other_lr,
            muon=options.muon,
            seed=context.seed,
            threads=options.threads,
        )
        windows = _mixed(context, options, "train", recipe.reach(_context_length(context)))
        train(trained, windows, recipe, Watch(log=log), context.scratch / f"checkpoints-{name}")
        scores[name] = _scores(context, trained)
    return scores


def _save(context: Context, model: Any, removed: Sequence[int]) -> Ref:
    from tasks.serving.pyfunc import add_mlflow_files  # mlflow takes seconds to import

    source = _source(context)
    with TemporaryDirectory(dir=context.scratch) as folder:
        copytree(context.lake.folder(_tokenizer(context)), folder, dirs_exist_ok=True)
        save_model(model, Path(folder))
        add_mlflow_files(Path(folder))
        meta = {"source": str(source), "removed": list(removed)}
        return context.lake.put_folder("inference/model", Path(folder), meta)


def _weights_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _serve(context: Context, folder: Path, ref: Ref) -> dict[str, Any]:
    """Start the server as a user would and ask it once; the request is logged under a name of its own."""
    prompt = _prompt(context)
    began = time.monotonic()
    with running_server(folder, context.home, f"{context.run_id}-{context.stage}", version=ref.version) as url:
        ready_s = time.monotonic() - began
        answer = complete(url, prompt, max_tokens=24, label="check")
    choice = answer["choices"][0]
    log.info("the server answered %r", choice["text"])
    return {
        "prompt": prompt,
        "text": choice["text"],
        "finish_reason": choice["finish_reason"],
        "usage": answer["usage"],
        "model_version": answer["system_fingerprint"],
        "ready_s": ready_s,
    }


def _source(context: Context) -> Ref:
    for name in SOURCES:
        if name in context.inputs:
            return context.inputs[name]
    raise BadInput(f"inference reads {' or '.join(SOURCES)}, not there yet; run training before")


def _shards(context: Context) -> Ref:
    if "preprocessing/shards" not in context.inputs:
        raise BadInput("inference reads preprocessing/shards, not there yet; run preprocessing before")
    return context.inputs["preprocessing/shards"]


def _tokenizer(context: Context) -> Ref:
    if "preprocessing/tokenizer" not in context.inputs:
        raise BadInput("inference reads preprocessing/tokenizer, not there yet; run preprocessing before")
    return context.inputs["preprocessing/tokenizer"]


def _units(context: Context, options: Options) -> tuple[tuple[Unit, ...], str]:
    """Return the units of the model, or none and the reason; a build that cannot be cut finer is cut in blocks."""
    folder = context.lake.folder(_source(context))
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    try:
        if options.parts == "heads":
            return choose_units(Layout.of(config), options.units), ""
    except ValueError as error:
        log.info("%s; whole blocks are the units", error)
    depth = int(config.num_hidden_layers)
    if depth < 2:
        return (), f"a model of {depth} block has nothing that could go"
    if depth <= options.units:
        return whole_blocks(range(depth)), ""
    text = _calibration(context, options, options.calibration_tokens)
    losses = leave_one_out(folder, depth, text, options.threads, context.scratch / "losses")
    return whole_blocks(least_harmful(losses, options.units)), ""


def _k(options: Options, units: tuple[Unit, ...]) -> int:
    return min(max(1, round(options.share * len(units))), len(units) - 1)


def _problem(context: Context, options: Options, units: tuple[Unit, ...], tokens: int) -> Pruning:
    return Pruning(
        model=context.lake.folder(_source(context)),
        units=units,
        k=_k(options, units),
        calibration=_calibration(context, options, tokens),
        selection=_mixed(context, options, "validation", options.selection_windows),
        allowance=options.allowance,
        threads=options.threads,
    )


def _calibration(context: Context, options: Options, tokens: int) -> Windows:
    """Return evenly spaced training windows of at least as many tokens, where there are as many."""
    return _mixed(context, options, "train", max(1, -(-tokens // _context_length(context))))


def _domains(context: Context, options: Options, split: str) -> dict[str, int]:
    """Return the domains that have windows in a split, and how many."""
    counts = count_windows(context.lake, _shards(context))
    found = {domain: counts[domain, split] for domain in options.domains if counts.get((domain, split))}
    if not found:
        there = ", ".join(sorted("/".join(pair) for pair in counts)) or "nothing"
        raise BadInput(f"there is no {split} text of {', '.join(options.domains)}, only {there}; set inference.domains")
    return found


def _mixed(context: Context, options: Options, split: str, limit: int | None) -> Windows:
    """Return the same number of windows of each domain, in turns."""
    counts = _domains(context, options, split)
    count = min(*counts.values(), -(-limit // len(counts)) if limit else 1 << 62)
    parts = [read_windows(context.lake, _shards(context), domain, split, count) for domain in counts]
    context_length = parts[0].tokens.shape[1]
    tokens = np.stack([part.tokens for part in parts], axis=1).reshape(-1, context_length)
    return Windows(tokens, np.stack([part.n_bytes for part in parts], axis=1).reshape(-1))


def _scores(context: Context, model: Any) -> dict[str, float]:
    options = context.parsed(Options)
    return {
        domain: bits_per_byte(
            model, read_windows(context.lake, _shards(context), domain, "test", options.evaluation_windows)
        )
        for domain in _domains(context, options, "test")
    }


def _scored_tokens(context: Context, options: Options) -> int:
    limit = options.evaluation_windows
    windows = sum(min(n, limit or n) for n in _domains(context, options, "test").values())
    return windows * _context_length(context)


def _line(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{domain} {value:.3f}" for domain, value in scores.items())


def _flops_per_token(model: Any) -> int:
    """Return twice the weights that a token meets, the output head included."""
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2 and "embed_tokens" not in name)
    tied = bool(model.config.tie_word_embeddings)
    return int(2 * (matrices + (model.get_input_embeddings().weight.numel() if tied else 0)))


def _freeze_empty(model: Any) -> None:
    """Keep what was removed from coming back: a head or channel that only holds the place has weights of zero."""
    for parameter in model.parameters():
        if not parameter.any():
            parameter.requires_grad_(False)


def _prefill_speed(full: Any, pruned: Any, seconds: float, length: int) -> dict[str, float]:
    """Return prompt tokens read per CPU second before and after, the median of turns."""
    rows = max(1, 512 // length)
    tokens = torch.arange(rows * length).view(rows, length) % int(full.config.vocab_size)
    runs: dict[str, list[float]] = {"before": [], "after": []}
    for _ in range(3):
        runs["before"].append(_tokens_per_cpu_s(full, tokens, seconds / 3))
        runs["after"].append(_tokens_per_cpu_s(pruned, tokens, seconds / 3))
    return {name: statistics.median(values) for name, values in runs.items()}


def _context_length(context: Context) -> int:
    return int(context.lake.meta(_shards(context))["context"])


def _tokens_per_cpu_s(model: Any, tokens: torch.Tensor, seconds: float) -> float:
    done, spent = -tokens.numel(), 0.0  # the first pass warms the caches
    with torch.inference_mode():
        while spent < seconds:
            began = time.process_time()
            model(input_ids=tokens, use_cache=False)
            spent += time.process_time() - began if done >= 0 else 0.0
            done += tokens.numel()
    return done / spent


def _prompt(context: Context) -> str:
    """Return the first words of a held-out document, as the user of this model may write."""
    if "preprocessing/holdout" in context.inputs:
        for batch in context.lake.scan(context.inputs["preprocessing/holdout"], columns=["split", "text"]):
            for row in batch.to_pylist():
                if row["split"] == "test" and row["text"].split():
                    return " ".join(row["text"].split()[:8])
    return "The"
