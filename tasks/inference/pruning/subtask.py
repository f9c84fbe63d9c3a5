"""The decision `pruning`: how a run poses the problem and applies the solution."""

from __future__ import annotations

import logging
from dataclasses import replace

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
    """Return the problem with the removable units; None for a model without removable units."""
    units, _ = find_units(context, options)
    if not units:
        return None
    problem = make_problem(context, options, units, options.calibration_tokens)
    return replace(problem, optimum=state.facts.get("optimum", {}).get("bits_per_byte"))


def apply(context: Context, state: State, problem: Pruning, solution: Removal) -> State:
    """Record the removed units and the loss after each removal; the next step changes the weights."""
    del context
    gone = [str(problem.units[index]) for index in solution]
    log.info("removing %s", ", ".join(gone) or "nothing")
    with torch_threads(problem.threads):
        curve = loss_curve(problem, solution) if solution else []
    return state.add(removed=list(solution), removed_units=gone, pruning_curve=curve)


def find_units(context: Context, options: Options) -> tuple[tuple[Unit, ...], str]:
    """Return the units of the model, or none and the reason; units are whole blocks if finer ones are impossible."""
    from transformers import AutoConfig

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
    """Return the problem over some units, with calibration text of at least `tokens` tokens."""
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
    """Return evenly spaced training windows with at least `tokens` tokens, or all windows if there are fewer."""
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
