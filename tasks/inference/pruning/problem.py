"""The pruning problem, the loss of a model without some of its units, and the pairwise expansion of that loss."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import spearmanr

from tasks.combinatorial.exact import minimise_cardinality
from tasks.combinatorial.qubo import Qubo
from tasks.combinatorial.repair import uniform_subsets
from tasks.contract import content_key
from tasks.inference.pruning.units import Unit
from tasks.inference.pruning.walk import (
    Job,
    bits_per_byte_without,
    evaluate,
)
from tasks.model.windows import Windows

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray


if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import ArrayLike, NDArray

    from tasks.contract import Map

Removal = tuple[int, ...]

log = logging.getLogger("ketcycle.inference")

SLICES = 4
ANNOUNCED_S = 10.0
EVALUATED_SHARE = 0.6
KEPT_LOSSES = 4096

_LOSSES: dict[tuple[str, Removal], float] = {}  # the newest ones


@dataclass(frozen=True)
class Pruning:
    """Choose `k` of the units of a model.

    Attributes:
        model: folder of the model.
        units: removable parts of the model.
        k: number of units that are removed.
        calibration: text that the arms may use.
        selection: text on which the quality is measured.
        allowance: increase of the loss in bits per byte above which the unpruned model is better.
        optimum: lowest loss on the selection text over all sets of k units, in bits per byte, if it was proven.
        threads: torch threads of an evaluation; they affect only its duration.
    """

    model: Path
    units: tuple[Unit, ...]
    k: int
    calibration: Windows
    selection: Windows
    allowance: float = 0.1
    optimum: float | None = field(default=None, compare=False)
    threads: int = field(default=1, compare=False)

    def __post_init__(self) -> None:
        if not 0 < self.k < len(self.units):
            raise ValueError(f"k ({self.k}) should lie between 1 and {len(self.units) - 1}, one less than the units")


def in_one_process(function: Any, items: Sequence[Any], /) -> list[Any]:
    """Apply a function to every item in this process."""
    return [function(item) for item in items]


def children(
    problem: Pruning, removed: Removal, candidates: Sequence[int], apply: Map = in_one_process
) -> NDArray[np.float64]:
    """Return the calibration loss in bits per byte without `removed`, then without each candidate in addition.

    The first value is evaluated only if `removed` is empty, else it is nan.
    """
    slices = np.array_split(np.arange(len(problem.calibration)), min(SLICES, len(problem.calibration)))
    windows = [Windows(problem.calibration.tokens[rows], problem.calibration.n_bytes[rows]) for rows in slices]
    jobs = [
        Job(problem.model, problem.units, part, removed, tuple(candidates), not removed, problem.threads)
        for part in windows
    ]
    total = np.sum(apply(evaluate, jobs), axis=0)
    losses: NDArray[np.float64] = total / (math.log(2) * problem.calibration.n_bytes.sum())
    return losses


def pairwise_qubo(problem: Pruning, singles: NDArray[np.float64], apply: Map = in_one_process) -> Qubo:
    """Evaluate the loss without every pair of units and return the second-order expansion of the loss.

    `E(x) = L + sum_i (L_i - L) x_i + sum_{i<j} (L_ij - L_i - L_j + L) x_i x_j`, exact for up to two units.

    Args:
        problem: the pruning problem.
        singles: loss of the whole model, then without each unit, as `children` returns them.
        apply: function that runs the evaluations, such as `in_one_process`.
    """
    n = len(problem.units)
    whole, single = singles[0], singles[1:]
    text, later = problem.calibration, [tuple(range(i + 1, n)) for i in range(n - 1)]
    jobs = [Job(problem.model, problem.units, text, (i,), js, False, problem.threads) for i, js in enumerate(later)]
    upper, began, done = np.zeros((n, n)), time.monotonic(), 0
    for i, job in enumerate(jobs):
        [sums] = apply(evaluate, [job])
        pair = sums[1:] / (math.log(2) * text.n_bytes.sum())
        upper[i, i + 1 :] = pair - single[i] - single[i + 1 :] + whole
        done += len(pair)
        announce("pairs", done, n * (n - 1) // 2, began)
    return Qubo(single - whole, upper + upper.T, float(whole))


def gradient_qubo(problem: Pruning, gradients: NDArray[np.float64]) -> Qubo:
    """Return the second-order expansion of the loss in gates on the units, from one backward pass.

    With gates 1 - x the loss of a window is `L - g.x + 1/2 x^T H x`; H is the mean of `g g^T` over the windows, the
    empirical Fisher matrix. Optimal brain damage (LeCun, Denker, Solla, NeurIPS 1989) keeps the diagonal of H, the
    optimal brain surgeon (Hassibi and Stork, NeurIPS 1992) all of it; here for whole structures and without a change
    of the other weights. Choice of blocks by such coefficients: Jansen et al. 2026, arXiv 2602.00161.

    Args:
        problem: the pruning problem.
        gradients: (windows, units), nats, as `walk.gate_gradients` returns them.
    """
    scale = len(gradients) / (math.log(2) * problem.calibration.n_bytes.sum())
    fisher = gradients.T @ gradients / len(gradients)
    fisher = (fisher + fisher.T) / 2
    linear = -gradients.mean(axis=0) + np.diagonal(fisher) / 2
    return Qubo(scale * linear, scale * (fisher - np.diag(np.diagonal(fisher))))


def subset_losses(problem: Pruning, text: Windows, what: str) -> dict[Removal, float]:
    """Return the loss on a text without every k-subset of the units; `what` names the evaluation in the log."""
    n, k, began = len(problem.units), problem.k, time.monotonic()
    losses: dict[Removal, float] = {}
    for first in combinations(range(n - 1), k - 1):
        last = tuple(range(first[-1] + 1 if first else 0, n))
        job = Job(problem.model, problem.units, text, first, last, False, problem.threads)
        found = (evaluate(job)[1:] / (math.log(2) * text.n_bytes.sum())).tolist()
        losses |= {(*first, unit): loss for unit, loss in zip(last, found, strict=True)}
        announce(f"{what}, subsets", len(losses), math.comb(n, k), began)
    return losses


def prove_optimum(problem: Pruning) -> dict[str, Any]:
    """Evaluate the loss on the selection text without every k-subset of the units.

    Returns:
        `bits_per_byte` of the best, its `removed` positions, how many `subsets` there were, and the `median` and
        `highest` loss among them.
    """
    losses = subset_losses(problem, problem.selection, "proof of the optimum")
    best = min(losses, key=lambda subset: losses[subset])
    return {
        "bits_per_byte": losses[best],
        "removed": list(best),
        "subsets": len(losses),
        "median": float(np.median(list(losses.values()))),
        "highest": max(losses.values()),
    }


def loss_curve(problem: Pruning, removed: Sequence[int]) -> list[tuple[int, float]]:
    """Return pairs (units removed so far, loss on the selection text); the least harmful units are removed first."""
    text = problem.selection
    alone = evaluate(Job(problem.model, problem.units, text, (), tuple(removed), True, problem.threads))
    order = [removed[i] for i in np.argsort(alone[1:], kind="stable")]
    losses = [
        bits_per_byte_without(problem.model, problem.units, text, order[:count], problem.threads)
        for count in range(1, len(order) + 1)
    ]
    return list(enumerate([float(alone[0] / (math.log(2) * text.n_bytes.sum())), *losses]))


def expected_s(problem: Pruning, tokens_per_s: float) -> dict[str, float]:
    """Return the approximate seconds that the surrogate, the greedy opponent and one scoring take on this problem.

    An evaluation begins at the first removed unit: on average it takes a little more than half a forward pass.
    """
    n, k = len(problem.units), problem.k
    one = EVALUATED_SHARE * problem.calibration.n_predicted / tokens_per_s
    scored = problem.selection.n_predicted / tokens_per_s
    return {
        "surrogate": (1 + n + n * (n - 1) // 2) * one,
        "greedy": (1 + sum(n - i for i in range(k))) * one,
        "each answer": scored,
        "proof of the optimum": EVALUATED_SHARE * (math.comb(n, k) + math.comb(n - 1, k - 1)) * scored,
    }


def announce(what: str, done: int, total: int, began: float) -> None:
    """Log the progress of a long evaluation and the seconds left, estimated from the rate so far."""
    spent = time.monotonic() - began
    if spent >= ANNOUNCED_S and done < total:
        left_s, bar = spent / done * (total - done), {"bar": (what, done, total)}
        log.info("%s: %d of %d evaluated, about %.0f s left", what, done, total, left_s, extra=bar)


def examine_surrogate(problem: Pruning, masks: int, rng: Generator) -> dict[str, Any]:
    """Compare the pairwise expansion with the true loss on the calibration text of a problem.

    Returns:
        `spearman`: rank correlation of both over `masks` uniform k-subsets; `interaction_gap_bpb`: true loss of the
        choice without interactions minus that of the expansion's optimum; `tokens` and `masks` it was measured on;
        `whole_bpb` and `optimum_bpb`, the true loss of the whole model and at the expansion's optimum over all
        k-subsets; `random_bpb`: the lowest, median and highest true loss of the subsets.
    """
    n = len(problem.units)
    singles = children(problem, (), range(n))
    qubo = pairwise_qubo(problem, singles)

    def true_loss(bits: ArrayLike) -> float:
        return bits_per_byte_without(problem.model, problem.units, problem.calibration, removal(bits), problem.threads)

    subsets, losses, began = uniform_subsets(n, problem.k, masks, rng), [], time.monotonic()
    for bits in subsets:
        losses.append(true_loss(bits))
        announce("subsets", len(losses), masks, began)
    additive = np.isin(np.arange(n), lowest(singles[1:], problem.k))
    best_loss = true_loss(minimise_cardinality(qubo, problem.k))
    return {
        "spearman": float(spearmanr(qubo.energies(subsets), losses).statistic),
        "interaction_gap_bpb": true_loss(additive) - best_loss,
        "whole_bpb": float(singles[0]),
        "optimum_bpb": best_loss,
        "random_bpb": [float(np.min(losses)), float(np.median(losses)), float(np.max(losses))],
        "tokens": problem.calibration.n_predicted,
        "masks": masks,
    }


def removal(bits: ArrayLike) -> Removal:
    """Return the positions of the ones."""
    return tuple(int(i) for i in np.flatnonzero(bits))


def lowest(scores: NDArray[np.float64], k: int) -> Removal:
    """Return the positions of the k lowest scores."""
    return tuple(sorted(int(i) for i in np.argsort(scores, kind="stable")[:k]))


def quality(problem: Pruning, removed: Removal) -> tuple[float, ...]:
    """Return minus the bits per byte on the selection text; the allowance is added to the loss of an unpruned model."""
    charge = 0.0 if removed else problem.allowance
    return (-(_selection_loss(problem, removed) + charge),)


def oracle(problem: Pruning) -> tuple[float, ...]:
    """Return the quality of the proven optimum, or of the unpruned model; empty if there is no proof."""
    if problem.optimum is None:
        return ()
    return (max(-problem.optimum, *quality(problem, ())),)


def _selection_loss(problem: Pruning, removed: Removal) -> float:
    """Return the loss on the selection text; arms often agree, so the text is read once for each distinct answer."""
    key = content_key([str(problem.model), problem.units, problem.selection]), removed
    if key not in _LOSSES:
        while len(_LOSSES) >= KEPT_LOSSES:
            del _LOSSES[next(iter(_LOSSES))]
        _LOSSES[key] = bits_per_byte_without(problem.model, problem.units, problem.selection, removed, problem.threads)
    return _LOSSES[key]
