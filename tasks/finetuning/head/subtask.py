"""The decision `head`: how a run poses the problem and applies the solution."""

from __future__ import annotations

import numpy as np

from tasks.contract import CELLS, Subtask
from tasks.finetuning.head.arms import CHALLENGER, INCUMBENT, OTHERS
from tasks.finetuning.head.bank import bank, example, few_shot
from tasks.finetuning.head.options import Options
from tasks.finetuning.head.problem import FewShot, Labels, quality
from tasks.finetuning.options import Options as StageOptions
from tasks.stage import Context, State
from tasks.terms import terms
from tasks.text.windows import passages, spread

TERMS = terms("finetuning/head")


def pose(context: Context, _: State, options: Options) -> FewShot | None:
    """Return the task of telling the run's two domains apart on held-out text; None without enough text of both."""
    if not options.per_class or "preprocessing/holdout" not in context.inputs:
        return None
    stage, need = context.parsed(StageOptions), options.per_class + options.tested
    rng = np.random.default_rng([context.seed, 6])
    texts: dict[str, list[list[str]]] = {stage.base: [], stage.domain: []}
    for batch in context.lake.scan(context.inputs["preprocessing/holdout"], columns=["domain", "text"]):
        for row in batch.to_pylist():
            if row["domain"] in texts:
                texts[row["domain"]].append(passages(row["text"], options.words))
    pools = []
    for cut in texts.values():
        chosen = spread(cut, min(need, sum(map(len, cut))))
        if len(chosen) < need:
            return None
        pools.append([chosen[i] for i in rng.permutation(need)])
    sizes = {"components": options.components, "layers": options.layers, "steps": options.steps, "shots": options.shots}
    return few_shot(pools, options.per_class, **sizes)


def apply(_: Context, state: State, problem: FewShot, solution: Labels) -> State:
    """Record the share of right labels."""
    (right,) = quality(problem, solution)
    return state.add(head={"right": right, "labels": len(problem.labels), "tested": len(problem.test)})


HEAD: Subtask[FewShot, Labels] = Subtask(
    stage="finetuning",
    name="head",
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
    floor=0.6,
    design=CELLS,
    options=Options,
    pose=pose,
    apply=apply,
)
