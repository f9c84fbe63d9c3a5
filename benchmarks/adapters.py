"""Adapters of one projection of a pretrained model: recovery of a compressed model, noise, and the price of a QPU pass.

    python -m benchmarks.adapters MODEL VALID TEST [--write]    # WikiText-2: trained on VALID, measured on TEST

Prints the perplexity of the model on the first 8 windows of 1,024 tokens of TEST (29.2 for SmolLM2-135M-Instruct), then
degrades the model (rank-k factors of the feed-forward matrices of its last blocks), trains each adapter of one late
projection with the same tokens and learning rates, and prints perplexity and recovery
`(degraded - adapted) / (degraded - whole)`. Then the rotations with blocks of 4, 8, 16 and 64 under shots and
depolarising noise, and what one pass costs on a QPU. Everything but the price is measured; noise is drawn from the
exact probabilities of the circuits, `(1 - l) p + l / 2^n` with l the share of depolarised executions. `--write` puts
the tables into `docs/stages/finetuning.md`.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.kept import Kept
from benchmarks.page import write_part
from benchmarks.training import table
from infra.runtime.backends.usage import usage_s
from tasks.bench import make_bench
from tasks.contract import Bench, Budget
from tasks.finetuning.adapter import maps
from tasks.finetuning.adapter.maps import Attach
from tasks.finetuning.adapter.problem import Adaptation, parts
from tasks.finetuning.adapter.training import Text, cache_states, fit, site_inputs
from tasks.model.causal import load_model, load_tokenizer
from tasks.model.score import nll
from tasks.model.small import stored_model
from tasks.model.windows import Windows
from tasks.quantum.rotations import exact_frequencies, read
from tasks.statistics import mean_interval

WINDOW, BASELINE_WINDOWS = 1024, 8
CONTEXT, TRAIN, VALIDATION, TEST = 128, 32, 4, 8  # tokens and windows of the study
INCUMBENT = "lora r=1"
LATE = 2  # blocks from the end that are degraded; the site is in the first of them
RANK_SHARE = 0.1
NOISE = ((0.0, 256), (0.0, 1024), (0.0, 8192), (0.03, 8192), (0.119, 8192))  # share depolarised, shots
PAGE = Path(__file__).parents[1] / "docs" / "stages" / "finetuning.md"
DURATION_S, KW = 4e-6, 18.0  # of one 2-qubit execution on a superconducting device; its whole system

ARMS: dict[str, Attach] = {
    "cayley 4": maps.rotation(4),
    "oft 4 (peft)": maps.oft(4),
    "magnitudes 4": maps.rotation(4, magnitudes=True),
    "cayley 8": maps.rotation(8),
    "cayley 16": maps.rotation(16),
    "cayley 64": maps.rotation(64),
    "blocks 4": maps.wrapped(lambda inner, _: maps.Blocks(inner, 4)),
    "scale": maps.wrapped(lambda inner, _: maps.Scale(inner)),
    "bias": maps.wrapped(lambda inner, _: maps.Bias(inner)),
    "random rotation": maps.wrapped(lambda inner, seed: maps.RandomRotation(inner, 4, seed)),
    "lora r=1": maps.lora(1),
    "lora r=3": maps.lora(3),
    "vera": maps.vera(64),
    "fourierft": maps.fourier(864),
    "boft": maps.wrapped(lambda inner, _: maps.Butterfly(inner, 4)),
    "hra": maps.householder(2),
    "norms": maps.attach_norms,
    "dense": maps.attach_dense,
}


def windows(folder: Path, path: Path, context: int, count: int) -> Windows:
    """Return the first windows of a text, each of `context` predicted tokens."""
    text = path.read_text(encoding="utf-8")[: 12 * count * (context + 1)]
    ids = np.array(load_tokenizer(folder).encode(text, add_special_tokens=False), np.int64)
    tokens = ids[: count * (context + 1)].reshape(count, context + 1)
    return Windows(tokens, np.full(count, context, np.int64))


def perplexity_of_tokens(model: Any, text: Windows) -> float:
    return math.exp(nll(model, text).sum() / text.n_predicted)


def baseline(folder: Path, path: Path) -> float:
    """Return the perplexity on the first 8 windows of 1,024 tokens, the first token of each only read."""
    text = path.read_text(encoding="utf-8")[: 8 * BASELINE_WINDOWS * WINDOW]
    ids = np.array(load_tokenizer(folder).encode(text, add_special_tokens=False), np.int64)
    tokens = ids[: BASELINE_WINDOWS * WINDOW].reshape(BASELINE_WINDOWS, WINDOW)
    return perplexity_of_tokens(load_model(folder), Windows(tokens, np.full(len(tokens), WINDOW - 1, np.int64)))


def degraded(folder: Path) -> Any:
    """Return the model with the feed-forward matrices of its last blocks cut to a share of their rank."""
    model: Any = load_model(folder)
    with torch.no_grad():
        for layer in model.model.layers[-LATE:]:
            for matrix in layer.mlp.modules():
                if isinstance(matrix, nn.Linear):
                    u, s, v = torch.linalg.svd(matrix.weight, full_matrices=False)
                    rank = max(1, round(RANK_SHARE * len(s)))
                    matrix.weight.copy_(u[:, :rank] * s[:rank] @ v[:rank])
    return model


def perplexity(model: Any, text: Text, outputs: torch.Tensor | None = None, site: str = "") -> float:
    """Return the perplexity of a text from its hidden states on, the outputs of the site replaced if given."""
    handle = None
    if outputs is not None:
        holder, name = parts(model, site)
        handle = getattr(holder, name).register_forward_hook(lambda *_: outputs)
    with torch.inference_mode():
        logits = model(inputs_embeds=text.hidden, use_cache=False).logits
        loss = cross_entropy(logits.flatten(0, 1), text.windows.labels().flatten())
    if handle:
        handle.remove()
    return math.exp(float(loss))


def under_noise(
    matrices: np.ndarray, vectors: np.ndarray, shots: int, noise: float, signed: bool, rng: np.random.Generator
) -> np.ndarray:
    """Return the rotated vectors as circuits with depolarising noise give them; shots 0 = exact probabilities."""
    size = matrices.shape[1]
    pieces = vectors.reshape(len(vectors), -1, size)
    found = np.zeros_like(pieces)
    for n, matrix in enumerate(matrices):
        p = exact_frequencies(matrix, pieces[:, n], signed=signed)
        p = (1 - noise) * p + noise / p.shape[1]
        p /= p.sum(axis=1, keepdims=True)
        found[:, n] = read(rng.multinomial(shots, p) / shots if shots else p, pieces[:, n], signed=signed)
    return found.reshape(vectors.shape)


def price(tokens: int, width: int, block: int, shots: int) -> tuple[str, ...]:
    """Return what one pass over a text costs: circuits, executions, seconds, energy (projected)."""
    circuits = tokens * width // block
    seconds = usage_s(circuits * shots, DURATION_S)
    counts = (tokens, width, block, shots, circuits, circuits * shots)
    return (*(f"{count:,}" for count in counts), f"{seconds:,.0f}", f"{seconds * KW / 3600:,.1f}")


def main(arguments: list[str] | None = None) -> None:
    """Print the tables, and write them into the page of the stage if told to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("valid", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--cache", type=Path, help="folder that keeps the degraded model")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.01, 0.03, 0.1, 0.3, 1.0, 3.0])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--keep", type=Path, help="file of finished trainings, from which a rerun goes on")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/stages/finetuning.md")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = baseline(given.model, given.test)
    said = f"Perplexity of the model on the first {BASELINE_WINDOWS} windows of {WINDOW:,} tokens: {found:.2f}.\n\n"
    sys.stdout.write(said)
    with tempfile.TemporaryDirectory() as folder:
        tables = study(given, given.cache or Path(folder, "degraded"), Kept.at(given.keep))
    sys.stdout.write(tables)
    prices = (price(1024, 4096, 4, 8192), price(1024, 576, 4, 1024), price(1024, 576, 64, 1024))
    header = ("tokens", "width", "blocks of", "shots", "circuits", "executions", "QPU s, projected", "kWh, projected")
    bills = table(header, prices)
    made = f"{said}{tables}\n{bills}"
    sys.stdout.write(f"\n{bills}")
    if given.write:
        write_part(PAGE, "adapters", made)


