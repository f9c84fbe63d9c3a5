"""Training: train the model from scratch on the base domain, resumable, and compare it with references.

A pretrained model is not trained; it is scored on the held-out text of the run and on a text of the user.
"""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from infra.errors import BadInput
from infra.progress import publish_curve
from tasks.budget import joules_per_cpu_s
from tasks.model.causal import load_model, load_tokenizer, save_model, separator
from tasks.model.generation.generate import Sampling, complete
from tasks.model.scaling import rules
from tasks.model.score import bits_per_byte
from tasks.model.threads import torch_threads
from tasks.model.training.checkpoint import Place
from tasks.model.training.loop import Run, Watch
from tasks.sections import Chart, Section, line
from tasks.stage import Context, Road, State
from tasks.training.evaluate import WINDOW_TOKENS, cut_windows, score_text
from tasks.training.options import Options
from tasks.training.reference import compressed_bits_per_byte, ngram_bits_per_byte, uniform_bits_per_byte
from tasks.training.text import count_training, counts, options_of, read_split, read_training
from tasks.training.together import train_together

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("ketcycle.training")

SPLITS = ("validation", "test")
LOSS_POINTS = 200  # of the training loss in the report; the whole history is in the data set `training/curve`


def measure(context: Context, _: State) -> State:
    """Measure the bits per byte of the untrained model and of simpler text models on the held-out text."""
    options = options_of(context)
    _evaluated_text(options)  # checked before anything is computed
    with torch_threads(options.threads):
        return _measure(context, options)


def train_model(context: Context, state: State) -> State:
    """Train, from the last checkpoint if there is one, and store model and curve in the lake."""
    options = options_of(context)
    with torch_threads(options.threads):
        if options.model:
            return _score_and_pass_on(context, state, options)
        return _train_and_save(context, state, options)


def headline(state: State) -> str:
    """Return the result of the stage in one line."""
    before, after = state.facts["before"]["test"], state.facts["after"]["test"]
    zlib = state.facts["references"]["test"]["zlib"]
    if state.facts.get("pretrained"):
        return f"pretrained, not trained: test text {after:.3f} bits per byte (zlib: {zlib:.3f}){_beside(state)}"
    tokens = state.facts["tokens"]
    return f"test text {before:.3f} -> {after:.3f} bits per byte after {tokens:,} tokens (zlib: {zlib:.3f})"


