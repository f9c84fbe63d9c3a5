"""The decision `state_loading`: how a run poses the problem and applies the solution."""

from __future__ import annotations

import logging
from hashlib import sha256

import numpy as np
import pyarrow as pa

from infra.lake import Lake, Ref
from tasks.contract import Subtask
from tasks.preprocessing.documents import read_rows
from tasks.preprocessing.state_loading.arms import CHALLENGER, INCUMBENT, OTHERS
from tasks.preprocessing.state_loading.bank import PIECE, bank, example
from tasks.preprocessing.state_loading.options import Options
from tasks.preprocessing.state_loading.problem import Loaded, Loading, quality
from tasks.stage import Context, State
from tasks.terms import terms
from tasks.text.embeddings import embed

log = logging.getLogger("ketcycle.preprocessing")

TERMS = terms("preprocessing/state_loading")


def pose(context: Context, state: State, options: Options) -> Loading | None:
    """Return the problem with the vectors of some documents; None if there are too few documents."""
    names, background = _documents(context, state, options)
    if not names or len(background) < LEAST_BACKGROUND:
        return None
    texts = _heads(context.lake, context.require("curation/kept"), {*names, *background})
    return Loading(
        vectors=embed([texts[name] for name in names]),
        background=embed([texts[name] for name in background]),
        size=options.size,
        cells=options.cells,
        passes=options.passes,
        start=context.seed,
        shots=options.shots,
        names=tuple(names),
    )


def apply(context: Context, state: State, problem: Loading, solution: Loaded) -> State:
    """Store the vectors as restored from the chosen form, each with its fidelity."""
    names = problem.names
    if len(names) != len(solution.vectors):
        raise ValueError(
            f"the solution is for {len(solution.vectors)} vectors, not for the {len(names)} of the problem"
        )
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(solution.vectors.ravel()), solution.vectors.shape[1])
    table = pa.table({"doc_id": names, "vector": vectors, "fidelity": pa.array(solution.fidelities, pa.float64())})
    about = {
        "documents": len(names),
        "fidelity": float(np.mean(solution.fidelities)),
        "bytes": solution.size,
        "float32_bytes": 4 * solution.vectors.shape[1],
        "two_qubit_gates": solution.two_qubit_gates,
        "depth": solution.depth,
        "preparations": solution.preparations,
    }
    log.info("vectors kept in %(bytes)d of %(float32_bytes)d bytes, mean fidelity %(fidelity).4f", about)
    return state.add({"preprocessing/vectors": context.lake.write("preprocessing/vectors", table)}, state_loading=about)


def _documents(context: Context, state: State, options: Options) -> tuple[list[str], list[str]]:
    """Return the ids of the documents to be loaded and of the background, in an order that depends on the ids only."""
    dropped = set(context.lake.read(state.refs["preprocessing/dropped"], ["doc_id"])["doc_id"].to_pylist())  # or cut
    names = context.lake.read(context.require("curation/kept"), ["doc_id"])["doc_id"].to_pylist()
    names = sorted((n for n in names if n not in dropped), key=lambda name: sha256(name.encode()).digest())
    count = options.vectors
    return names[:count], names[count : count + options.background]


def _heads(lake: Lake, kept: Ref, chosen: set[str]) -> dict[str, str]:
    rows = (row for batch in read_rows(lake, kept, ["doc_id", "text"]) for row in batch)
    return {row["doc_id"]: row["text"][:PIECE] for row in rows if row["doc_id"] in chosen}


LEAST_BACKGROUND = 32  # fewer documents do not determine useful axes
FUNCTIONAL_UNIT = 1_000_000  # vectors kept, that axes and codebooks serve before they are learnt anew


STATE_LOADING: Subtask[Loading, Loaded] = Subtask(
    stage="preprocessing",
    name="state_loading",
    incumbent=INCUMBENT,
    challenger=CHALLENGER,
    others=OTHERS,
    quality=quality,
    metric=TERMS.metric,
    size=lambda problem: len(problem.vectors),
    tolerance=TERMS.tolerance,
    predictions=TERMS.predictions,
    bank=bank,
    example=example,
    oracle=lambda _: (1.0,),
    floor=0.8,
    options=Options,
    pose=pose,
    apply=apply,
    counts="vectors kept",
    serves=lambda problem: max(1.0, FUNCTIONAL_UNIT / len(problem.vectors)),
)
