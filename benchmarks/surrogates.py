"""How well the surrogates of `pruning` rank subsets by their true loss.

    python -m benchmarks.surrogates [--models 1] [--masks 300] [--model DIR --text FILE ...] [--write]

Each problem of the bank draws `masks` uniform subsets of k units; the rank correlation (Spearman) of a surrogate with
the true loss on the same calibration text is compared with a limit of .95 for the surrogate of pairs. The interaction
gap is the true loss of the choice without interactions minus that of the optimum of the surrogate of pairs. Intervals
are over models, clustered by source of text. With `--model`, a folder in `transformers` format, the units are the
twelve least harmful of its whole blocks, on `--tokens` tokens of each text: one model, so no interval.

Of whole blocks every subset of k is evaluated, and a second table says why a surrogate of pairs misses the limit: the
share of the variance of the true loss that is no sum of effects of single blocks, of pairs, of triples; how well a
quadratic function ranks that was fitted to *all* subsets, the most that pairs can give on this text. Two are fitted by
ridge regression to some subsets and ranked on the others: what the expansion lacks, to `n(n-1)/2` of them; and one
without the expansion, to half of all.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import spearmanr

from benchmarks.page import write_part
from benchmarks.quantised import text_windows
from benchmarks.training import table
from flows.study.bank import gather_material
from infra import settings
from tasks.combinatorial.exact import minimise_cardinality
from tasks.combinatorial.qubo import Qubo
from tasks.combinatorial.repair import uniform_subsets
from tasks.inference.pruning.bank import SHARES, UNITS, bank
from tasks.inference.pruning.problem import (
    Pruning,
    Removal,
    children,
    gradient_qubo,
    lowest,
    pairwise_qubo,
    removal,
    subset_losses,
)
from tasks.inference.pruning.units import whole_blocks
from tasks.inference.pruning.variables import least_harmful, leave_one_out
from tasks.inference.pruning.walk import bits_per_byte_without, gate_gradients
from tasks.model.causal import load_model
from tasks.statistics import mean_interval

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import ArrayLike, NDArray

    from tasks.combinatorial.qubo import Bits

LIMIT = 0.95
WINDOW = 128  # tokens of the text of a pretrained model
BLOCKS = 12
DESIGNS = 12  # choices of the subsets to which a function is fitted
RIDGE = 2.0  # chosen on WikiText-2; between 1 and 4 the ranks are about as good
PAGE = Path(__file__).parents[1] / "docs" / "stages" / "inference.md"


@dataclass(frozen=True)
class Ranked:
    """Rank correlations with the true loss on one problem, and its interaction gap in bits per byte."""

    what: str
    source: str
    pairs: float
    singles: float
    gates: float
    gap: float


@dataclass(frozen=True)
class Interactions:
    """Which interactions the true loss of whole blocks has, and what surrogates of pairs make of it."""

    what: str
    orders: tuple[float, ...]
    every: float
    expansion: float
    corrected: list[float]
    half: list[float]


def rank(
    what: str,
    source: str,
    problem: Pruning,
    masks: int,
    rng: Generator,
    pairs: Qubo,
    singles: NDArray[np.float64],
    loss: Callable[[Removal], float],
) -> Ranked:
    """Return the rank correlations of the surrogates over uniform subsets of a problem."""
    n = len(problem.units)
    gates = gradient_qubo(problem, gate_gradients(problem.model, problem.units, problem.calibration))
    subsets = uniform_subsets(n, problem.k, masks, rng)
    true = [loss(removal(bits)) for bits in subsets]
    of_pairs, of_singles, of_gates = (
        spearman(scores, true) for scores in (pairs.energies(subsets), subsets @ singles, gates.energies(subsets))
    )
    gap = loss(lowest(singles, problem.k)) - loss(removal(minimise_cardinality(pairs, problem.k)))
    return Ranked(what, source, of_pairs, of_singles, of_gates, gap)


def spearman(scores: ArrayLike, true: ArrayLike) -> float:
    """Return a rank correlation."""
    return float(spearmanr(scores, true).statistic)


def expand(problem: Pruning) -> tuple[Qubo, NDArray[np.float64]]:
    """Return the surrogate of pairs, and the losses without each single unit."""
    losses = children(problem, (), range(len(problem.units)))
    return pairwise_qubo(problem, losses), losses[1:]


def interactions(what: str, pairs: Qubo, losses: dict[Removal, float]) -> Interactions:
    """Return the orders of the true loss over all subsets, and how well surrogates of pairs rank them."""
    true = np.array(list(losses.values()))
    bits = np.zeros((len(losses), pairs.size), np.uint8)
    for row, removed in zip(bits, losses, strict=True):
        row[list(removed)] = 1
    k = int(bits[0].sum())
    fits = [effects(bits, true, order) for order in range(1, k)]
    orders = tuple(float(np.var(fit) / np.var(true)) for fit in fits)
    expanded, as_pairs = pairs.energies(bits), pairs.size * (pairs.size - 1) // 2
    corrected = [fitted(bits, true, expanded, as_pairs, seed) for seed in range(DESIGNS)]
    half = [fitted(bits, true, np.zeros(len(bits)), len(bits) // 2, seed) for seed in range(DESIGNS)]
    return Interactions(what, orders, spearman(fits[1], true), spearman(expanded, true), corrected, half)


def fitted(bits: Bits, true: NDArray[np.float64], start: NDArray[np.float64], count: int, seed: int) -> float:
    """Return the rank correlation on the others of a function that is corrected on some subsets."""
    seen = even_subsets(bits, count, np.random.default_rng(seed))
    scores = start + ridge(bits, seen, true - start)
    return spearman(scores[~seen], true[~seen])


def effects(bits: Bits, true: NDArray[np.float64], order: int) -> NDArray[np.float64]:
    """Return the sums of effects of so many units that come nearest to the values of all k-subsets.

    Effects of fewer units are sums of these where every subset has the same size.
    """
    columns = [bits[:, list(some)].prod(axis=1) for some in combinations(range(bits.shape[1]), order)]
    features = np.array(columns, np.float64).T
    found: NDArray[np.float64] = features @ np.linalg.lstsq(features, true, rcond=None)[0]
    return found


def even_subsets(bits: Bits, count: int, rng: Generator) -> NDArray[np.bool_]:
    """Mark so many of all k-subsets in which all pairs occur about equally often.

    The next is the one whose pairs, then units, were seen least; chance decides among equals.
    """
    seen, together = np.zeros(len(bits), bool), np.zeros((bits.shape[1], bits.shape[1]))
    for _ in range(count):
        often = np.einsum("ai,ij,aj->a", bits, together, bits) + rng.random(len(bits)) / 2
        taken = bits[np.where(seen, np.inf, often).argmin()]
        seen |= (bits == taken).all(axis=1)
        together += np.outer(taken, taken)
    return seen


def ridge(bits: Bits, seen: NDArray[np.bool_], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a quadratic function of subsets fitted to the values of some, its coefficients shrunk to zero.

    They are those of `x_i - k/n` and of the products of these.
    """
    x = bits - bits.mean()
    i, j = np.triu_indices(bits.shape[1], 1)
    features = np.hstack([x, x[:, i] * x[:, j]])
    features -= features[seen].mean(axis=0)
    known, mean = features[seen], values[seen].mean()
    normal = known.T @ known + RIDGE * np.eye(known.shape[1])
    found: NDArray[np.float64] = mean + features @ np.linalg.solve(normal, known.T @ (values[seen] - mean))
    return found