def study(given: argparse.Namespace, cache: Path, kept: Kept) -> str:
    """Train every adapter, each seed on windows of its own, and return the table of adapters and that of noise."""
    folder = stored_model(cache, lambda: degraded(given.model))
    problems = [_problem(given, folder, seed) for seed in range(given.seeds)]
    test, site = problems[0].test, problems[0].site
    whole, low = (perplexity_of_tokens(load_model(path), test) for path in (given.model, folder))
    rates_tried = ", ".join(map(str, given.rates))
    said = (
        f"`{site}`: perplexity {whole:.1f} of the whole model and {low:.1f} of the degraded one; {given.steps} steps "
        f"of 4 x {CONTEXT} tokens; {given.seeds} seeds, mean [least, most]; differences are paired by seed. Rates: "
        f"{rates_tried} on the first seed, on the others the best of the first and its neighbours.\n\n"
    )
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in given.arms}
    for seed, problem in enumerate(problems):
        bench = make_bench(seed)  # which keeps the states of the frozen model
        for name in given.arms:
            rates = near(found[name][0]["rate"], given.rates) if seed else tuple(given.rates)
            key = f"{name}, seed {seed}, {given.steps} steps, rates {', '.join(map(str, rates))}"
            posed = replace(problem, rates=rates)
            found[name].append(kept.cell(key, partial(measure, posed, bench, name, seed)))
            sys.stderr.write(f"{key}: {found[name][-1]}\n")
    compared = np.array([cell["perplexity"] for cell in found.get(INCUMBENT, ())])
    rows = [_row(name, cells, whole, low, given.rates, compared) for name, cells in found.items()]
    noisy = [line for cells in found.values() for line in cells[0]["noisy"]]
    header = (
        "adapter",
        "weights",
        "perplexity",
        "recovery",
        f"difference to {INCUMBENT} [95 %]",
        "best rates",
        "CPU s",
    )
    adapters = table(header, rows)
    header = ("rotation, seed 0", "read", "qubits", *(f"{s:,} shots" + (f", l = {n:g}" if n else "") for n, s in NOISE))
    return f"{said}{adapters}\n{table(header, noisy)}" if noisy else f"{said}{adapters}"


