"""The decision `adapter`: how a run poses the problem and applies the solution."""

from __future__ import annotations

import logging
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from tasks.contract import CELLS, Subtask
from tasks.finetuning.adapter.arms import CHALLENGER, INCUMBENT, OTHERS
from tasks.finetuning.adapter.bank import bank, example
from tasks.finetuning.adapter.options import Options
from tasks.finetuning.adapter.problem import Adaptation, Adapted, changed, quality
from tasks.finetuning.adapter.sites import Sizes, at_best_site
from tasks.finetuning.options import Options as StageOptions
from tasks.finetuning.target import read_target
from tasks.model.causal import load_model, save_model
from tasks.stage import Context, State
from tasks.terms import terms

log = logging.getLogger("ketcycle.finetuning")

TERMS = terms("finetuning/adapter")


def pose(context: Context, state: State, options: Options) -> Adaptation | None:
    """Return the problem of one projection of the adapted model; None if it is left out or the model has no such."""
    folder = context.lake.folder(state.refs["finetuning/model"])
    if not options.steps or not _has_blocks(folder):
        return None
    stage = context.parsed(StageOptions)
    target = read_target(context, stage)
    count = max(1, options.positions // target.validation.context)
    if len(target.validation) < 2 * count:
        log.info("adapter: %d validation windows are too few, %d are needed", len(target.validation), 2 * count)
        return None
    held = target.validation
    texts = target.train, held.take(slice(0, -count)), held.take(slice(-count, None))
    sizes = Sizes(options.steps, options.batch, options.rates, options.block, options.shots, stage.threads)
    return at_best_site(folder, texts, sizes)


def apply(context: Context, state: State, problem: Adaptation, solution: Adapted) -> State:
    """Store the model with the adapter merged, if that lowers the loss of the text on which it was executed."""
    before, after = (-quality(problem, one)[0] for one in (Adapted({}, None, 0), solution))
    state = state.add(site={"name": problem.site, "before": before, "after": after, "trained": solution.trained})
    model: Any = load_model(problem.model)
    known = {name for name, _ in model.named_parameters()}
    if not solution.weights or not set(solution.weights) <= known or after >= before:
        return state
    with changed(model, problem.site, solution):
        pass
    with TemporaryDirectory(dir=context.scratch) as folder:
        copytree(problem.model, folder, dirs_exist_ok=True)
        save_model(model, Path(folder))
        about = {**context.lake.meta(state.refs["finetuning/model"]), "site": problem.site}
        ref = context.lake.put_folder("finetuning/model", Path(folder), about)
    log.info("adapter of %s: %.3f to %.3f bits per byte on held-out text", problem.site, before, after)
    return state.add({"finetuning/model": ref})


def _has_blocks(folder: Path) -> bool:
    """Return whether the model is built as Llama is; only such models can be run from a block on."""
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder, local_files_only=True))
    return isinstance(getattr(getattr(model, "model", None), "layers", None), nn.ModuleList)


def size(problem: Adaptation) -> int:
    """Return the number of positions of the test text."""
    return int(np.prod(problem.test.tokens[:, 1:].shape))


ADAPTER: Subtask[Adaptation, Adapted] = Subtask(
    stage="finetuning",
    name="adapter",
    incumbent=INCUMBENT,
    challenger=CHALLENGER,
    others=OTHERS,
    quality=quality,
    metric=TERMS.metric,
    size=size,
    tolerance=TERMS.tolerance,
    predictions=TERMS.predictions,
    bank=bank,
    example=example,
    floor=-8.5,
    design=CELLS,
    options=Options,
    pose=pose,
    apply=apply,
)
