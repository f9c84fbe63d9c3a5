"""The pilot `sentiment` as a decision that is on no stage's road."""

from __future__ import annotations

from tasks.contract import CELLS, PILOTS, Subtask
from tasks.finetuning.head.problem import FewShot, Labels, quality
from tasks.pilots.sentiment.arms import CHALLENGER, INCUMBENT, OTHERS
from tasks.pilots.sentiment.bank import bank, example
from tasks.pilots.sentiment.problem import measures
from tasks.terms import terms

TERMS = terms("pilots/sentiment")

SENTIMENT: Subtask[FewShot, Labels] = Subtask(
    stage=PILOTS,
    name="sentiment",
    incumbent=INCUMBENT,
    challenger=CHALLENGER,
    others=OTHERS,
    quality=quality,
    metric=TERMS.metric,
    size=lambda problem: len(problem.labels),
    tolerance=TERMS.tolerance,
    predictions=TERMS.predictions,
    bank=bank,
    example=example,
    oracle=lambda problem: (1.0,) if problem.truth else (),
    floor=0.4,
    design=CELLS,
    measures=measures,
)
