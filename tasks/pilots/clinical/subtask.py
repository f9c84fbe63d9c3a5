"""The pilot `clinical` as a decision: which classifier predicts a clinical outcome."""

from __future__ import annotations

from tasks.contract import PILOTS, Design, Subtask
from tasks.pilots.clinical.arms import CHALLENGER, INCUMBENT, OTHERS
from tasks.pilots.clinical.bank import bank, example
from tasks.pilots.clinical.problem import Clinical, Predictions, measures, quality
from tasks.terms import terms

TERMS = terms("pilots/clinical")

CLINICAL: Subtask[Clinical, Predictions] = Subtask(
    stage=PILOTS,
    name="clinical",
    incumbent=INCUMBENT,
    challenger=CHALLENGER,
    others=OTHERS,
    quality=quality,
    metric=TERMS.metric,
    size=lambda problem: len(problem.labels) + len(problem.truth),
    tolerance=TERMS.tolerance,
    predictions=TERMS.predictions,
    bank=bank,
    example=example,
    floor=0.6,
    design=Design("cells", least=10, sources=3),
    measures=measures,
)
