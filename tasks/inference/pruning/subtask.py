"""The decision `pruning`: how it is posed in a run, and what follows from it."""

from __future__ import annotations

import logging
from dataclasses import replace

from transformers import AutoConfig

from tasks.contract import Subtask
from tasks.inference.options import Options as StageOptions
from tasks.inference.pruning.arms import CHALLENGER, INCUMBENT, OTHERS
from tasks.inference.pruning.bank import bank, example
from tasks.inference.pruning.options import Options
from tasks.inference.pruning.problem import (
    Pruning,
    Removal,
    loss_curve,
    oracle,
    quality,
)
from tasks.inference.pruning.units import Layout, Unit, choose_units, whole_blocks
from tasks.inference.pruning.variables import least_harmful, leave_one_out
from tasks.inference.texts import SOURCES, context_length, mixed_windows
from tasks.model.threads import torch_threads
from tasks.model.windows import Windows
from tasks.stage import Context, State
from tasks.terms import terms

log = logging.getLogger("ketcycle.inference")

TERMS = terms("inference/pruning")


def pose(context: Context, state: State, options: Options) -> Pruning | None:
    """Return which units there are to choose from; None for a model that cannot be cut."""
    units, _ = find_units(context, options)
    if not units:
        return None
    problem = make_problem(context, options, units, options.calibration_tokens)
    return replace(problem, optimum=state.facts.get("optimum", {}).get("bits_per_byte"))


def apply(context: Context, state: State, problem: Pruning, solution: Removal) -> State:
    """Record which units go, and the loss as they go one after the other; the next step changes the weights."""
    del context
    gone = [str(problem.units[index]) for index in solution]
    log.info("removing %s", ", ".join(gone) or "nothing")
    with torch_threads(problem.threads):
        curve = loss_curve(problem, solution) if solution else []
    return state.add(removed=list(solution), removed_units=gone, pruning_curve=curve)


def find_units(context: Context, options: Options) -> tuple[tuple[Unit, ...], str]:
    """Return the units of the model, or none and the reason; a model that cannot be cut finer is cut in blocks."""
    folder = context.lake.folder(context.require(*SOURCES))
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    try:
        if options.parts == "heads":
            return choose_units(Layout.of(config), options.units), ""
    except ValueError as error:
        log.info("%s; whole blocks are the units", error)
    depth = int(config.num_hidden_layers)
    if depth < 2:
        return (), f"a model of {depth} block has nothing that could be removed"
    if depth <= options.units:
        return whole_blocks(range(depth)), ""
    text, threads = _calibration(context, options.calibration_tokens), context.parsed(StageOptions).threads
    losses = leave_one_out(folder, depth, text, threads, context.scratch / "losses")
    return whole_blocks(least_harmful(losses, options.units)), ""


def make_problem(context: Context, options: Options, units: tuple[Unit, ...], tokens: int) -> Pruning:
    """Return the choice among some units, with calibration text of at least `tokens` tokens."""
    return Pruning(
        model=context.lake.folder(context.require(*SOURCES)),
        units=units,
        k=min(max(1, round(options.share * len(units))), len(units) - 1),
        calibration=_calibration(context, tokens),
        selection=mixed_windows(context, "validation", options.selection_windows),
        allowance=options.allowance,
        threads=context.parsed(StageOptions).threads,
    )


def _calibration(context: Context, tokens: int) -> Windows:
    """Return evenly spaced training windows of at least as many tokens, where there are as many."""
    return mixed_windows(context, "train", max(1, -(-tokens // context_length(context))))


PRUNING: Subtask[Pruning, Removal] = Subtask(
    stage="inference",
    name="pruning",
    incumbent=INCUMBENT,
    challenger=CHALLENGER,
    others=OTHERS,
    quality=quality,
    metric=TERMS.metric,
    size=lambda problem: len(problem.units),
    tolerance=TERMS.tolerance,
    predictions=TERMS.predictions,
    bank=bank,
    example=example,
    oracle=oracle,
    floor=-3.75,
    options=Options,
    pose=pose,
    apply=apply,
)
