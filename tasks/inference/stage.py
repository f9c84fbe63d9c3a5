"""Inference: prune the model, train it to recover, register it, and check that a server answers with it."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from infra import events
from infra.energy.model import Coefficients
from infra.lake import Ref
from infra.tracking import register_model
from tasks.inference.bom import NAME, bill_of_materials
from tasks.inference.card import (
    base_model,
    data_sources,
    describe_energy,
    form_rows,
    model_card,
    read_rows,
    reading_joules,
)
from tasks.inference.exports import export, size
from tasks.inference.forms import choose_form, measure_forms
from tasks.inference.options import Options
from tasks.inference.pruning.blocks import without_blocks
from tasks.inference.pruning.options import Options as PruningOptions
from tasks.inference.pruning.problem import examine_surrogate, expected_s, prove_optimum
from tasks.inference.pruning.subtask import find_units, make_problem
from tasks.inference.pruning.units import BLOCK, Unit, zero_units
from tasks.inference.pruning.walk import unit_sizes
from tasks.inference.texts import SOURCES, context_length, domains_with, recovery_windows, rows_of
from tasks.model.causal import load_model, save_model
from tasks.model.recipe import Recipe
from tasks.model.score import bits_per_byte
from tasks.model.threads import torch_threads
from tasks.model.training.checkpoint import Place
from tasks.model.training.loop import Watch, train
from tasks.model.windows import read_windows
from tasks.sections import Chart, Section, Step, Waterfall, line
from tasks.serving.client import complete, running_server
from tasks.serving.compact import Kept, active_parameters, compact, expand
from tasks.stage import Context, Road, State

log = logging.getLogger("ketcycle.inference")

ANNOUNCED_S = 120.0  # longer decisions are announced
CALLED = {
    "before": "before",
    "pruned": "pruned",
    "recovered": "after training to recover",
    "unpruned_same_compute": "unpruned after as much training",
}


def measure(context: Context, _: State) -> State:
    """Divide the model into units and measure the unpruned model."""
    options = context.parsed(Options)
    source = context.require(*SOURCES)
    folder = context.lake.folder(source)
    with torch_threads(options.threads):
        began, before = time.monotonic(), _scores(context, load_model(folder))
        tokens_per_s = _scored_tokens(context, options) / (time.monotonic() - began)
        state = State().add(source=str(source), bits_per_byte={"before": before})
        pruning = context.parsed(PruningOptions, "pruning")
        units, why = find_units(context, pruning)
        state = state.add(units=[str(unit) for unit in units], cannot_prune=why)
        if not units:
            log.warning("nothing to prune: %s", why)
            return state
        problem = make_problem(context, pruning, units, pruning.calibration_tokens)
        log.info("%d units of %d blocks, %d of them go", len(units), len({u.layer for u in units}), problem.k)
        state = state.add(unit_parameters=unit_sizes(folder, units), k=problem.k)
        expected = expected_s(problem, tokens_per_s)
        if not pruning.prove:
            del expected["proof of the optimum"]
        if sum(expected.values()) > ANNOUNCED_S:
            said = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in expected.items())
            log.info("expected at %.0f tokens/s: %s", tokens_per_s, said)
        if pruning.surrogate_tokens:
            smaller = make_problem(context, pruning, units, pruning.surrogate_tokens)
            rng = np.random.default_rng([context.seed, 1])
            state = state.add(surrogate=examine_surrogate(smaller, pruning.surrogate_masks, rng))
        if pruning.prove:
            state = state.add(optimum=prove_optimum(problem))
    return state


def prune(context: Context, state: State) -> State:
    """Remove the chosen units, train the model to recover, and save it."""
    options = context.parsed(Options)
    with torch_threads(options.threads):
        return _prune_and_save(context, state, options)


def compare_forms(context: Context, state: State) -> State:
    """Measure the number formats of the model on this machine, and choose one; fp32 may be the choice."""
    options = context.parsed(Options)
    if not options.forms_s:
        return state
    domain = next(iter(domains_with(context, "test")))
    text = read_windows(
        context.lake, context.require("preprocessing/shards"), domain, "test", options.evaluation_windows
    )
    with torch_threads(options.threads):
        folder = context.lake.folder(state.refs["inference/model"])
        found = measure_forms(folder, text, options.forms_s, context.home / "machines")
    chosen = choose_form(found["rows"], options.forms_loss)
    log.info("number format with the least energy on this machine: %s", chosen)
    return state.add(forms={**found, "chosen": chosen, "domain": domain})


def export_forms(context: Context, state: State) -> State:
    """Write the model in the forms of `inference.exports`, for other runtimes."""
    wanted = context.parsed(Options).exports
    if not wanted:
        return state
    model, sizes = context.lake.folder(state.refs["inference/model"]), {}
    with TemporaryDirectory(dir=context.scratch) as folder:
        for form in wanted:
            sizes[form] = size(export(model, form, Path(folder) / form))
            log.info("exported as %s, %.1f MB", form, sizes[form] / 1e6)
        ref = context.lake.put_folder("inference/exports", Path(folder), {"model": str(state.refs["inference/model"])})
    return state.add({"inference/exports": ref}, exports=sizes)


def write_card(context: Context, state: State) -> State:
    """Write the model card: lineage, quality by domain, energy, licences; beside it the bill of materials."""
    options = context.parsed(Options)
    coefficients = Coefficients.load()
    base = base_model(context)
    energy = describe_energy(read_rows(context), coefficients, base)
    energy["reading"] = reading_joules(state.facts, options.ledger_tokens, coefficients)
    inputs = {name: str(ref) for name, ref in {**context.inputs, **state.refs}.items()}
    model = state.refs["inference/model"]
    about: dict[str, Any] = {
        "run": context.run_id,
        "inputs": inputs,
        "base": base,
        "sources": data_sources(context, recovered="recovered" in state.facts["bits_per_byte"]),
        "energy": energy,
        "version": str(model),
    }
    if base:
        about["given"] = context.lake.folder(context.inputs["architecture/model"])
    card = model_card(options.name, state.facts, about, options.licences)
    bill = bill_of_materials(
        options.name, state.facts, about, options.licences, context.lake.folder(model), datetime.now(UTC)
    )
    with TemporaryDirectory(dir=context.scratch) as folder:
        (Path(folder) / "README.md").write_text(card, encoding="utf-8")
        (Path(folder) / NAME).write_bytes(bill)
        ref = context.lake.put_folder("inference/card", Path(folder), {"model": str(model)})
    return state.add({"inference/card": ref}, lifecycle=energy)


def register(context: Context, state: State) -> State:
    """Register the model in MLflow under an alias that does not serve yet."""
    options = context.parsed(Options)
    if not options.register_model:
        return state
    ref = state.refs["inference/model"]
    card = str(state.refs.get("inference/card", ""))
    meta = {"ketcycle_run": context.run_id, "lake": str(ref), "source": str(state.facts["source"]), "card": card}
    meta["form"] = _form(state)  # what serves the model reads it
    version = register_model(options.name, context.lake.folder(ref), options.alias, meta)
    registered = {"name": options.name, "version": version, "source": str(ref), "run_id": context.run_id}
    events.emit("model.registered", registered, once=str(version))
    log.info("registered %s version %d as %s", options.name, version, options.alias)
    return state.add(registered={"name": options.name, "version": version, "alias": options.alias})


def serve(context: Context, state: State) -> State:
    """Start a server with the model and request a completion."""
    if not context.parsed(Options).serve:
        return state
    ref = state.refs["inference/model"]
    return state.add(served=_serve(context, context.lake.folder(ref), ref, _form(state)))


def _form(state: State) -> str:
    """Return the number format in which the model is served."""
    return str(state.facts.get("forms", {}).get("chosen", "fp32"))


def headline(state: State) -> str:
    """Return the result of the stage in one line."""
    if not state.facts.get("removed"):
        return "nothing removed"
    figures, share = state.facts["bits_per_byte"], state.facts["parameters"]["removed_share"]
    named = ", ".join(f"{statistics.mean(s.values()):.3f} {CALLED[name]}" for name, s in figures.items())
    return f"{len(state.facts['removed'])} units ({share:.1%} of the weights) removed; bits per byte: {named}"


def sections(facts: Mapping[str, Any]) -> tuple[Section, ...]:
    """Return the tables and charts of the result."""
    found: tuple[Section, ...] = ()
    if figures := facts.get("bits_per_byte"):
        domains = tuple(dict.fromkeys(domain for scores in figures.values() for domain in scores))
        rows = tuple(
            (name.replace("_", " "), *(scores.get(domain) for domain in domains)) for name, scores in figures.items()
        )
        sentence = f"Bits per byte of each domain, lower is better. {_what_went(facts)}"
        found += (Section("Pruning", sentence, ("model", *domains), rows),)
    if curve := line("bits per byte", facts.get("pruning_curve", ())):
        chart = Chart(
            "units removed, the least missed first", "bits per byte", curve, (("whole model", curve[0].points[0][1]),)
        )
        found += (Section("Pruning curve", chart=chart),)
    if forms := facts.get("forms"):
        table = form_rows(forms)
        sentence = (
            f"Measured on this machine, {forms['domain']} text; joules are modelled, with their 5 % and 95 % points. "
            f"Least energy at the quality of fp32: {forms['chosen']}."
        )
        found += (Section("Number formats", sentence, tuple(table[0]), tuple(tuple(row.values()) for row in table)),)
    if exports := facts.get("exports"):
        sentence = "The model in forms for other runtimes, in the lake as inference/exports."
        rows = tuple((name, round(count / 1e6, 1)) for name, count in exports.items())
        found += (Section("Exports", sentence, ("form", "MB"), rows),)
    if lifecycle := facts.get("lifecycle"):
        found += _ledger(lifecycle, facts)
    if served := facts.get("served"):
        rows = ((served["prompt"], served["text"]),)
        found += (Section("What the served model writes", header=("prompt", "completion"), rows=rows),)
    return found


def _ledger(lifecycle: Mapping[str, Any], facts: Mapping[str, Any]) -> tuple[Section, ...]:
    """Return the lifecycle ledger: joules of each part of making the model, and what each decision cost and saves."""
    entries, reading = lifecycle["entries"], lifecycle.get("reading") or {}
    if not entries:
        return ()
    sentence = lifecycle["sentence"]
    if forms := facts.get("forms"):
        served = forms["rows"][forms["chosen"]]["j_per_1000_written"][1]
        tokens = 1000 * lifecycle["made_j"][1] / served
        sentence += f" Writing 1,000 tokens takes {served:.3g} J; what making took is that of {tokens:,.0f} tokens."
    rows = tuple((stage, part, joules[1], joules[0], joules[2], cpu_s) for stage, part, joules, cpu_s in entries)
    header = ("stage", "part", "J", "5 %", "95 %", "CPU s")
    steps = tuple(Step(f"{stage}, {part}" if part == "quantum" else stage, part, joules[1])
                  for stage, part, joules, _ in entries)  # fmt: skip
    totals: tuple[tuple[str, int], ...] = (("spent in this run", len(steps)),)
    if reading:
        read = f"{reading['tokens']:,} tokens"
        steps += (Step(f"reading {read}", "serving", reading["before"]),
                  Step("saved by pruning", "serving", reading["after"] - reading["before"]))  # fmt: skip
        totals += ((f"with {read} read", len(steps)),)
    chart = Waterfall("J, medians, narrow boundary", steps, totals)
    found: tuple[Section, ...] = (Section("Lifecycle ledger", sentence, header, rows, chart),)
    if decided := lifecycle.get("decisions"):
        found += (_decisions(decided, reading),)
    return found


def _decisions(decided: Sequence[Mapping[str, Any]], reading: Mapping[str, Any]) -> Section:
    saved = {"pruning": reading["before"] - reading["after"]} if reading else {}
    names = ("stage", "decision", "chosen", "chosen_j", "classical_j", "quantum_j")
    rows = tuple((*(row[name] for name in names), saved.get(row["decision"])) for row in decided)
    tokens = f" over {reading['tokens']:,} tokens read" if reading else ""
    sentence = (
        f"Joules of the chosen arm, of the arms that ran beside it, and what the decision saves{tokens} by a smaller "
        "model; no other decision changes what serving takes. Modelled; circuits were simulated."
    )
    header = ("stage", "decision", "chosen", "J of the chosen arm", "J beside, classical", "J beside, quantum arms",
              "J saved in serving")  # fmt: skip
    return Section("What each decision cost and saves", sentence, header, rows)


def _what_went(facts: Mapping[str, Any]) -> str:
    """Return which units were removed."""
    removed = facts.get("removed_units", ())
    if not removed:
        return "Nothing was removed."
    share = facts.get("parameters", {}).get("removed_share")
    return f"Removed: {', '.join(removed)}" + (f": {share:.1%} of the weights." if share is not None else ".")


ROAD: Road = (measure, "pruning", prune, compare_forms, export_forms, write_card, register, serve)


def _prune_and_save(context: Context, state: State, options: Options) -> State:
    folder = context.lake.folder(context.require(*SOURCES))
    units, _ = find_units(context, context.parsed(PruningOptions, "pruning"))
    gone = [units[index] for index in state.facts.get("removed", ())]
    full = load_model(folder)
    whole, length = active_parameters(full), context_length(context)
    figures: dict[str, Any] = dict(state.facts["bits_per_byte"])
    model, kept = _remove(folder, gone)
    speed = _prefill_speed(full, model, options.speed_s, length)
    if gone:
        figures["pruned"] = _scores(context, model)
        if options.recovery_tokens:
            figures |= _recover(context, options, model, folder)
    if kept:
        expand(model, kept, full)
    ref = _save(context, full if kept else model, state.facts.get("removed", ()))
    Place.of(context).clear()  # large and no longer needed
    log.info("bits per byte: %s", "; ".join(f"{name} {_line(scores)}" for name, scores in figures.items()))
    active = active_parameters(model)
    return state.add(
        {"inference/model": ref},
        bits_per_byte=figures,
        parameters={"stored": whole, "active": active, "removed_share": 1 - active / whole},
        prefill_tokens_per_cpu_s=speed,
        weights_bytes={"before": _weights_bytes(folder), "after": _weights_bytes(context.lake.folder(ref))},
        # The format has one width for all blocks, so removed heads and channels remain as zeros in the file.
        stored_as=(
            "zeros in the shape of the source; taken out when loaded by the server" if kept else "without the blocks"
        ),
    )


def _remove(folder: Path, gone: list[Unit]) -> tuple[Any, tuple[Kept, ...]]:
    """Return the model without some units, and for heads and channels the remaining sizes of each block."""
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
        windows = recovery_windows(context, recipe.reach(context_length(context)))
        train(trained, windows, recipe, Watch(log=log), Place.of(context, name))
        scores[name] = _scores(context, trained)
    return scores


def _save(context: Context, model: Any, removed: Sequence[int]) -> Ref:
    from tasks.serving.pyfunc import add_mlflow_files  # mlflow takes seconds to import

    source = context.require(*SOURCES)
    with TemporaryDirectory(dir=context.scratch) as folder:
        copytree(context.lake.folder(context.require("preprocessing/tokenizer")), folder, dirs_exist_ok=True)
        save_model(model, Path(folder))
        add_mlflow_files(Path(folder))
        meta = {"source": str(source), "removed": list(removed)}
        return context.lake.put_folder("inference/model", Path(folder), meta)


def _weights_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _serve(context: Context, folder: Path, ref: Ref, form: str) -> dict[str, Any]:
    """Start the server as a user would and send one request, logged under a separate name."""
    prompt = _prompt(context)
    began = time.monotonic()
    run, options = f"{context.run_id}-{context.stage}", ["--form", form]
    with running_server(folder, context.home, run, version=ref.version, options=options) as url:
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


def _scores(context: Context, model: Any) -> dict[str, float]:
    limit, shards = context.parsed(Options).evaluation_windows, context.require("preprocessing/shards")
    texts = {name: read_windows(context.lake, shards, name, "test", limit) for name in domains_with(context, "test")}
    return {name: bits_per_byte(model, text) for name, text in {**texts, **rows_of(context, "test", limit)}.items()}


def _scored_tokens(context: Context, options: Options) -> int:
    limit = options.evaluation_windows
    windows = sum(min(n, limit or n) for n in domains_with(context, "test").values())
    return windows * context_length(context)


def _line(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{domain} {value:.3f}" for domain, value in scores.items())


def _flops_per_token(model: Any) -> int:
    """Return the FLOPs per token: twice the number of weights, the output head included."""
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2 and "embed_tokens" not in name)
    tied = bool(model.config.tie_word_embeddings)
    return int(2 * (matrices + (model.get_input_embeddings().weight.numel() if tied else 0)))


def _freeze_empty(model: Any) -> None:
    """Keep the weights of removed heads and channels at zero during recovery training."""
    for parameter in model.parameters():
        if not parameter.any():
            parameter.requires_grad_(False)


def _prefill_speed(full: Any, pruned: Any, seconds: float, length: int) -> dict[str, float]:
    """Return prompt tokens read per CPU second before and after, the median of alternating measurements."""
    rows = max(1, 512 // length)
    tokens = torch.arange(rows * length).view(rows, length) % int(full.config.vocab_size)
    runs: dict[str, list[float]] = {"before": [], "after": []}
    for _ in range(3):
        runs["before"].append(_tokens_per_cpu_s(full, tokens, seconds / 3))
        runs["after"].append(_tokens_per_cpu_s(pruned, tokens, seconds / 3))
    return {name: statistics.median(values) for name, values in runs.items()}


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
    """Return the first words of a held-out document as an example prompt."""
    if "preprocessing/holdout" in context.inputs:
        for batch in context.lake.scan(context.inputs["preprocessing/holdout"], columns=["split", "text"]):
            for row in batch.to_pylist():
                if row["split"] == "test" and row["text"].split():
                    return " ".join(row["text"].split()[:8])
    return "The"
