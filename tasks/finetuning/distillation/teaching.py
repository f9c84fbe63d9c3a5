"""What students learn from a teacher, cached once as Parquet, and the losses that use it.

Caching a teacher's k largest probabilities is biased; draws from its distribution give the gradient of the whole one on
average (Anshumann et al. 2025, arXiv 2503.16870).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy, nll_loss

from tasks.finetuning.distillation.problem import Distillation, Student, load_teacher
from tasks.model.recipe import Recipe
from tasks.model.training.loop import batch_rows, make_optimizers

CLIP = 1.0
OTHERS = 0.6  # rate of AdamW over that of Muon, as in the recipe of the teachers
CHUNK = 8


@dataclass(frozen=True)
class Lesson:
    """Outputs of the teacher on some windows.

    Attributes:
        tokens: int64, (windows, context, k), tokens of the teacher's distribution.
        shares: float32, (windows, context, k), what each of them weighs.
        states: float32, (windows, width), last hidden state of each window.
    """

    tokens: NDArray[np.int64]
    shares: NDArray[np.float32]
    states: NDArray[np.float32]


def ask_teacher(problem: Distillation, windows: int, rng: Generator, folder: Path, *, largest: bool) -> Lesson:
    """Run the teacher on the first windows, write its outputs to Parquet, and return them as read back."""
    model: Any = load_teacher(problem)
    tokens, shares, states = [], [], []
    with torch.inference_mode():
        for start in range(0, windows, CHUNK):
            part = problem.train.take(slice(start, min(start + CHUNK, windows)))
            found = model(**part.inputs(), use_cache=False, output_hidden_states=True)
            p = torch.softmax(found.logits.double(), dim=-1).numpy()
            chosen, weight = (_largest if largest else _drawn)(p, problem.draws, rng)
            tokens.append(chosen)
            shares.append(weight)
            states.append(found.hidden_states[-1][:, -1].float().numpy())
    lesson = Lesson(np.concatenate(tokens), np.concatenate(shares), np.concatenate(states))
    return _through_parquet(lesson, folder / f"teacher-{'largest' if largest else 'drawn'}.parquet")


def finish(
    problem: Distillation,
    model: Any,
    steps: int,
    spend: Callable[..., None],
    loss: Callable[..., torch.Tensor],
    windows: int,
    rate: float,
    weight_decay: float = 0.0,
) -> Student:
    """Train a model by Muon and AdamW on the first windows and return it as a student.

    Args:
        problem: its training windows are used.
        model: the model.
        steps: number of steps, of one batch each.
        spend: is told the tokens of each step.
        loss: `loss(logits, states, labels, rows)` gets the model's logits and last hidden states of a batch.
        windows: number of windows.
        rate: peak of the learning rate of Muon, which trains the matrices.
        weight_decay: decoupled, of the matrices.
    """
    model.train(True)
    recipe = Recipe(0, matrix_lr=rate, other_lr=OTHERS * rate, weight_decay=weight_decay)
    optimizers = list(make_optimizers(model, recipe).values())
    groups = [(group, group["lr"]) for optimizer in optimizers for group in optimizer.param_groups]
    for step in range(steps):
        rows = batch_rows(windows, problem.batch, step, 0)
        part = problem.train.take(rows)
        spend(tokens=problem.batch * part.context)
        for group, peak in groups:
            group["lr"] = peak * min(1.0, (step + 1) / max(1, steps // 20)) * (1 - step / steps)
        model.zero_grad(set_to_none=True)
        found = model(**part.inputs(), use_cache=False, output_hidden_states=True)
        loss(found.logits, found.hidden_states[-1][:, -1], part.labels(), rows).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        for optimizer in optimizers:
            optimizer.step()
    weights = {name: p.detach().numpy().copy() for name, p in model.state_dict().items()}
    return Student(weights, int(model.config.num_hidden_layers), int(model.config.hidden_size))


def on_text(logits: torch.Tensor, _: torch.Tensor, labels: torch.Tensor, _rows: Any) -> torch.Tensor:
    """Return the loss of the text alone."""
    return cross_entropy(logits.flatten(0, 1), labels.flatten())


def on_lesson(lesson: Lesson, share: float) -> Callable[..., torch.Tensor]:
    """Return the loss of the text and the cross entropy with the teacher, which counts `share`."""
    tokens, shares = torch.from_numpy(lesson.tokens), torch.from_numpy(lesson.shares)

    def loss(logits: torch.Tensor, _: torch.Tensor, labels: torch.Tensor, rows: Any) -> torch.Tensor:
        logs = torch.log_softmax(logits, dim=-1)  # once for both
        taught = -(shares[rows] * logs.gather(-1, tokens[rows])).sum(-1).mean()
        return (1 - share) * nll_loss(logs.flatten(0, 1), labels.flatten()) + share * taught

    return loss


def on_relations(
    lesson: Lesson,
    share: float,
    target: NDArray[np.float32],
    kernel: Callable[[torch.Tensor], torch.Tensor],
    weight: float,
) -> Callable[..., torch.Tensor]:
    """Return `on_lesson` plus the weighted mean square difference of the relations among the windows of a batch.

    Args:
        lesson: outputs of the teacher.
        share: what the cross entropy with the teacher counts.
        target: (windows, windows) relations of the teacher's states.
        kernel: relations of the student's states.
        weight: what the difference counts.
    """
    taught, wanted = on_lesson(lesson, share), torch.from_numpy(np.asarray(target, np.float32))

    def loss(logits: torch.Tensor, states: torch.Tensor, labels: torch.Tensor, rows: Any) -> torch.Tensor:
        relation = (kernel(states) - wanted[rows][:, rows]).square().mean()
        return taught(logits, states, labels, rows) + weight * relation

    return loss


def squared_cosines(states: torch.Tensor) -> torch.Tensor:
    """Return the squared cosines of all pairs of rows: the fidelities of amplitude-encoded states."""
    units = torch.nn.functional.normalize(states, dim=1)
    return (units @ units.T).square()


def gaussian(states: torch.Tensor) -> torch.Tensor:
    """Return the Gaussian kernel of the rows at their mean square distance."""
    squared = torch.cdist(states, states).square()
    return torch.exp(-squared / squared.mean().clamp_min(1e-9).detach())


def distances(states: torch.Tensor) -> torch.Tensor:
    """Return the distances of the rows over their mean (relational distillation, Park et al. 2019)."""
    # The root of zero on the diagonal has no gradient.
    apart = (torch.cdist(states, states).square() + 1e-9).sqrt()
    return apart / apart.mean().clamp_min(1e-9)


def _drawn(p: NDArray[np.float64], k: int, rng: Generator) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    rising = np.cumsum(p, axis=-1)
    rising /= rising[..., -1:]
    uniform = rng.random((*p.shape[:-1], k))
    tokens = np.stack([(rising < uniform[..., i : i + 1]).sum(-1) for i in range(k)], axis=-1)
    return tokens.astype(np.int64), np.full(tokens.shape, 1 / k, np.float32)


def _largest(p: NDArray[np.float64], k: int, _: Generator) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    found = np.argpartition(-p, k - 1, axis=-1)[..., :k]
    order = np.argsort(-np.take_along_axis(p, found, axis=-1), axis=-1, kind="stable")
    tokens = np.take_along_axis(found, order, axis=-1)
    shares = np.take_along_axis(p, tokens, axis=-1)
    return tokens.astype(np.int64), (shares / shares.sum(-1, keepdims=True)).astype(np.float32)


def _through_parquet(lesson: Lesson, path: Path) -> Lesson:
    columns: dict[str, NDArray[Any]] = {"tokens": lesson.tokens, "shares": lesson.shares, "states": lesson.states}
    flat = {name: pa.FixedSizeListArray.from_arrays(pa.array(v.ravel()), v[0].size) for name, v in columns.items()}
    pq.write_table(pa.table(flat), path, compression="zstd")
    table = pq.read_table(path)
    read = {
        name: table[name].combine_chunks().flatten().to_numpy().reshape(value.shape) for name, value in columns.items()
    }
    return Lesson(**{name: np.array(value) for name, value in read.items()})
