"""The decision `distillation`: how a run poses the problem and applies the solution."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory

from transformers import AutoConfig

from tasks.contract import CELLS, Subtask
from tasks.finetuning.distillation.arms import CHALLENGER, INCUMBENT, OTHERS
from tasks.finetuning.distillation.bank import bank, example
from tasks.finetuning.distillation.options import Options
from tasks.finetuning.distillation.problem import Distillation, Student, quality, restored
from tasks.finetuning.options import Options as StageOptions
from tasks.finetuning.target import domain_windows
from tasks.model.causal import save_model
from tasks.stage import Context, State
from tasks.terms import terms

TERMS = terms("finetuning/distillation")


def pose(context: Context, state: State, options: Options) -> Distillation | None:
    """Return the problem of a student half as wide and deep as the adapted model; None if it is left out."""
    folder = context.lake.folder(state.refs["finetuning/model"])
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if not options.tokens or config.model_type != "llama" or config.num_hidden_layers < 2:
        return None
    stage = context.parsed(StageOptions)
    length = int(context.lake.meta(context.require("preprocessing/shards"))["context"])
    return Distillation(
        folder,
        config.hidden_size // 2,
        config.num_hidden_layers // 2,
        domain_windows(context, stage.base, "train", max(options.batch, options.tokens // (options.readings * length))),
        domain_windows(context, stage.base, "validation", stage.evaluation_windows),
        options.tokens,
        batch=options.batch,
        draws=options.draws,
        shots=options.shots,
        threads=stage.threads,
    )


def apply(context: Context, state: State, problem: Distillation, solution: Student) -> State:
    """Store the student beside the model."""
    with TemporaryDirectory(dir=context.scratch) as folder:
        copytree(context.lake.folder(context.require("preprocessing/tokenizer")), folder, dirs_exist_ok=True)
        save_model(restored(problem, solution), Path(folder))
        teacher = str(state.refs["finetuning/model"])
        ref = context.lake.put_folder("finetuning/student", Path(folder), {"teacher": teacher})
    weights = sum(value.size for value in solution.weights.values())
    figures = {"bits_per_byte": -quality(problem, solution)[0], "weights": weights}
    return state.add({"finetuning/student": ref}, student=figures)


DISTILLATION: Subtask[Distillation, Student] = Subtask(
    stage="finetuning",
    name="distillation",
    incumbent=INCUMBENT,
    challenger=CHALLENGER,
    others=OTHERS,
    quality=quality,
    metric=TERMS.metric,
    size=lambda problem: problem.width,
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
