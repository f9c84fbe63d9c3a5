"""Arms of the distillation decision: ways to train one student, all with the same amount of arithmetic.

What the teacher costs counts: an arm with a teacher trains on fewer tokens. The quantum arm aligns the student's states
with fidelities of the teacher's states that circuits estimate (QRKD, arXiv 2508.13054); its twin takes the squared
cosines, which are the same numbers without shot noise. Each arm has thirty trials of its settings on two tasks that are
in no bank, the five best are tried on four others (`python -m benchmarks.distillation tune`); `settings.yaml` has the
best. The quantum arm has the settings of its twin, which is the same function of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import resources
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn
from transformers import LlamaConfig

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
)
from tasks.model.small import new_model
from tasks.model.threads import torch_threads
from tasks.quantum.kernels import gram

TEACHING = 0.25  # largest share of the arithmetic that reading the teacher takes
STATE = 8  # components of a state that circuits compare, 3 qubits


@dataclass(frozen=True)
class Settings:
    """What is tuned of an arm.

    Attributes:
        rate: learning rate of Muon; AdamW's is six tenths of it.
        readings: how often the text is read at most; arithmetic that is left then stays unused.
        decay: weight decay of the matrices.
        share: weight of the teacher's probabilities, the text has the rest.
        relation: weight of the relations among the teacher's states.
    """

    rate: float
    readings: int
    decay: float = 0.0
    share: float = 0.0
    relation: float = 0.0


Way = Callable[[Settings, Distillation, Bench], Student]


def read_settings() -> dict[str, Settings]:
    """Return the settings of the arms in `settings.yaml`, which says where they are from."""
    text = (resources.files("tasks.finetuning.distillation") / "settings.yaml").read_text(encoding="utf-8")
    stored = yaml.safe_load(text)
    return {name: Settings(**{key: v for key, v in row.items() if key != "loss"}) for name, row in stored.items()}


def from_scratch(settings: Settings, problem: Distillation, bench: Bench) -> Student:
    """Train on the text alone, with all the arithmetic."""
    with torch_threads(problem.threads):
        return _on_text(settings, problem, bench, problem.student(_seed(bench)))


def untrained(problem: Distillation, bench: Bench) -> Student:
    """Return a student with random weights."""
    with torch_threads(problem.threads):
        model, windows = problem.student(_seed(bench)), len(problem.train)
        return finish(problem, model, 0, bench.spend, on_text, windows, rate=0.0)


def from_teacher(settings: Settings, problem: Distillation, bench: Bench, *, largest: bool) -> Student:
    """Train on the text and on the teacher's probabilities: samples of them, or the largest ones."""
    with torch_threads(problem.threads):
        lesson = _lesson(problem, bench, largest=largest)
        return _taught(settings, problem, bench, on_lesson(lesson, settings.share), lesson)


def from_relations(
    settings: Settings, problem: Distillation, bench: Bench, *, kernel: Callable[[torch.Tensor], torch.Tensor]
) -> Student:
    """Train on the teacher's probabilities and on the relations between its states."""
    with torch_threads(problem.threads):
        lesson = _lesson(problem, bench)
        target = kernel(torch.from_numpy(_reduced(lesson))).numpy()
        loss = on_relations(lesson, settings.share, target, kernel, settings.relation)
        return _taught(settings, problem, bench, loss, lesson)


def from_fidelities(settings: Settings, problem: Distillation, bench: Bench) -> Student:
    """Train on the teacher's probabilities and on fidelities of its states that circuits estimate."""
    with torch_threads(problem.threads):
        lesson = _lesson(problem, bench)
        target = np.asarray(gram(_reduced(lesson), bench.sampler, problem.shots), np.float32)
        loss = on_relations(lesson, settings.share, target, squared_cosines, settings.relation)
        return _taught(settings, problem, bench, loss, lesson)


