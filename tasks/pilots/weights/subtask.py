"""The pilot `weights` as a decision that is on no stage's road."""

from __future__ import annotations

from tasks.contract import CELLS, PILOTS, Subtask
from tasks.pilots.weights.arms import CHALLENGER, INCUMBENT, OTHERS
from tasks.pilots.weights.bank import bank, example
from tasks.pilots.weights.problem import Trained, Training, measures, quality
from tasks.terms import terms

TERMS = terms("pilots/weights")

WEIGHTS: Subtask[Training, Trained] = Subtask(
    stage=PILOTS,
    name="weights",
    incumbent=INCUMBENT,
    challenger=CHALLENGER,
    others=OTHERS,
    quality=quality,
    metric=TERMS.metric,
    size=lambda problem: problem.weights,
    tolerance=TERMS.tolerance,
    predictions=TERMS.predictions,
    bank=bank,
    example=example,
    oracle=lambda _: (1.0,),
    floor=0.8,
    design=CELLS,
    counts="weights",
    measures=measures,
)
