"""Fine-tuning: adapt the model to a second domain or to a file of rows; gain and forgetting of each method."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from typing import Any, get_args

from infra.lake import Ref, sha256
from tasks.finetuning.options import Options, TuningMethod
from tasks.finetuning.preference import tune_preferences
from tasks.finetuning.target import Target, domain_windows, read_target
from tasks.model.adapters import Adapter, AdapterKind, add_adapter, count_trainable, merge, save_adapter
from tasks.model.causal import load_model, load_tokenizer, save_model
from tasks.model.examples import DATA, ROWS, store_examples
from tasks.model.mixture import mixed
from tasks.model.recipe import Recipe
from tasks.model.score import bits_per_byte
from tasks.model.threads import torch_threads
from tasks.model.training.checkpoint import Place
from tasks.model.training.loop import Run, Watch, train
from tasks.model.windows import Windows
from tasks.sections import Chart, Section, line
from tasks.stage import Context, Road, State

log = logging.getLogger("ketcycle.finetuning")

Scores = dict[str, dict[str, float]]


def measure(context: Context, _: State) -> State:
    """Measure the model before fine-tuning, and train the methods to compare with."""
    options = context.parsed(Options)
    with torch_threads(options.threads):
        target = read_target(context, options)
        before = _scores(context, _model(context), options, target)
        state = State().add(before=before, target=target.name)
        if target.about:
            state = state.add(rows=target.about)
        for method in options.beside:
            tuned = _tune(context, options, target, method)
            after = _scores(context, tuned.model, options, target)
            state = _with_adapter(state, tuned).add(**{method: _figures(options, before, after, target.name, tuned)})
        return state


def adapt(context: Context, state: State) -> State:
    """Adapt the model by the chosen method, merge it, and store adapter and merged model in the lake."""
    options = _settled(context.parsed(Options), state)
    with torch_threads(options.threads):
        target = read_target(context, options)
        tuned = _tune(context, options, target, options.method)
        after = _scores(context, tuned.model, options, target)
        figures = _figures(options, state.facts["before"], after, target.name, tuned)
        log.info("gain on %s %.3f, forgetting on %s %.3f bits per byte", target.name, figures["gain"], options.base,
                 figures["forgetting"])  # fmt: skip
        learned = [_described(DATA, options.data, target.about["rows"])] if target.about else []
        ref = _save(context, tuned.model, {"domain": target.name, "method": options.method, "learned": learned})
        Place.of(context).clear()
        state = _with_adapter(state, tuned).add({"finetuning/model": ref}, **{options.method: figures})
        if target.about:
            splits = {"train": target.train, "validation": target.validation, "test": target.test}
            state = state.add({ROWS: store_examples(context.lake, ROWS, splits, {"rows": target.about["rows"]})})
        if tuned.adapter:
            state = state.add({"finetuning/adapter": tuned.adapter})
        return state.add(method=options.method)


def align(context: Context, state: State) -> State:
    """Tune the adapted model on preferences, where a file of them is given, and store the result as the model."""
    options = context.parsed(Options)
    if not options.preferences:
        return state
    with torch_threads(options.threads):
        folder = context.lake.folder(state.refs["finetuning/model"])
        model, figures = tune_preferences(load_model(folder), load_tokenizer(folder), options, context)
        target = read_target(context, options)
        after = _scores(context, model, options, target)
    figures |= {"after": after, **_change(options, state.facts["before"], after, target.name)}
    log.info("preferred answers are likelier than at the start in %.0f%% of %d pairs held out",
             100 * figures["accuracy"], figures["held_out"])  # fmt: skip
    meta = context.lake.meta(state.refs["finetuning/model"])
    learned = [*meta.get("learned", ()), _described("preferences", options.preferences, figures["pairs"])]
    ref = _save(context, model, {**meta, "learned": learned})
    return state.add({"finetuning/model": ref}, preference=figures)


def headline(state: State) -> str:
    """Return the result of the stage in one line."""
    method = state.facts.get("method", "lora")
    chosen = state.facts[method]
    others = [f"{_title(name)}: {f['gain']:.3f} and {f['forgetting']:.3f}" for name, f in _methods(state.facts).items()
              if name != method]  # fmt: skip
    beside = f" ({'; '.join(others)})" if others else ""
    if "gain" in (preference := state.facts.get("preference", {})):
        beside += f"; after preference tuning {preference['gain']:.3f} and {preference['forgetting']:.3f}"
    return (
        f"{_title(method)}: {chosen['gain']:.3f} bits per byte gained on the new domain, {chosen['forgetting']:.3f} "
        f"forgotten on the first{beside}"
    )


def sections(facts: Mapping[str, Any]) -> tuple[Section, ...]:
    """Return the tables and charts of the result."""
    figures = {_title(name): values for name, values in _methods(facts).items()}
    if not figures:
        return ()
    names = ("gain", "forgetting", "trained_weights", "trained_share", "tokens", "tokens_per_s")
    rows = tuple((title, *(values.get(name) for name in names)) for title, values in figures.items())
    sentence = (
        "Bits per byte of the test text: gain on the new domain, higher is better; forgetting on the first domain, "
        "lower is better."
    )
    header = ("method", "gain", "forgetting", "trained weights", "share of the weights", "tokens", "tokens/s")
    found: tuple[Section, ...] = (Section("Gain and forgetting", sentence, header, rows),)
    if about := facts.get("rows"):
        read = tuple((name.replace("_", " "), value) for name, value in about.items())
        found += (Section("Rows of the file", "Loss counts on answers only.", ("figure", "value"), read),)
    if curves := tuple(one for title, values in figures.items() for one in line(title, values.get("curve", ()))):
        chart = Chart("tokens seen", "bits per byte (validation text of the new domain)", curves)
        found += (Section("Fine-tuning curve", chart=chart),)
    found += _decided(facts)
    if preference := facts.get("preference"):
        kept = ("pairs", "held_out", "steps", "loss", "accuracy", "gain", "forgetting")
        read = tuple((name.replace("_", " "), preference[name]) for name in kept if name in preference)
        sentence = (
            "Direct preference optimisation. Of the pairs held out: the loss, .693 before; accuracy, the share whose "
            "preferred answer became likelier against the other one. Gain and forgetting are those of both trainings."
        )
        found += (Section("Preference tuning", sentence, ("figure", "value"), read),)
    return found


def _decided(facts: Mapping[str, Any]) -> tuple[Section, ...]:
    """Return what the decisions of the stage came to."""
    found: tuple[Section, ...] = ()
    header = ("figure", "value")
    if low_rank := facts.get("low_rank"):
        sentence = (
            f"{low_rank['site']} as a product of rank {low_rank['rank']}; the model itself is left as it is. "
            "The weight error is a multiple of the least possible one (Eckart and Young)."
        )
        names = ("stored_share", "output_error", "weight_error", "before", "after")
        titles = (
            "share of the stored values",
            "relative output error",
            "weight error",
            "bits per byte before",
            "after",
        )
        found += (Section("Low-rank projection", sentence, header, _named(titles, names, low_rank)),)
    if policy := facts.get("tuning_policy"):
        sentence = "The run with the highest mean reward: gain on the new domain minus loss on the first one."
        kept = tuple(name for name in ("base_share", "rank", "adapter_lr", "episodes") if name in policy)
        said = tuple(name.replace("_", " ").replace("adapter lr", "learning rate") for name in kept)
        curve = line("reward of a run", policy["rewards"])
        chart = Chart("fine-tuning run", "bits per byte", curve) if curve else None
        found += (Section("Settings of the fine-tuning", sentence, header, _named(said, kept, policy), chart),)
    if site := facts.get("site"):
        sentence = f"Adapter of {site['name']}; kept if it lowers the loss of held-out text."
        said = ("bits per byte before", "bits per byte after", "trained weights")
        found += (Section("Adapter of one projection", sentence, header,
                          _named(said, ("before", "after", "trained"), site)),)  # fmt: skip
    if head := facts.get("head"):
        sentence = "Which domain a short held-out passage comes from, by a classifier of few labels."
        said = ("share of right labels", "labels", "tested")
        found += (Section("Few-shot head", sentence, header, _named(said, ("right", "labels", "tested"), head)),)
    return found


def _named(said: tuple[str, ...], names: tuple[str, ...], values: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple((title, values[name]) for title, name in zip(said, names, strict=True))


ROAD: Road = (measure, "low_rank", "tuning_policy", adapt, "adapter", align, "head", "distillation")


@dataclass(frozen=True)
class _Tuned:
    """A model adapted by one method, merged, with the adapter in the lake."""

    method: str
    model: Any
    run: Run
    counts: tuple[int, int]
    adapter: Ref | None


def _methods(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: facts[name] for name in get_args(TuningMethod) if name in facts}


def _title(method: str) -> str:
    titles = {"full": "full fine-tuning", "lora": "LoRA", "rslora": "rsLoRA", "dora": "DoRA", "pissa": "PiSSA"}
    return titles.get(method, "RoAd" if method == "road" else "VeRA" if method == "vera" else method.upper())


def _tune(context: Context, options: Options, target: Target, method: TuningMethod) -> _Tuned:
    model = _model(context)
    if method != "full":
        kind: AdapterKind = method
        adapter = Adapter(kind, options.rank, options.alpha, options.dropout)
        model = add_adapter(model, adapter, context.seed)
    counts = count_trainable(model)
    log.info("%s trains %d of %d weights", _title(method), *counts)
    recipe = options.recipe(context.seed, method, target.tokens)
    place = Place.of(context, method) if recipe.checkpoint_every else None
    run = train(
        model, _training_text(context, options, target, recipe), recipe, Watch(target.validation, log=log), place
    )
    if method == "full":
        return _Tuned(method, model, run, counts, None)
    with TemporaryDirectory(dir=context.scratch) as saved:
        save_adapter(model, Path(saved), base=str(context.require("training/model")))
        about = {"method": method, "rank": options.rank, "target": target.name}
        ref = context.lake.put_folder("finetuning/adapter", Path(saved), about)
    return _Tuned(method, merge(model), run, counts, ref)


def _settled(options: Options, state: State) -> Options:
    """Return the options with the settings that the decision `tuning_policy` found, where they were left open."""
    found = state.facts.get("tuning_policy", {})
    names = {"base_share", "rank", "adapter_lr"} & found.keys() - options.model_fields_set
    return options.model_copy(update={name: found[name] for name in names})


def _training_text(context: Context, options: Options, target: Target, recipe: Recipe) -> Windows:
    if not options.base_share:
        return target.train
    count = recipe.reach(target.train.context)
    base = domain_windows(context, options.base, "train", count)
    return mixed(target.train, base, options.base_share, count)


def _with_adapter(state: State, tuned: _Tuned) -> State:
    """Note the adapter under the name of its method, so that all of them can be put on one base."""
    return state.add({f"finetuning/adapter-{tuned.method}": tuned.adapter}) if tuned.adapter else state


def _described(domain: str, path: str, rows: int) -> dict[str, Any]:
    """Return what the model card says of a file that the model learned from."""
    file = Path(path).expanduser()
    return {"domain": domain, "source": file.name, "documents": rows, "bytes": file.stat().st_size,
            "sha256": sha256(file)}  # fmt: skip


def _save(context: Context, model: Any, meta: Mapping[str, Any]) -> Ref:
    with TemporaryDirectory(dir=context.scratch) as folder:
        save_model(model, Path(folder))
        copytree(context.lake.folder(context.require("preprocessing/tokenizer")), folder, dirs_exist_ok=True)
        return context.lake.put_folder("finetuning/model", Path(folder), meta)


def _model(context: Context) -> Any:
    return load_model(context.lake.folder(context.require("training/model")))


def _scores(context: Context, model: Any, options: Options, target: Target) -> Scores:
    def base(split: str) -> float:
        return bits_per_byte(model, domain_windows(context, options.base, split, options.evaluation_windows))

    return {
        target.name: {
            "validation": bits_per_byte(model, target.validation),
            "test": bits_per_byte(model, target.test),
        },
        options.base: {split: base(split) for split in ("validation", "test")},
    }


def _figures(options: Options, before: Scores, after: Scores, target: str, tuned: _Tuned) -> dict[str, Any]:
    """Return gain and forgetting on the test splits in bits per byte; large gain and small forgetting are good."""
    return {
        "after": after,
        **_change(options, before, after, target),
        "trained_weights": tuned.counts[0],
        "trained_share": tuned.counts[0] / tuned.counts[1],
        "tokens": tuned.run.tokens,
        "tokens_per_s": tuned.run.tokens_per_s,
        "resumed_at": tuned.run.resumed_at,
        "curve": [[int(row["tokens"]), row["bits_per_byte"]] for row in tuned.run.history if "bits_per_byte" in row],
    }


def _change(options: Options, before: Scores, after: Scores, target: str) -> dict[str, float]:
    return {
        "gain": before[target]["test"] - after[target]["test"],
        "forgetting": after[options.base]["test"] - before[options.base]["test"],
    }
