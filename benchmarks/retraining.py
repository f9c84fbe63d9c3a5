"""Retraining gated by drift against retraining on a calendar: `python -m benchmarks.retraining --trace FILE`.

A year of traffic is replayed to a small model of the smoke profile's shape. How many requests a week brings follows the
Azure LLM inference trace 2023 (FILE, Parquet with `timestamp`; CC-BY 4.0, Splitwise, ISCA 2024), cut into 52 parts.
What they ask are passages of real text: the Python documentation in the order of its pages, which is a slow natural
change, and planted changes: a quarter of the year in, docstrings of numerical libraries come to stay; for five weeks in
summer everybody asks for pages that the model knows (drift without harm); docstrings of frameworks grow from nothing to
a half; in autumn licences arrive overnight. Every policy sees the same requests, trains by the same recipe on the
requests of the last four weeks, and is judged each week before it retrains. CPU seconds are measured, joules modelled.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from flows.study.bank import gather_material
from infra import settings
from infra.energy.model import Coefficients
from infra.energy.usage import Usage
from tasks.architecture.config import Shape, build_model
from tasks.model.recipe import Recipe
from tasks.model.score import nll
from tasks.model.training.loop import train
from tasks.model.windows import Windows
from tasks.monitoring.watching.harm import estimate_performance
from tasks.monitoring.watching.standing import Standing
from tasks.monitoring.watching.states import Rules
from tasks.monitoring.watching.watch import watch_window
from tasks.preprocessing.bpe import train_bpe
from tasks.text.embeddings import embed
from tasks.text.windows import passages

WEEKS, HISTORY, MEAN_REQUESTS, WORDS, TOKENS = 52, 4, 50, 48, 64
BURN_IN = 2  # weeks after each training whose requests are the reference
FIRST, AGAIN = 60_000, 16_000  # tokens of the first training and of each retraining
RULES = Rules(level=0.01, minimum=20, debounce=2, recovery=2, cool_down=3)


@dataclass(frozen=True)
class Week:
    """The requests of a week.

    Attributes:
        windows: their first tokens, one row each.
        embeddings: (n, 256).
        harmful: whether it holds text of a kind that the first training had not seen.
    """

    windows: Windows
    embeddings: NDArray[np.float32]
    harmful: bool


def load_of(trace: Path) -> list[int]:
    """Return the requests of each week: the trace's own ups and downs, scaled to a mean."""
    seconds = pq.read_table(trace, columns=["timestamp"])["timestamp"].cast(pa.timestamp("us")).cast(pa.int64())
    counts = np.histogram(np.asarray(seconds), bins=WEEKS)[0]
    return [int(n) for n in np.clip(np.round(counts / counts.mean() * MEAN_REQUESTS), 24, 3 * MEAN_REQUESTS)]


def shares(week: int) -> dict[str, float]:
    """Return the share of each source that is not the documentation in a week."""
    found = {}
    if week >= 13:
        found["numerics"] = 0.35
    if week >= 28:
        found["frameworks"] = 0.5 * min(1.0, (week - 27) / 10)
    if week >= 44:
        found = {"licences": 0.5, "numerics": 0.2, "frameworks": 0.2}
    return {} if 20 <= week < 25 else found


def plan(counts: Sequence[int], rng: np.random.Generator) -> tuple[list[Week], Any]:
    """Return the weeks and the tokenizer, which is trained on the first four weeks."""
    with tempfile.TemporaryDirectory() as folder:
        material = gather_material(settings.load(home=Path(folder)))
    cut = {name: [p for text in texts for p in passages(text, WORDS)] for name, texts in material.texts.items()}
    other = {name: iter([cut[name][i] for i in rng.permutation(len(cut[name]))]) for name in cut}
    pages = cut["documentation"]
    texts = []
    for week, count in enumerate(counts):
        known = 20 <= week < 25
        # The pages move on with the year; in the five weeks they are those of the first month again.
        centre = (rng.uniform(0, HISTORY) if known else week + rng.random()) / WEEKS * len(pages)
        own = [pages[int(i) % len(pages)] for i in centre + rng.uniform(-0.04, 0.04, count) * len(pages)]
        at = 0
        for name, share in shares(week).items():
            for _ in range(round(share * count)):
                own[at], at = next(other[name]), at + 1
        texts.append(own)
    tokenizer = train_bpe(iter([t for own in texts[:HISTORY] for t in own]), 1024)
    weeks = []
    for week, own in enumerate(texts):
        encoded = [tokenizer.encode(text) for text in own]
        kept = [(e.ids[:TOKENS], e.offsets[:TOKENS], text) for e, text in zip(encoded, own, strict=True) if len(e.ids) >= TOKENS]  # noqa: E501  # fmt: skip
        tokens = np.array([ids for ids, _, _ in kept], np.int64)
        n_bytes = np.array([len(text[offsets[0][1] : offsets[-1][1]].encode()) for _, offsets, text in kept])
        windows = Windows(tokens, n_bytes)
        weeks.append(Week(windows, embed([text for _, _, text in kept]), bool(shares(week))))
    return weeks, tokenizer


