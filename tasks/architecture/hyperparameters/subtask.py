"""The decision `hyperparameters`: how it is posed in a run, and what follows from it."""

from __future__ import annotations

import logging

import numpy as np

from infra.errors import BadInput
from tasks.architecture.hyperparameters.arms import CHALLENGER, INCUMBENT, OTHERS
from tasks.architecture.hyperparameters.bank import bank, example
from tasks.architecture.hyperparameters.options import Options
from tasks.architecture.hyperparameters.problem import Found, Search, oracle, quality
from tasks.architecture.hyperparameters.runs import Real
from tasks.architecture.hyperparameters.space import values
from tasks.contract import CELLS, Budget, Subtask
from tasks.model.windows import Windows, read_windows
from tasks.stage import Context, State
from tasks.terms import terms

log = logging.getLogger("ketcycle.architecture")

TERMS = terms("architecture/hyperparameters")
LONGEST = 64  # tokens of a window of the small model


def pose(context: Context, state: State, options: Options) -> Search | None:
    """Return the search on the text of the run; None where no search is asked for or a pretrained model is used.

    Raises:
        BadInput: the text has too few windows, or the start design more runs than the search.
    """
    del state
    if not options.trials or context.options.get("model"):
        return None
    if options.start > options.trials:
        raise BadInput(
            f"architecture.hyperparameters.start ({options.start}) should not be more than "
            f"architecture.hyperparameters.trials ({options.trials})"
        )
    shards = context.require("preprocessing/shards")
    needed = -(-options.tokens // LONGEST)
    training = _shortened(read_windows(context.lake, shards, options.domain, "train", needed), needed)
    held_out = _shortened(read_windows(context.lake, shards, options.domain, "validation"), 2 * options.windows)
    if len(held_out) < 2:
        raise BadInput("the search needs at least two windows of validation text; give more text")
    half = len(held_out) // 2
    parts = [Windows(held_out.tokens[rows], held_out.n_bytes[rows]) for rows in (slice(half), slice(half, 2 * half))]
    vocab_size = int(context.lake.meta(shards)["vocab_size"])
    return Search(
        runs=Real(training, *parts, vocab_size=vocab_size, tokens=options.tokens, seed=context.seed),
        trials=options.trials,
        start=options.start,
        parallel=options.parallel,
        cell=context.seed,
        budget=Budget(cpu_s=options.cpu_s),
    )


def apply(context: Context, state: State, problem: Search, solution: Found) -> State:
    """Record the setting found; `choose_shape` and the training take it where their options are not set."""
    del context
    best = solution.best
    chosen = dict(values(best.setting))
    log.info("hyperparameters after %d runs: %s", len(solution.trials), chosen)
    return state.add(
        hyperparameters=chosen
        | {
            "runs": len(solution.trials),
            "stopped_early": sum(trial.quarters < 4 for trial in solution.trials),
            "validation": best.validation,
            "test": best.test,
            "queries": solution.queries,
            "losses": [(number + 1, trial.validation) for number, trial in enumerate(solution.trials)],
            "tokens": problem.runs.tokens if isinstance(problem.runs, Real) else 0,
        }
    )


def _shortened(windows: Windows, limit: int) -> Windows:
    """Return at most `limit` windows cut to 64 tokens; the bytes of a cut window are those of its share of tokens."""
    spread = windows.spread(limit)
    if spread.context <= LONGEST:
        return spread
    share = np.rint(spread.n_bytes * LONGEST / spread.context).astype(np.int64)
    return Windows(spread.tokens[:, : LONGEST + 1], np.maximum(share, 1))


HYPERPARAMETERS: Subtask[Search, Found] = Subtask(
    stage="architecture",
    name="hyperparameters",
    incumbent=INCUMBENT,
    challenger=CHALLENGER,
    others=OTHERS,
    quality=quality,
    metric=TERMS.metric,
    size=lambda problem: problem.trials,
    tolerance=TERMS.tolerance,
    predictions=TERMS.predictions,
    bank=bank,
    example=example,
    oracle=oracle,
    floor=-4.5,
    design=CELLS,
    options=Options,
    pose=pose,
    apply=apply,
)
