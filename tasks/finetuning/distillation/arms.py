"""Arms of the distillation decision: ways to train one student, all with the same amount of arithmetic.

What the teacher costs counts: an arm with a teacher trains on fewer tokens. The quantum arm aligns the student's states
with fidelities of the teacher's states that circuits estimate (QRKD, arXiv 2508.13054); its twin takes the squared
cosines, which are the same numbers without shot noise.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from tasks.contract import Arm, Bench, Kind
from tasks.finetuning.distillation.problem import Distillation, Floats, Student, load_teacher
from tasks.finetuning.distillation.teaching import (
    Lesson,
    ask_teacher,
    distances,
    finish,
    gaussian,
    on_lesson,
    on_relations,
    on_text,
    squared_cosines,
    train_student,
)
from tasks.model.threads import torch_threads
from tasks.quantum.kernels import gram

TAUGHT = 0.25  # share of the training windows that the teacher reads
STATE = 8  # components of a state that circuits compare, 3 qubits


def from_scratch(problem: Distillation, bench: Bench) -> Student:
    """Train on the text alone, with all the arithmetic."""
    with torch_threads(problem.threads):
        return train_student(problem, _seed(bench), problem.steps(), bench.spend, on_text)


def untrained(problem: Distillation, bench: Bench) -> Student:
    """Return a student with random weights."""
    with torch_threads(problem.threads):
        return train_student(problem, _seed(bench), 0, bench.spend, on_text)


def from_teacher(problem: Distillation, bench: Bench, *, largest: bool) -> Student:
    """Train on the text and on the teacher's probabilities: samples of them, or the largest ones."""
    with torch_threads(problem.threads):
        lesson = _lesson(problem, bench, largest=largest)
        return _taught(problem, bench, on_lesson(lesson), lesson)


def from_relations(problem: Distillation, bench: Bench, *, kernel: Callable[[torch.Tensor], torch.Tensor]) -> Student:
    """Train on the teacher's probabilities and on the distances between its states."""
    with torch_threads(problem.threads):
        lesson = _lesson(problem, bench)
        target = kernel(torch.from_numpy(_reduced(lesson))).numpy()
        return _taught(problem, bench, on_relations(lesson, target, kernel), lesson)


def from_fidelities(problem: Distillation, bench: Bench) -> Student:
    """Train on the teacher's probabilities and on fidelities of its states that circuits estimate."""
    with torch_threads(problem.threads):
        lesson = _lesson(problem, bench)
        target = gram(_reduced(lesson), bench.sampler, problem.shots)
        return _taught(problem, bench, on_relations(lesson, np.asarray(target, np.float32), squared_cosines), lesson)


def from_pruned(problem: Distillation, bench: Bench) -> Student:
    """Keep as many blocks of the teacher as the student has, evenly spaced, and train them on the text."""
    with torch_threads(problem.threads):
        model: Any = load_teacher(problem)
        depth = len(model.model.layers)
        kept = np.linspace(0, depth - 1, min(problem.depth, depth)).round().astype(int)
        model.model.layers = nn.ModuleList(model.model.layers[i] for i in kept)
        model.config.num_hidden_layers = len(kept)
        ratio = sum(p.numel() for p in model.parameters()) / sum(p.numel() for p in problem.student(0).parameters())
        steps = max(1, round(problem.steps() / ratio))
        return finish(problem, model, steps, bench.spend, on_text, len(problem.train))


def _seed(bench: Bench) -> int:
    return int(bench.rng.integers(2**31))


def _windows(problem: Distillation) -> int:
    return max(problem.batch, round(TAUGHT * len(problem.train)))


def _lesson(problem: Distillation, bench: Bench, *, largest: bool = False) -> Lesson:
    rng = np.random.default_rng(0)  # one cache for all arms of a problem
    name = "largest probabilities" if largest else "draws"
    return bench.once(name, lambda: ask_teacher(problem, _windows(problem), rng, bench.scratch, largest=largest))


def _reduced(lesson: Lesson) -> Floats:
    """Return the leading components of the teacher's states."""
    centred = lesson.states - lesson.states.mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:STATE]
    return np.ascontiguousarray(centred @ axes.T + 1e-6, np.float32)


def _taught(problem: Distillation, bench: Bench, loss: Callable[..., torch.Tensor], lesson: Lesson) -> Student:
    windows = len(lesson.tokens)
    steps = problem.steps(windows * problem.train.context)
    return finish(problem, problem.student(_seed(bench)), steps, bench.spend, loss, windows)


INCUMBENT: Arm[Distillation, Student] = Arm("scratch", Kind.CLASSICAL, from_scratch)
CHALLENGER: Arm[Distillation, Student] = Arm("fidelities", Kind.QUANTUM, from_fidelities, twin="squared-cosines")
OTHERS: tuple[Arm[Distillation, Student], ...] = (
    Arm("untrained", Kind.CONTROL, untrained),
    Arm("squared-cosines", Kind.TWIN, partial(from_relations, kernel=squared_cosines)),
    Arm("draws", Kind.CLASSICAL, partial(from_teacher, largest=False)),
    Arm("largest", Kind.CLASSICAL, partial(from_teacher, largest=True)),
    Arm("relations", Kind.CLASSICAL, partial(from_relations, kernel=distances)),
    Arm("gaussian", Kind.CLASSICAL, partial(from_relations, kernel=gaussian)),
    Arm("pruned", Kind.CLASSICAL, from_pruned),
)
