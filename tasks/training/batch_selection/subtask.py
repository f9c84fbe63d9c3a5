"""The decision `batch_selection`: how a run poses the problem and applies the solution."""

from __future__ import annotations

import logging

import numpy as np
import pyarrow as pa

from tasks.contract import CELLS, Subtask
from tasks.stage import Context, State
from tasks.terms import terms
from tasks.training.batch_selection.arms import CHALLENGER, INCUMBENT, OTHERS
from tasks.training.batch_selection.bank import bank, example
from tasks.training.batch_selection.options import Options
from tasks.training.batch_selection.problem import Pool, Rows, quality
from tasks.training.text import count_training, options_of, read_training, vocabulary

log = logging.getLogger("ketcycle.training")

TERMS = terms("training/batch_selection")


def pose(context: Context, state: State, options: Options) -> Pool | None:
    """Return the windows that the training reads; None where nothing is trained or they are more than the pool takes.

    The problem of a run has no held-out text: scoring an arm means one more training, so evidence comes from studies.
    """
    del state
    stage = options_of(context)
    if stage.model or not options.pool:
        return None
    n = count_training(context, stage)
    if not options.block <= n <= options.pool:
        log.info("the training reads %d windows, the pool takes %d to %d: no selection", n, options.block, options.pool)
        return None
    windows = read_training(context, stage, n - n % options.block)
    size = vocabulary(context)
    return Pool(
        tokens=windows.tokens.astype(np.uint16) if size <= 1 << 16 else windows.tokens.astype(np.uint32),
        vocabulary=size,
        keep=min(max(1, round(options.share * options.block)), options.block - 1),
        block=options.block,
        shots=options.shots,
        seed=context.seed,
    )


def apply(context: Context, state: State, problem: Pool, solution: Rows) -> State:
    """Store which windows the model is trained on; the whole pool means no restriction."""
    log.info("%d of %d windows are read in training", len(solution), len(problem.tokens))
    state = state.add(selected={"windows": len(solution), "of": len(problem.tokens)})
    if len(solution) == len(problem.tokens):
        return state
    table = pa.table({"row": pa.array(solution, pa.int64())})
    meta = {"pool": len(problem.tokens)}
    return state.add({"training/selection": context.lake.write("training/selection", table, meta)})


BATCH_SELECTION: Subtask[Pool, Rows] = Subtask(
    stage="training",
    name="batch_selection",
    incumbent=INCUMBENT,
    challenger=CHALLENGER,
    others=OTHERS,
    quality=quality,
    metric=TERMS.metric,
    size=lambda problem: problem.block,
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
