"""The decision `hyperparameters`: how a run poses the search, and what follows from it."""

from __future__ import annotations

import logging

from tasks.architecture.hyperparameters.arms import CHALLENGER, INCUMBENT, OTHERS
from tasks.architecture.hyperparameters.bank import bank, example
from tasks.architecture.hyperparameters.options import Options
from tasks.architecture.hyperparameters.problem import Found, Search, oracle, quality
from tasks.architecture.hyperparameters.runs import QUARTERS, Real
from tasks.architecture.hyperparameters.space import values
from tasks.architecture.options import Options as StageOptions
from tasks.contract import CELLS, Budget, Subtask
from tasks.model.windows import Windows, read_windows
from tasks.stage import Context, State
from tasks.terms import terms

log = logging.getLogger("ketcycle.architecture")

CONTEXT = 64  # tokens that the small model reads
TERMS = terms("architecture/hyperparameters")


def pose(context: Context, state: State, options: Options) -> Search | None:
    """Return the search on the text of the run; None where the option is off or a pretrained model is used."""
    del state
    if not options.trials or context.parsed(StageOptions).model:
        return None
    shards = context.require("preprocessing/shards")

    def windows(split: str, limit: int) -> Windows:
        return read_windows(context.lake, shards, options.domain, split, limit).shortened(CONTEXT)

    return Search(
        runs=Real(
            training=windows("train", -(-options.tokens // CONTEXT)),
            validation=windows("validation", options.windows),
            test=windows("test", options.windows),
            vocab_size=int(context.lake.meta(shards)["vocab_size"]),
            tokens=options.tokens,
            seed=context.seed,
        ),
        trials=options.trials,
        start=min(options.start, options.trials),
        parallel=options.parallel,
        cell=context.seed,
        budget=Budget(cpu_s=options.cpu_s),
    )


def apply(context: Context, state: State, problem: Search, solution: Found) -> State:
    """Record the best setting: the shape follows its depth, the training takes the rest where its options are open."""
    del context, problem
    best = solution.best
    found = dict(values(best.setting))
    stopped = sum(trial.quarters < QUARTERS for trial in solution.trials)
    log.info("hyperparameters: %s", ", ".join(f"{name} {value:g}" for name, value in found.items()))
    return state.add(
        hyperparameters={
            **found,
            "depth": int(found["depth"]),
            "batch": int(found["batch"]),
            "runs": len(solution.trials),
            "stopped_early": stopped,
            "bits_per_byte": best.validation,
            "losses": [[number, trial.validation] for number, trial in enumerate(solution.trials, 1)],
        }
    )


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
    floor=-6.0,
    design=CELLS,
    options=Options,
    pose=pose,
    apply=apply,
)
