"""The decision `gradients`: how a run poses the problem and records the solution."""

from __future__ import annotations

import logging

import numpy as np

from tasks.contract import CELLS, Subtask
from tasks.stage import Context, State
from tasks.terms import terms
from tasks.text.embeddings import embed
from tasks.training.gradients.arms import CHALLENGER, INCUMBENT, OTHERS
from tasks.training.gradients.bank import bank, example, make_task
from tasks.training.gradients.options import Options
from tasks.training.gradients.problem import Texts, Trained, outputs, quality
from tasks.training.options import Options as StageOptions

log = logging.getLogger("ketcycle.training")

TERMS = terms("training/gradients")


def pose(context: Context, state: State, options: Options) -> Texts | None:
    """Return the task of telling the held-out texts of the run's domains apart; None with fewer than two domains."""
    del state
    if not options.texts or context.parsed(StageOptions).model:
        return None
    texts: dict[str, list[str]] = {}
    for batch in context.lake.scan(context.require("preprocessing/holdout")):
        for row in batch.to_pylist():
            texts.setdefault(row["domain"], []).append(" ".join(row["text"].split()[:60]))
    kinds = [texts[name][: 2 * options.texts] for name in sorted(texts)][:2]
    count = min(map(len, kinds), default=0)
    if len(kinds) < 2 or count < 2 * options.qubits:
        log.info("too few held-out texts of two domains to train a circuit layer on")
        return None
    vectors = [embed(kind[:count]).astype(np.float64) for kind in kinds]
    return make_task(
        vectors[0], vectors[1], count // 2, options.qubits, options.layers, context.seed, options.executions
    )


def apply(context: Context, state: State, problem: Texts, solution: Trained) -> State:
    """Record the trained circuit layer: its loss and accuracy on texts it has not seen."""
    del context
    out = outputs(problem, np.array([solution.weights]), problem.held_out)[0]
    accuracy = float((np.sign(out) == problem.held_out_labels).mean())
    figures = {"loss": -quality(problem, solution)[0], "accuracy": accuracy, "weights": problem.size}
    log.info("circuit layer: held-out loss %.3f, accuracy %.2f", figures["loss"], accuracy)
    return state.add(circuit_layer=figures)


GRADIENTS: Subtask[Texts, Trained] = Subtask(
    stage="training",
    name="gradients",
    incumbent=INCUMBENT,
    challenger=CHALLENGER,
    others=OTHERS,
    quality=quality,
    metric=TERMS.metric,
    size=lambda problem: problem.qubits,
    tolerance=TERMS.tolerance,
    predictions=TERMS.predictions,
    bank=bank,
    example=example,
    floor=-0.8,
    design=CELLS,
    options=Options,
    pose=pose,
    apply=apply,
)
