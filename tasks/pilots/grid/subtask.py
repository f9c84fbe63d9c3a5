"""The pilot `grid` as a decision: which method puts the days of the grid into clusters."""

from __future__ import annotations

from tasks.contract import PILOTS, Design, Subtask
from tasks.pilots.grid.arms import CHALLENGER, INCUMBENT, OTHERS
from tasks.pilots.grid.bank import bank, example
from tasks.pilots.grid.problem import Clusters, Grid, measures, quality
from tasks.terms import terms

TERMS = terms("pilots/grid")

GRID: Subtask[Grid, Clusters] = Subtask(
    stage=PILOTS,
    name="grid",
    incumbent=INCUMBENT,
    challenger=CHALLENGER,
    others=OTHERS,
    quality=quality,
    metric=TERMS.metric,
    size=lambda problem: len(problem.points),
    tolerance=TERMS.tolerance,
    predictions=TERMS.predictions,
    bank=bank,
    example=example,
    floor=0.2,
    design=Design("cells", least=10, sources=3),
    measures=measures,
)