def sections(facts: Mapping[str, Any]) -> tuple[Section, ...]:
    """Return the tables and charts of the result."""
    references = facts.get("references", {})
    found: tuple[Section, ...] = ()
    if splits := facts.get("after", {}):
        names = tuple(dict.fromkeys(name for values in references.values() for name in values))
        before = facts.get("before", {})
        rows = tuple(
            (split, before.get(split), after, *(references.get(split, {}).get(name) for name in names))
            for split, after in splits.items()
        )
        sentence = "Bits per byte of the model and of simpler models of the same text, lower is better."
        found += (Section("Held-out text", sentence, ("split", "before", "after", *names), rows),)
    if prediction := facts.get("prediction"):
        sentence = "The scaling rules were fitted on the shipped text; the residual is that of runs left out of a fit."
        rows = tuple(prediction.items())
        found += (
            Section("Prediction of the dial, bits per byte (validation text)", sentence, ("figure", "value"), rows),
        )
    if len(domains := facts.get("domains", {})) > 1:
        header = ("domain", "bits per byte")
        found += (Section("Test text by domain", "Lower is better.", header, tuple(domains.items())),)
    if curve := line("held-out bits per byte", facts.get("curve", ())):
        levels = tuple(references.get("validation", {}).items())
        chart = Chart("tokens seen", "bits per byte (validation text)", curve, levels)
        found += (Section("Training curve", "Dotted: what simpler models of the same text reach.", chart=chart),)
    if losses := line("training loss", facts.get("losses", ())):
        found += (Section("Training loss", chart=Chart("tokens seen", "nats per token", losses)),)
    if samples := list(facts.get("samples", {}).items()):
        picked = samples if len(samples) <= 3 else [samples[0], samples[len(samples) // 2], samples[-1]]
        found += (Section("What the model writes", header=("after step", "text"), rows=tuple(picked)),)
    return found


ROAD: Road = (measure, "batch_selection", "gradients", train_model)


def _measure(context: Context, options: Options) -> State:
    folder = context.lake.folder(context.require("architecture/model"))
    training = read_training(context, options, options.reference_windows)
    held_out = {split: read_split(context, options.domain, split, options.evaluation_windows) for split in SPLITS}
    model = load_model(folder)
    recipe = options.recipe(context.seed)
    vocab_size = int(model.config.vocab_size)
    references = {
        split: {
            "uniform": uniform_bits_per_byte(windows, vocab_size),
            **ngram_bits_per_byte(training, windows, vocab_size),
            **compressed_bits_per_byte(_texts(context, options.domain, split)),
        }
        for split, windows in held_out.items()
    }
    return State().add(
        before={split: bits_per_byte(model, windows) for split, windows in held_out.items()},
        references=references,
        held_out_windows={split: len(windows) for split, windows in held_out.items()},
        epochs=0.0 if options.model else recipe.reach(training.context) / count_training(context, options),
    )


def _train_and_save(context: Context, state: State, options: Options) -> State:
    tokenizer = load_tokenizer(context.lake.folder(context.require("preprocessing/tokenizer")))
    prompts = _prompts(context, options)

    def sample(model: PreTrainedModel) -> str:
        continued = (complete(model, tokenizer, prompt, Sampling(max_tokens=24)).text for prompt in prompts)
        return "\n".join(prompt + text for prompt, text in zip(prompts, continued, strict=True))

    place = Place.of(context) if options.checkpoint_every else None
    watch = Watch(
        read_split(context, options.domain, "validation", 64),
        log=log,
        publish=lambda rows: publish_curve(context.run_id, context.stage, rows),
        joules_per_cpu_s=joules_per_cpu_s(),
    )
    recipe = options.recipe(context.seed, separator(tokenizer), joules_per_cpu_s())
    model, run, shared = train_together(context, state, recipe, watch, sample if prompts else None, place)
    if run.stopped:
        log.info("stopped before the end of the budget: %s", run.stopped)
    write_history(context.scratch / "history.csv", run.history)
    with TemporaryDirectory(dir=context.scratch) as folder:
        save_model(model, Path(folder))
        copytree(context.lake.folder(context.require("preprocessing/tokenizer")), folder, dirs_exist_ok=True)
        trained = context.lake.put_folder("training/model", Path(folder), {"tokens": run.tokens})
    after = {
        split: bits_per_byte(model, read_split(context, options.domain, split, options.evaluation_windows))
        for split in SPLITS
    }
    log.info("held-out bits per byte: %s", ", ".join(f"{split} {value:.3f}" for split, value in after.items()))
    domains = {
        domain: bits_per_byte(model, read_split(context, domain, "test", options.evaluation_windows))
        for domain in sorted({domain for domain, split in counts(context) if split == "test"} - {options.domain})
    }
    if place:
        place.clear()
    return state.add(
        {"training/model": trained, "training/curve": context.lake.write("training/curve", curve(run.history))},
        after=after,
        domains={options.domain: after["test"], **domains},
        shared=shared,
        **_score_prediction(context, model, run.tokens, after["validation"]),
        **_facts(run),
    )


def _score_prediction(context: Context, model: PreTrainedModel, tokens: int, measured: float) -> dict[str, Any]:
    """Return what the scaling rules predict for the tokens that were read beside what was measured, if the dial chose.

    The rules are fitted on text of one kind: on other text the difference says how far it is from that.
    """
    dial = context.lake.meta(context.require("architecture/model")).get("dial")
    if not dial:
        return {}
    fitted = rules()
    read = fitted.fresh(tokens, dial["unique_tokens"])
    predicted = fitted.loss(sum(p.numel() for p in model.parameters()), read)
    log.info("bits per byte: predicted %.3f, measured %.3f (%+.3f)", predicted, measured, measured - predicted)
    scored = {"predicted": predicted, "measured": measured, "difference": measured - predicted}
    return {"prediction": {**scored, "residual": fitted.residual}}


def _score_and_pass_on(context: Context, state: State, options: Options) -> State:
    """Publish the pretrained model unchanged, with its scores on the user's text if there is one."""
    source = context.require("architecture/model")
    folder = context.lake.folder(source)
    state = state.add(
        {
            "training/model": context.lake.put_folder("training/model", folder, {"tokens": 0}, link=True),
            "training/curve": context.lake.write("training/curve", curve(())),
        },
        pretrained=True,
        after=state.facts["before"],
        tokens=0,
    )
    text = _evaluated_text(options)
    if text is None:
        return state
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    longest = int(getattr(model.config, "max_position_embeddings", None) or WINDOW_TOKENS)
    try:
        windows = cut_windows(text, tokenizer, min(WINDOW_TOKENS, longest))
    except ValueError as error:
        raise BadInput(f"{options.evaluate}: {error}; give a longer text") from error
    log.info("scoring %s: %d of %d windows", options.evaluate, options.evaluate_windows or len(windows), len(windows))
    figures = score_text(model, windows, options.evaluate_windows)
    state = state.add(evaluated={"file": Path(options.evaluate).name, "bytes_in_text": len(text.encode()), **figures})
    log.info("%s", _beside(state).lstrip("; "))
    return state


def _evaluated_text(options: Options) -> str | None:
    if not options.evaluate:
        return None
    if not options.model:
        raise BadInput("--evaluate needs a pretrained model; give --model too, or leave --evaluate out")
    path = Path(options.evaluate).expanduser()
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); give a text file") from error
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); give a text file") from error