def from_pruned(settings: Settings, problem: Distillation, bench: Bench) -> Student:
    """Keep as many blocks of the teacher as the student has, evenly spaced, and train them on the text."""
    with torch_threads(problem.threads):
        model: Any = load_teacher(problem)
        kept = _kept(problem, model.config)
        model.model.layers = nn.ModuleList(model.model.layers[i] for i in kept)
        model.config.num_hidden_layers = len(kept)
        return _on_text(settings, problem, bench, model)


def from_scratch_as_wide(settings: Settings, problem: Distillation, bench: Bench) -> Student:
    """Train a student of the shape that `from_pruned` keeps from random weights."""
    with torch_threads(problem.threads):
        config = load_teacher(problem).config
        config.num_hidden_layers = len(_kept(problem, config))
        return _on_text(settings, problem, bench, new_model(config, _seed(bench)))


def _seed(bench: Bench) -> int:
    return int(bench.rng.integers(2**31))


def _kept(problem: Distillation, config: LlamaConfig) -> list[int]:
    depth = int(config.num_hidden_layers)
    return [int(i) for i in np.linspace(0, depth - 1, min(problem.depth, depth)).round()]


def _lesson(problem: Distillation, bench: Bench, *, largest: bool = False) -> Lesson:
    rng = np.random.default_rng(0)  # one cache for all arms of a problem
    name = "largest probabilities" if largest else "draws"
    return bench.once(name, lambda: ask_teacher(problem, problem.taught(TEACHING), rng, bench.scratch, largest=largest))


def _reduced(lesson: Lesson) -> Floats:
    """Return the leading components of the teacher's states."""
    centred = lesson.states - lesson.states.mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:STATE]
    return np.ascontiguousarray(centred @ axes.T + 1e-6, np.float32)


def _taught(
    settings: Settings, problem: Distillation, bench: Bench, loss: Callable[..., torch.Tensor], lesson: Lesson
) -> Student:
    windows = len(lesson.tokens)
    paid = problem.steps(windows * problem.train.context)
    return _train(settings, problem, bench, problem.student(_seed(bench)), loss, windows, paid)


def _on_text(settings: Settings, problem: Distillation, bench: Bench, model: Any) -> Student:
    return _train(settings, problem, bench, model, on_text, len(problem.train), problem.steps(config=model.config))


def _train(
    settings: Settings,
    problem: Distillation,
    bench: Bench,
    model: Any,
    loss: Callable[..., torch.Tensor],
    windows: int,
    paid: int,
) -> Student:
    steps = max(1, min(paid, settings.readings * windows // problem.batch))
    return finish(problem, model, steps, bench.spend, loss, windows, settings.rate, settings.decay)


TUNED = read_settings()
WAYS: Mapping[str, Way] = {
    "scratch": from_scratch,
    "draws": partial(from_teacher, largest=False),
    "largest": partial(from_teacher, largest=True),
    "relations": partial(from_relations, kernel=distances),
    "squared-cosines": partial(from_relations, kernel=squared_cosines),
    "gaussian": partial(from_relations, kernel=gaussian),
    "pruned": from_pruned,
    "wide": from_scratch_as_wide,
}


def _arm(name: str, kind: Kind, version: str = "2") -> Arm[Distillation, Student]:
    return Arm(name, kind, partial(WAYS[name], TUNED[name]), version=version)


INCUMBENT: Arm[Distillation, Student] = _arm("scratch", Kind.CLASSICAL)
CHALLENGER: Arm[Distillation, Student] = Arm(
    "fidelities",
    Kind.QUANTUM,
    partial(from_fidelities, TUNED["squared-cosines"]),
    version="2",
    twin="squared-cosines",
)
OTHERS: tuple[Arm[Distillation, Student], ...] = (
    Arm("untrained", Kind.CONTROL, untrained),
    _arm("wide", Kind.CONTROL, version="1"),
    _arm("squared-cosines", Kind.TWIN),
    _arm("draws", Kind.CLASSICAL),
    _arm("largest", Kind.CLASSICAL),
    _arm("relations", Kind.CLASSICAL),
    _arm("gaussian", Kind.CLASSICAL),
    _arm("pruned", Kind.CLASSICAL),
)
