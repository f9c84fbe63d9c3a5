"""The decision `hybrid_layer`: how it is posed in a run, and what follows from it."""

from __future__ import annotations

from tasks.architecture.hybrid_layer.arms import CHALLENGER, INCUMBENT, OTHERS
from tasks.architecture.hybrid_layer.bank import BATCH, CONTEXT, HIDDEN, bank, example
from tasks.architecture.hybrid_layer.options import Options
from tasks.architecture.hybrid_layer.problem import Layer, Predictions, quality
from tasks.contract import CELLS, Budget, Subtask
from tasks.model.windows import read_windows
from tasks.stage import Context, State
from tasks.terms import terms

TERMS = terms("architecture/hybrid_layer")


def pose(context: Context, state: State, options: Options) -> Layer | None:
    """Return the comparison on the text of the run; None where the option is off or a pretrained model is used."""
    del state
    if not options.tokens or context.options.get("model"):
        return None
    shards = context.require("preprocessing/shards")
    needed = -(-options.tokens // CONTEXT)
    return Layer(
        training=read_windows(context.lake, shards, options.domain, "train", needed).shortened(CONTEXT),
        test=read_windows(context.lake, shards, options.domain, "validation", options.windows).shortened(CONTEXT),
        vocab_size=int(context.lake.meta(shards)["vocab_size"]),
        place=options.place,
        width=options.width,
        layers=options.layers,
        shots=options.shots,
        hidden=HIDDEN,
        tokens=options.tokens,
        batch=BATCH,
        seed=context.seed,
        budget=Budget(cpu_s=options.cpu_s),
    )


def apply(context: Context, state: State, problem: Layer, solution: Predictions) -> State:
    """Record what the small model of the chosen arm came to; the model of the run keeps its ordinary layers."""
    del context
    (value,) = quality(problem, solution)
    return state.add(
        hybrid_layer={
            "place": problem.place,
            "bits_per_byte": -value,
            "parameters": solution.parameters,
            "layer_parameters": solution.layer_parameters,
        }
    )


HYBRID_LAYER: Subtask[Layer, Predictions] = Subtask(
    stage="architecture",
    name="hybrid_layer",
    incumbent=INCUMBENT,
    challenger=CHALLENGER,
    others=OTHERS,
    quality=quality,
    metric=TERMS.metric,
    size=lambda problem: problem.tokens,
    tolerance=TERMS.tolerance,
    predictions=TERMS.predictions,
    bank=bank,
    example=example,
    floor=-8.0,
    design=CELLS,
    options=Options,
    pose=pose,
    apply=apply,
)
