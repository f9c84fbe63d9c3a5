"""The decision `low_rank`: how a run poses the problem and applies the solution."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from tasks.contract import Subtask
from tasks.finetuning.low_rank.arms import CHALLENGER, INCUMBENT, OTHERS
from tasks.finetuning.low_rank.bank import at_site, bank, example
from tasks.finetuning.low_rank.options import Options
from tasks.finetuning.low_rank.problem import Approximation, Matrix, best_error, quality
from tasks.finetuning.options import Options as StageOptions
from tasks.finetuning.target import domain_windows
from tasks.model.causal import load_model
from tasks.model.score import bits_per_byte
from tasks.model.threads import torch_threads
from tasks.stage import Context, State
from tasks.terms import terms

log = logging.getLogger("ketcycle.finetuning")

TERMS = terms("finetuning/low_rank")


def pose(context: Context, _: State, options: Options) -> Matrix | None:
    """Return the feed-forward output of the middle block with what it reads; None if it is left out or not there."""
    if not options.share:
        return None
    model: Any = load_model(context.lake.folder(context.require("training/model")))
    site = _site(model)
    if site is None or any(side % options.block for side in model.model.get_submodule(site).weight.shape):
        return None
    stage = context.parsed(StageOptions)
    text = domain_windows(context, stage.base, "validation")
    count = max(1, -(-options.positions // text.context))
    sizes = {"block": options.block, "layers": options.layers, "steps": options.steps, "shots": options.shots}
    with torch_threads(stage.threads):
        return at_site(model, site, text.take(slice(0, count)), options.share, **sizes)


def apply(context: Context, state: State, problem: Matrix, solution: Approximation) -> State:
    """Report what the approximation costs the model: the error, and bits per byte with it in place."""
    stage = context.parsed(StageOptions)
    model: Any = load_model(context.lake.folder(context.require("training/model")))
    site = _site(model)
    text = domain_windows(context, stage.base, "validation", stage.evaluation_windows)
    with torch_threads(stage.threads):
        before = bits_per_byte(model, text)
        with torch.no_grad():
            model.model.get_submodule(site).weight.copy_(torch.from_numpy(solution.weight))
        after = bits_per_byte(model, text)
    least = best_error(problem.weight, problem.rank)
    error = float(((problem.weight - solution.weight) ** 2).sum() ** 0.5)
    found = {"site": site, "rank": problem.rank, "stored_share": solution.stored / problem.weight.size,
             "output_error": -quality(problem, solution)[0], "weight_error": error / least if least else 1.0,
             "before": before, "after": after}  # fmt: skip
    log.info("%s at rank %d: %.3f to %.3f bits per byte", site, problem.rank, before, after)
    return state.add(low_rank=found)


def _site(model: Any) -> str | None:
    layers = getattr(getattr(model, "model", None), "layers", None)
    if not isinstance(layers, nn.ModuleList) or not hasattr(getattr(layers[0], "mlp", None), "down_proj"):
        return None
    return f"layers.{len(layers) // 2}.mlp.down_proj"


LOW_RANK: Subtask[Matrix, Approximation] = Subtask(
    stage="finetuning",
    name="low_rank",
    incumbent=INCUMBENT,
    challenger=CHALLENGER,
    others=OTHERS,
    quality=quality,
    metric=TERMS.metric,
    size=lambda problem: min(problem.weight.shape),
    tolerance=TERMS.tolerance,
    predictions=TERMS.predictions,
    bank=bank,
    example=example,
    floor=-0.9,
    options=Options,
    pose=pose,
    apply=apply,
)