def near(best: float, rates: Sequence[float]) -> tuple[float, ...]:
    """Return the three of some rates, in ascending order, that have the best in their middle, or at the edge."""
    first = min(max(0, list(rates).index(best) - 1), max(0, len(rates) - 3))
    return tuple(rates[first : first + 3])


def measure(problem: Adaptation, bench: Bench, name: str, seed: int) -> dict[str, Any]:
    """Train an adapter at every rate; return what is kept: figures of the best, and rows under noise for seed 0."""
    states = cache_states(problem, bench)["test"]  # is not timed
    began = time.process_time()
    fitted = fit(problem, replace(bench, rng=np.random.default_rng(seed)), ARMS[name])
    spent = time.process_time() - began
    return {
        "perplexity": perplexity(fitted.model, states),
        "rate": fitted.rate,
        "weights": fitted.trained,
        "cpu_s": spent,
        "noisy": sweep(problem, replace(bench), fitted, name) if name.startswith("cayley") and seed == 0 else [],
    }


def _row(
    name: str, cells: list[dict[str, Any]], whole: float, low: float, rates: list[float], compared: np.ndarray
) -> tuple[str, ...]:
    """Return the line of an adapter; a best rate at the edge of those tried is marked."""
    reached = np.array([cell["perplexity"] for cell in cells])
    interval = mean_interval(reached - compared) if name != INCUMBENT and len(compared) else None
    edges = (min(rates), max(rates))
    counted = Counter(cell["rate"] for cell in cells)
    return (
        name,
        f"{cells[0]['weights']:,}",
        f"{reached.mean():.1f} [{reached.min():.1f}, {reached.max():.1f}]",
        f"{(low - reached.mean()) / (low - whole):.1%}",
        f"{(reached - compared).mean():+.1f} [{interval[0]:+.1f}, {interval[1]:+.1f}]" if interval else "-",
        ", ".join(f"{rate:g}{' (edge)' * (rate in edges)} x{counted[rate]}" for rate in sorted(counted)),
        f"{np.mean([cell['cpu_s'] for cell in cells]):.0f}",
    )


def _problem(given: argparse.Namespace, folder: Path, seed: int) -> Adaptation:
    each = TRAIN + VALIDATION
    held = windows(given.model, given.valid, CONTEXT, each * (seed + 1)).take(slice(each * seed, None))
    depth = int(load_model(folder).config.num_hidden_layers)
    return Adaptation(
        model=folder,
        site=f"layers.{depth - LATE}.self_attn.v_proj",
        train=held.take(slice(0, TRAIN)),
        validation=held.take(slice(TRAIN, None)),
        test=windows(given.model, given.test, CONTEXT, TEST),
        steps=given.steps,
        batch=4,
        rates=tuple(given.rates),
        block=4,
        shots=1024,
        budget=Budget(),
    )


def sweep(problem: Adaptation, hands: Bench, fitted: Any, title: str) -> list[tuple[str, ...]]:
    """Return the perplexity of a rotation executed with shots and depolarising noise, in both forms of reading."""
    holder, name = parts(fitted.model, fitted.site)
    rotation = getattr(holder, name)
    matrices = maps.cayley(rotation.angles.detach().double(), rotation.block).numpy()
    inputs = site_inputs(problem, hands)
    vectors, rng = inputs.flatten(0, 1).double().numpy(), np.random.default_rng(0)
    text = cache_states(problem, hands)["test"]
    qubits = rotation.block.bit_length() - 1
    rows = []
    for signed in (True, False):
        cells = []
        for noise, shots in NOISE:
            turned = under_noise(matrices, vectors, shots, noise, signed, rng)
            outputs = rotation.inner(torch.from_numpy(turned.astype(np.float32)).view_as(inputs)).detach()
            cells.append(f"{perplexity(fitted.model, text, outputs, fitted.site):.1f}")
        rows.append((title, "signed" if signed else "magnitudes", str(qubits + signed), *cells))
    return rows


if __name__ == "__main__":
    main()
