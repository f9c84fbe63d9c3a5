"""Retention is not gain: is a model better for the text that a better choice of representatives keeps?

`python -m benchmarks retention` curates the near-duplicate components of the shipped licence texts that are no cliques
three ways (keep the heaviest only, greedy, exact), trains one small model from scratch on what each keeps, at equal
tokens and at equal joules, and scores bits per byte on texts of components that no way has seen. Pairs, cliques and
single texts, of which all ways keep the same, are left out: with them there would be still less to see. The model is
the smoke profile's. The joules of a way are those of deciding, encoding and training; a way that spent more before
trains on fewer tokens.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from statistics import median

import numpy as np
import pyarrow.parquet as pq
import torch
from scipy.special import stdtrit
from transformers import PreTrainedTokenizerFast

from tasks.architecture.config import build_model, shape_of_dial
from tasks.combinatorial.independent_set import Graph, branch_and_bound, greedy, heaviest
from tasks.corpus.sample import sample_path
from tasks.curation.index.near_duplicates import normalised_words
from tasks.curation.index.shards import length_weights
from tasks.model.recipe import Recipe
from tasks.model.score import bits_per_byte
from tasks.model.training.loop import train
from tasks.model.windows import Windows
from tasks.preprocessing.bpe import END_OF_TEXT, train_bpe
from tasks.preprocessing.encode import choose_encoder
from tasks.preprocessing.pack import Packer

THRESHOLD = 0.7
DEPTH, VOCABULARY, CONTEXT = 2, 1024, 128
TOKENS, BATCH, SEEDS = 100_000, 8, 5
ENCODED = 7  # times; the median counts
HELD_OUT = 6  # every sixth component
EVALUATED = 192  # windows

WAYS: Mapping[str, Callable[[Graph], tuple[int, ...]]] = {
    "keep-one": heaviest,
    "greedy": greedy,
    "exact": lambda graph: branch_and_bound(graph).nodes,
}


@dataclass(frozen=True)
class Kept:
    """What a way of curating keeps of the training components."""

    texts: tuple[str, ...]
    decided_s: float


def components() -> tuple[dict[str, str], list[tuple[str, ...]], set[tuple[str, str]]]:
    """Return the texts by id, their near-duplicate components, single texts included, and the true pairs."""
    table = pq.read_table(sample_path("second"), columns=["doc_id", "text"])
    texts = dict(zip(table["doc_id"].to_pylist(), table["text"].to_pylist(), strict=True))
    truth = pq.read_table(sample_path("truth")).to_pylist()
    pairs = {
        (row["a"], row["b"]) for row in truth if row["jaccard"] >= THRESHOLD and {row["a"], row["b"]} <= set(texts)
    }
    root = {name: name for name in texts}

    def find(name: str) -> str:
        while root[name] != name:
            root[name] = name = root[root[name]]
        return name

    for a, b in sorted(pairs):
        root[find(a)] = find(b)
    parts: dict[str, list[str]] = defaultdict(list)
    for name in sorted(texts):
        parts[find(name)].append(name)
    return texts, [tuple(part) for part in parts.values()], pairs


def graph_of(part: Sequence[str], texts: Mapping[str, str], pairs: set[tuple[str, str]]) -> Graph:
    """Return the near-duplicate graph of a component, weighted as a run does."""
    number = {name: k for k, name in enumerate(part)}
    edges = [(number[a], number[b]) for a, b in pairs if a in number and b in number]
    weights = length_weights([len(normalised_words(texts[name])) for name in part])
    return Graph.of(weights.tolist(), np.array(edges, np.int64).reshape(-1, 2))


def held_out(part: Sequence[str]) -> bool:
    """Say whether a whole component is kept for scoring."""
    return sha256(part[0].encode()).digest()[0] % HELD_OUT == 0


def curate(solve: Callable[[Graph], tuple[int, ...]], parts: Sequence[tuple[Sequence[str], Graph, list[str]]]) -> Kept:
    """Decide every component."""
    began, kept = time.process_time(), []
    for _, graph, texts in parts:
        kept += [texts[node] for node in solve(graph)]
    return Kept(tuple(kept), time.process_time() - began)


def windows_of(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> tuple[Windows, float]:
    """Encode and pack; return the windows and the CPU seconds of encoding."""
    encode, _ = choose_encoder(tokenizer, texts[:1])
    seconds = []
    for _ in range(ENCODED):
        began = time.process_time()
        encoded = encode(texts)
        seconds.append(time.process_time() - began)
    packer = Packer(CONTEXT, int(tokenizer.convert_tokens_to_ids(END_OF_TEXT)), len(tokenizer))
    for ids, sizes in encoded:
        packer.add(ids, sizes)
    tokens, n_bytes = packer.take()
    return Windows(tokens.astype(np.int64), n_bytes), median(seconds)


def scored(windows: Windows, test: Windows, tokens: int, seed: int) -> tuple[float, float]:
    """Train from scratch; return bits per byte on the held-out text and the CPU seconds of training."""
    model = build_model(shape_of_dial(DEPTH, VOCABULARY, CONTEXT), 0, seed)
    began = time.process_time()
    train(model, windows, Recipe(tokens=tokens, batch=BATCH, seed=seed))
    return bits_per_byte(model, test), time.process_time() - began


def interval(values: Sequence[float]) -> str:
    """Return a mean with its 95 % Student interval."""
    sample = np.asarray(values)
    half = stdtrit(len(sample) - 1, 0.975) * sample.std(ddof=1) / np.sqrt(len(sample))
    return f"{sample.mean():+.4f} [{sample.mean() - half:+.4f}, {sample.mean() + half:+.4f}]"


def main() -> None:
    """Print what each way keeps and what it is worth."""
    torch.set_num_threads(1)
    texts, parts, pairs = components()
    posed = [(part, graph_of(part, texts, pairs), [texts[name] for name in part]) for part in parts]
    training = [item for item in posed if not held_out(item[0]) and not item[1].is_clique]
    held = [item[2][heaviest(item[1])[0]] for item in posed if held_out(item[0])]
    kept = {way: curate(solve, training) for way, solve in WAYS.items()}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_bpe(iter(kept["keep-one"].texts), VOCABULARY), eos_token=END_OF_TEXT
    )
    test = windows_of(held, tokenizer)[0].spread(EVALUATED)
    packed = {way: windows_of(found.texts, tokenizer) for way, found in kept.items()}
    sys.stdout.write(
        f"{len(texts)} licence texts, {len(parts)} components, {len(held)} of them held out; {len(training)} of the "
        f"others are no cliques, with {sum(graph.size for _, graph, _ in training)} texts\n"
    )
    results: dict[tuple[str, str], list[float]] = defaultdict(list)
    spent: dict[str, list[float]] = defaultdict(list)
    fewer: dict[str, int] = {}
    for seed in range(SEEDS):
        for way, (windows, encoded_s) in packed.items():
            value, cpu_s = scored(windows, test, TOKENS, seed)
            results["tokens", way].append(value)
            spent[way].append(cpu_s)
            if way not in fewer:
                before = kept[way].decided_s + encoded_s
                first = kept["keep-one"].decided_s + packed["keep-one"][1]
                fewer[way] = TOKENS - round((before - first) / (spent["keep-one"][0] / TOKENS))
            recipe = Recipe(tokens=fewer[way], batch=BATCH)
            same = recipe.most_steps(windows.context) == Recipe(tokens=TOKENS, batch=BATCH).most_steps(windows.context)
            results["joules", way].append(value if same else scored(windows, test, fewer[way], seed)[0])
            sys.stdout.write(f"  seed {seed} {way}: {value:.4f} bits per byte, {cpu_s:.1f} CPU s\n")
            sys.stdout.flush()
    for way, (windows, encoded_s) in packed.items():
        size = sum(len(text.encode()) for text in kept[way].texts)
        sys.stdout.write(
            f"{way}: {len(kept[way].texts)} texts, {size / 1e6:.2f} MB, {windows.n_predicted:,} tokens, decided in "
            f"{kept[way].decided_s * 1e3:.1f} ms, encoded in {encoded_s * 1e3:.0f} ms of CPU, "
            f"{TOKENS / windows.n_predicted:.2f} epochs of {TOKENS:,} tokens; at equal joules {fewer[way]:,} tokens\n"
        )
    for budget in ("tokens", "joules"):
        for way in WAYS:
            values = results[budget, way]
            line = f"equal {budget}, {way}: {np.mean(values):.4f} bits per byte"
            if way != "keep-one":
                line += f", against keep-one {interval(np.subtract(values, results[budget, 'keep-one']).tolist())}"
            sys.stdout.write(line + "\n")