def _beside(state: State) -> str:
    found = state.facts.get("evaluated")
    if not found:
        return ""
    return (
        f"; {found['file']}: perplexity {found['first_perplexity']:.2f} on the first {found['first_windows']} windows "
        f"of {found['window_tokens']:,}, {found['perplexity']:.2f} ({found['bits_per_byte']:.3f} bits per byte) on "
        f"{found['windows']} of {found['windows_in_text']} ({found['tokens']:,} tokens, {found['bytes']:,} bytes)"
    )


def curve(history: Sequence[Mapping[str, float]]) -> pa.Table:
    """Return the training curve as a table: `step`, `tokens`, `loss`, `gradient_norm`, `rate`, `bits_per_byte`."""
    columns = {name: pa.float64() for name in ("loss", "gradient_norm", "rate", "bits_per_byte")}
    schema = pa.schema([("step", pa.int64()), ("tokens", pa.int64()), *columns.items()])
    return pa.Table.from_pylist([dict(row) for row in history], schema=schema)


def write_history(path: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Write the training curve as CSV, for readers and plotting tools."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["step", "tokens", "loss", "gradient_norm", "rate", "bits_per_byte"])
        writer.writeheader()
        writer.writerows([dict(row) for row in history])


def _facts(run: Run) -> dict[str, Any]:
    return {
        "tokens": run.tokens,
        "tokens_per_s": run.tokens_per_s,
        "tokens_per_cpu_s": run.tokens_per_cpu_s,
        "precision": "bf16" if run.bf16 else "fp32",
        "device": run.device,
        "stopped": run.stopped,
        "resumed_at": run.resumed_at,
        "samples": {str(step): text for step, text in run.samples.items()},
        "curve": [[int(r["tokens"]), r["bits_per_byte"]] for r in run.history if "bits_per_byte" in r],
        "losses": _thinned([[int(r["tokens"]), r["loss"]] for r in run.history if "loss" in r]),
    }


def _thinned(points: Sequence[list[float]]) -> list[list[float]]:
    """Return at most about `LOSS_POINTS` of the points, evenly spaced, the last one included."""
    apart = -(-len(points) // LOSS_POINTS) or 1
    return list(points[::-1][::apart])[::-1]


def _texts(context: Context, domain: str, split: str) -> list[str]:
    return [
        row["text"]
        for batch in context.lake.scan(context.require("preprocessing/holdout"))
        for row in batch.to_pylist()
        if row["domain"] == domain and row["split"] == split
    ]


def _prompts(context: Context, options: Options) -> list[str]:
    texts = _texts(context, options.domain, "validation")[: options.samples]
    # The original white space is kept, because words joined by single spaces would differ from the training text.
    found = (re.match(rf"(?:\s*\S+){{1,{options.prompt_words}}}", text) for text in texts)
    return [match.group() for match in found if match]
