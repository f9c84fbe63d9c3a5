"""How well the surrogates of `pruning` rank subsets by their true loss.

    python -m benchmarks.surrogates [--models 1] [--masks 300] [--model DIR --text FILE] [--write]

Each problem of the bank draws `masks` uniform subsets of k units; the rank correlation (Spearman) of a surrogate with
the true loss on the same calibration text is compared with a limit of .95 for the surrogate of pairs. The interaction
gap is the true loss of the choice without interactions minus that of the optimum of the surrogate of pairs. Intervals
are over models, clustered by source of text. With `--model`, a folder in `transformers` format, the units are the
twelve least harmful of its whole blocks, on `--tokens` tokens of a text: one model, so no interval.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
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
from tasks.combinatorial.repair import uniform_subsets
from tasks.inference.pruning.bank import SHARES, UNITS, bank
from tasks.inference.pruning.problem import Pruning, children, gradient_qubo, lowest, pairwise_qubo, removal
from tasks.inference.pruning.units import whole_blocks
from tasks.inference.pruning.variables import least_harmful, leave_one_out
from tasks.inference.pruning.walk import bits_per_byte_without, gate_gradients
from tasks.model.causal import load_model
from tasks.statistics import mean_interval

if TYPE_CHECKING:
    from numpy.random import Generator

LIMIT = 0.95
WINDOW = 128  # tokens of the text of a pretrained model
BLOCKS = 12
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


def rank(what: str, source: str, problem: Pruning, masks: int, rng: Generator) -> Ranked:
    """Return the rank correlations of the surrogates over uniform subsets of a problem."""
    n, text = len(problem.units), problem.calibration
    losses = children(problem, (), range(n))
    pairs = pairwise_qubo(problem, losses)
    gates = gradient_qubo(problem, gate_gradients(problem.model, problem.units, text))

    def loss(removed: tuple[int, ...]) -> float:
        return bits_per_byte_without(problem.model, problem.units, text, removed)

    subsets = uniform_subsets(n, problem.k, masks, rng)
    true = [loss(removal(bits)) for bits in subsets]
    of_pairs, of_singles, of_gates = (
        float(spearmanr(scores, true).statistic)
        for scores in (pairs.energies(subsets), subsets @ losses[1:], gates.energies(subsets))
    )
    best = removal(minimise_cardinality(pairs, problem.k))
    gap = loss(lowest(losses[1:], problem.k)) - loss(best)
    return Ranked(what, source, of_pairs, of_singles, of_gates, gap)


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
                yield rank(what, instance.source, problem, masks, rng)
            if not any(left.values()):
                return


def of_blocks(model: Path, text: Path, tokens: int, masks: int) -> Ranked:
    """Return what is found on whole blocks of a pretrained model, of which a third goes."""
    windows = text_windows(model, text, max(1, tokens // WINDOW), WINDOW)
    depth = int(load_model(model).config.num_hidden_layers)
    with tempfile.TemporaryDirectory() as notes:
        harm = leave_one_out(model, depth, windows, 1, Path(notes))
    units = whole_blocks(least_harmful(harm, BLOCKS))
    problem = Pruning(model, units, len(units) // 3, windows, windows)
    what = f"{len(units)} of {depth} blocks of {model.name}, {problem.k} go"
    return rank(what, text.name, problem, masks, np.random.default_rng(0))


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
    parser.add_argument("--text", type=Path, help="text on which whole blocks are judged")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--write", action="store_true", help="put the table into docs/stages/inference.md")
    given = parser.parse_args(arguments)
    if bool(given.model) != bool(given.text):
        parser.error("--model and --text belong together")
    found = list(of_the_bank(given.models, given.masks))
    if given.model:
        found.append(of_blocks(given.model, given.text, given.tokens, given.masks))
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
    sys.stdout.write(made)
    if given.write:
        write_part(PAGE, "surrogates", made)


if __name__ == "__main__":
    main()