def of_the_bank(models: int, masks: int) -> Iterator[Ranked]:
    """Yield what is found on the first models of every source, with each share of all their units removed."""
    with tempfile.TemporaryDirectory() as folder:
        material = gather_material(settings.load(home=Path(folder)))
        left, rng = dict.fromkeys(material.texts, models * len(SHARES)), np.random.default_rng(0)
        for instance in bank(material, np.random.default_rng([0, 7])):
            if instance.size == len(UNITS) and left[instance.source]:
                left[instance.source] -= 1
                problem = instance.pose()
                what = f"{len(UNITS)} heads and feed-forward groups, {problem.k} go"
                loss = partial(bits_per_byte_without, problem.model, problem.units, problem.calibration)
                yield rank(what, instance.source, problem, masks, rng, *expand(problem), loss)
            if not any(left.values()):
                return


def of_blocks(model: Path, text: Path, tokens: int, masks: int) -> tuple[Ranked, Interactions]:
    """Return what is found on whole blocks of a pretrained model, of which a third goes."""
    windows = text_windows(model, text, max(1, tokens // WINDOW), WINDOW)
    depth = int(load_model(model).config.num_hidden_layers)
    with tempfile.TemporaryDirectory() as notes:
        harm = leave_one_out(model, depth, windows, 1, Path(notes))
    units = whole_blocks(least_harmful(harm, BLOCKS))
    problem = Pruning(model, units, len(units) // 3, windows, windows)
    what = f"{len(units)} of {depth} blocks of {model.name}, {problem.k} go; {text.parent.name}/{text.name}"
    pairs, singles = expand(problem)
    losses = subset_losses(problem, windows, what)
    ranked = rank(what, text.name, problem, masks, np.random.default_rng(0), pairs, singles, losses.__getitem__)
    return ranked, interactions(what, pairs, losses)


def rows_of(found: Iterable[Ranked]) -> Iterator[tuple[str, ...]]:
    """Yield a row for each kind of problem: means with 95 % intervals."""
    kinds: dict[str, list[Ranked]] = {}
    for one in found:
        kinds.setdefault(one.what, []).append(one)
    for what, same in kinds.items():
        sources = [one.source for one in same]
        reached = sum(one.pairs >= LIMIT for one in same)
        yield (
            what,
            f"{len(same)} ({len(set(sources))})",
            *(shown([getattr(one, name) for one in same], sources) for name in ("pairs", "singles", "gates")),
            f"{reached} of {len(same)}",
            shown([one.gap for one in same], sources),
        )


def rows_of_interactions(found: Iterable[Interactions]) -> Iterator[tuple[str, ...]]:
    """Yield a row for each text."""
    for one in found:
        more = [f"{share:.1%}" for share in 1 - np.array(one.orders)]
        ranks = (f"{np.mean(some):.3f} ({min(some):.3f} to {max(some):.3f})" for some in (one.corrected, one.half))
        yield one.what, *more, f"{one.every:.3f}", f"{one.expansion:.3f}", *ranks


def shown(values: list[float], sources: list[str]) -> str:
    """Return a mean with its interval, where there is more than one source."""
    interval = mean_interval(np.array(values), sources)
    return f"{np.mean(values):.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def main(arguments: list[str] | None = None) -> None:
    """Print the table, and write it into the page of the stage if told to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=1, help="of each source of text")
    parser.add_argument("--masks", type=int, default=300)
    parser.add_argument("--model", type=Path, help="folder of a pretrained model, for whole blocks")
    parser.add_argument("--text", type=Path, nargs="+", help="texts on which whole blocks are judged")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/stages/inference.md")
    given = parser.parse_args(arguments)
    if bool(given.model) != bool(given.text):
        parser.error("--model and --text belong together")
    found, why = list(of_the_bank(given.models, given.masks)), []
    for text in given.text or ():
        ranked, orders = of_blocks(given.model, text, given.tokens, given.masks)
        found.append(ranked)
        why.append(orders)
    header = (
        f"units, {given.masks} subsets each",
        "models (sources)",
        "Spearman of pairs",
        "of single units",
        "of gates",
        f"pairs at {LIMIT:g} or more",
        "interaction gap, bits per byte",
    )
    made = table(header, list(rows_of(found)))
    if why:
        header = (
            "whole blocks, all subsets",
            "variance beyond single blocks",
            "beyond pairs",
            "beyond triples",
            "Spearman of pairs fitted to all subsets",
            "expanded to pairs",
            f"expanded and corrected on {BLOCKS * (BLOCKS - 1) // 2}: the others",
            "fitted to half: the others",
        )
        made += "\n" + table(header, list(rows_of_interactions(why)))
    sys.stdout.write(made)
    if given.write:
        write_part(PAGE, "surrogates", made)


if __name__ == "__main__":
    main()
