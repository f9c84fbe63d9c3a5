"""The pilot `flights` as a decision that is on no stage's road."""

from __future__ import annotations

from tasks.architecture.hyperparameters.problem import Found, Search
from tasks.contract import CELLS, PILOTS, Subtask
from tasks.pilots.flights.arms import CHALLENGER, INCUMBENT, OTHERS
from tasks.pilots.flights.bank import bank, example
from tasks.pilots.flights.problem import measures, quality
from tasks.terms import terms

TERMS = terms("pilots/flights")

FLIGHTS: Subtask[Search, Found] = Subtask(
    stage=PILOTS,
    name="flights",
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
    oracle=lambda _: (0.0,),
    floor=-0.03,
    design=CELLS,
    measures=measures,
)
