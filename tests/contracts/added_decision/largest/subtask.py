"""The decision `largest`: how it is posed in a run, and what follows from it."""

from __future__ import annotations

from tasks.contract import Subtask
from tasks.curation.largest.arms import CHALLENGER, INCUMBENT, OTHERS
from tasks.curation.largest.bank import bank, example
from tasks.curation.largest.options import Options
from tasks.curation.largest.problem import Lengths, quality
from tasks.stage import Context, State
from tasks.terms import terms

TERMS = terms("curation/largest")


def pose(context: Context, state: State, options: Options) -> Lengths:
    """Return the lengths of the first candidates."""
    rows = context.lake.read(state.refs["curation/candidates"], ["doc_id", "n_bytes"]).to_pylist()
    rows = sorted(rows, key=lambda row: row["doc_id"])[: options.documents]
    return Lengths(tuple(row["n_bytes"] for row in rows))


def apply(_: Context, state: State, problem: Lengths, chosen: int) -> State:
    """Record the length that was chosen."""
    return state.add(longest_bytes=problem.values[chosen])


LARGEST: Subtask[Lengths, int] = Subtask(
    stage="curation",
    name="largest",
    incumbent=INCUMBENT,
    challenger=CHALLENGER,
    others=OTHERS,
    quality=quality,
    metric=TERMS.metric,
    size=lambda problem: len(problem.values),
    tolerance=TERMS.tolerance,
    predictions=TERMS.predictions,
    bank=bank,
    example=example,
    oracle=lambda _: (1.0,),
    floor=1.0,
    options=Options,
    pose=pose,
    apply=apply,
)