@dataclass
class Books:
    """CPU seconds by purpose."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def spent(self, purpose: str) -> Iterator[None]:
        """Add what is spent meanwhile."""
        began = time.process_time()
        yield
        self.seconds[purpose] = self.seconds.get(purpose, 0.0) + time.process_time() - began


def table(weeks: Sequence[Week], likelihoods: Sequence[NDArray[np.float64]]) -> pa.Table:
    """Return requests as the log keeps them: embedding and mean log-likelihood."""
    vectors = np.vstack([week.embeddings for week in weeks])
    column = pa.array(list(vectors), pa.list_(pa.float32(), vectors.shape[1]))
    return pa.table({"embedding": column, "mean_logprob": np.concatenate(likelihoods)})


def likelihood(model: torch.nn.Module, week: Week) -> NDArray[np.float64]:
    """Return the mean log-likelihood per token of each request."""
    return np.asarray(-nll(model, week.windows) / week.windows.context)


Ask = Callable[[int, str | None], bool]


def replay(name: str, ask: Ask, watched: bool, first: torch.nn.Module, weeks: Sequence[Week]) -> dict[str, Any]:
    """Live through the year with one policy.

    Args:
        name: of the policy.
        ask: whether to retrain after a week, given its number and the event of the watch.
        watched: whether the policy needs the watch, whose work it then pays.
        first: the model at the beginning.
        weeks: the traffic.
    """
    model, books, standing = copy.deepcopy(first), Books(), Standing()
    # What a model was trained on it predicts too well: the reference is what it was asked first, as in drift-watch.
    first_asked: list[tuple[Week, NDArray[np.float64]]] = []
    bits, retrained, events = [], [], []
    for number in range(HISTORY, WEEKS):
        week, event = weeks[number], None
        began = time.process_time()
        values = likelihood(model, week)
        scoring = time.process_time() - began
        bits.append(float(-values.sum() * week.windows.context / (math.log(2) * week.windows.n_bytes.sum())))
        books.seconds["watching"] = books.seconds.get("watching", 0.0) + scoring * watched
        if watched and len(first_asked) < BURN_IN:
            first_asked.append((week, values))
        elif watched:
            with books.spent("watching"):
                quality = "mean_logprob" if name != "drift alone" else "none"
                reference, now = table(*zip(*first_asked, strict=True)), table([week], [values])
                found = watch_window(reference, now, standing, RULES, columns=["embedding"], quality=quality)
            standing, event = found.standing, found.event
            if event:
                events.append((number, event))
        if ask(number, event):
            retrained.append(number)
            latest = weeks[number - HISTORY + 1 : number + 1]
            tokens = np.vstack([w.windows.tokens for w in latest])
            with books.spent("retraining"):
                recipe = Recipe(tokens=AGAIN, batch=8, seed=number)
                train(model, Windows(tokens, np.concatenate([w.windows.n_bytes for w in latest])), recipe)
            first_asked, standing = [], Standing()
    return {"name": name, "bits": np.array(bits), "retrained": retrained, "events": events, "cpu_s": books.seconds}


POLICIES: dict[str, tuple[Ask, bool]] = {
    "never": (lambda _w, _e: False, False),
    "every 13 weeks": (lambda w, _e: w % 13 == 0, False),
    "every 4 weeks": (lambda w, _e: w % 4 == 0, False),
    "drift alone": (lambda _w, e: e == "drift.detected", True),
    "drift that harms": (lambda _w, e: e in ("drift.detected", "quality.regressed"), True),
}


def report(found: Sequence[dict[str, Any]]) -> None:
    """Print what each policy spent and held."""
    coefficients = Coefficients.load()
    never = next(row for row in found if row["name"] == "never")["bits"]
    header = ("policy", "retrained", "in weeks", "bits per byte, mean", "worst four weeks", "gain on never",
              "retraining CPU s", "watching CPU s", "J [p5, p95], modelled")  # fmt: skip
    sys.stdout.write("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|\n")
    for row in found:
        spent = [row["cpu_s"].get(purpose, 0.0) for purpose in ("retraining", "watching")]
        joules = coefficients.cpu_energy_j(Usage(cpu_s=sum(spent)), "narrow", "modelled")
        worst = np.convolve(row["bits"], np.full(4, 0.25), "valid").max()
        cells = (
            row["name"], len(row["retrained"]), " ".join(map(str, row["retrained"])) or "-",
            f"{row['bits'].mean():.3f}", f"{worst:.3f}", f"{(never - row['bits']).mean():.3f}",
            f"{spent[0]:.1f}", f"{spent[1]:.1f}",
            f"{joules.p50:.0f} [{joules.p5:.0f}, {joules.p95:.0f}]",
        )  # fmt: skip
        sys.stdout.write("| " + " | ".join(map(str, cells)) + " |\n")
    for row in found:
        if row["events"]:
            sys.stdout.write(f"\n{row['name']}: " + ", ".join(f"week {w} {e}" for w, e in row["events"]) + "\n")


def check_estimate(model: torch.nn.Module, weeks: Sequence[Week]) -> None:
    """Print the calibrated estimate of next-token accuracy beside what it really was, week by week."""

    def measured(week: Week) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        tokens = torch.from_numpy(week.windows.tokens)
        with torch.inference_mode():
            probabilities = model(input_ids=tokens[:, :-1], use_cache=False).logits.float().softmax(-1)
        top = probabilities.max(-1)
        right = (top.indices == tokens[:, 1:]).double().mean(1)
        return np.asarray(top.values.double().mean(1)), np.asarray(right)

    past = [measured(week) for week in weeks[HISTORY : 2 * HISTORY]]
    confidence, outcome = (np.concatenate(part) for part in zip(*past, strict=True))
    rng, errors, plain = np.random.default_rng(0), [], []
    sys.stdout.write(
        "\n| week | next-token accuracy, estimated [95 %] | true | of the past weeks |\n|---|---|---|---|\n"
    )
    for number in range(2 * HISTORY, WEEKS):
        now, truth = measured(weeks[number])
        estimate, low, high = estimate_performance(confidence, outcome, now, rng)
        errors.append(abs(estimate - truth.mean()))
        plain.append(abs(outcome.mean() - truth.mean()))
        if number % 6 == 2:
            sys.stdout.write(
                f"| {number} | {estimate:.3f} [{low:.3f}, {high:.3f}] | {truth.mean():.3f} | {outcome.mean():.3f} |\n"
            )
    sys.stdout.write(
        f"\nmean absolute error: estimated {np.mean(errors):.4f}, past accuracy carried on {np.mean(plain):.4f}\n"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Replay the year with every policy."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retraining", description=__doc__.splitlines()[0])
    default = Path("data/azure_llm_trace_2023/azure_llm_trace_2023.parquet")
    parser.add_argument("--trace", type=Path, default=default, help=f"default {default}")
    given = parser.parse_args(arguments)
    if not given.trace.is_file():
        parser.error(f"there is no file {given.trace}; give the Azure LLM inference trace 2023 as Parquet with --trace")
    torch.set_num_threads(1)
    counts = load_of(given.trace)
    weeks, tokenizer = plan(counts, np.random.default_rng(12))
    shape = Shape(depth=2, width=64, heads=2, ffn=256, vocab_size=tokenizer.get_vocab_size(), context=TOKENS)
    model = build_model(shape, 0, 0)
    opening = Windows(
        np.vstack([week.windows.tokens for week in weeks[:HISTORY]]),
        np.concatenate([week.windows.n_bytes for week in weeks[:HISTORY]]),
    )
    train(model, opening, Recipe(tokens=FIRST, batch=8))
    total = sum(len(week.windows) for week in weeks)
    sys.stdout.write(
        f"{WEEKS} weeks, {total:,} requests, {min(counts)} to {max(counts)} a week; a model of "
        f"{shape.parameters:,} weights, {FIRST:,} tokens at first, {AGAIN:,} at each retraining\n\n"
    )
    report([replay(name, *policy, model, weeks) for name, policy in POLICIES.items()])
    check_estimate(model, weeks)


if __name__ == "__main__":
    main()
