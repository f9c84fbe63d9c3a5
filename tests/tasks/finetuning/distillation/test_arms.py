from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from qiskit_aer.primitives import SamplerV2

from tasks.bench import make_bench
from tasks.contract import Bench
from tasks.finetuning.distillation.options import Options
from tasks.finetuning.distillation.problem import Distillation, load_teacher, quality
from tasks.finetuning.distillation.subtask import DISTILLATION
from tasks.finetuning.distillation.teaching import _drawn, _largest, ask_teacher
from tasks.finetuning.models import byte_config
from tasks.model.causal import load_model, save_model
from tasks.model.score import bits_per_byte
from tasks.model.small import new_model
from tasks.stage import Context, State

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def problem() -> Distillation:
    return DISTILLATION.example(np.random.default_rng(7))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(scratch=tmp_path, sampler=SamplerV2(seed=1))


def test_draws_have_the_gradient_of_the_whole_distribution_on_average_and_the_largest_have_not() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(16, 0.5), size=(4, 3))
    means = []
    for chosen, weights in (_drawn(p, 4000, rng), _largest(p, 4, rng)):
        found = np.zeros_like(p)
        for token in range(16):
            found[..., token] = (weights * (chosen == token)).sum(-1)
        means.append(np.abs(found - p).max())
        assert found.sum(-1) == pytest.approx(np.ones((4, 3)), abs=1e-5)
    assert means[0] < 0.05 < means[1]


def test_what_the_teacher_said_comes_back_from_parquet(problem: Distillation, tmp_path: Path) -> None:
    lesson = ask_teacher(problem, 10, np.random.default_rng(0), tmp_path, largest=True)
    assert lesson.tokens.shape == (10, problem.train.context, problem.draws)
    logits = load_teacher(problem)(**problem.train.take(slice(0, 1)).inputs()).logits
    assert lesson.tokens[0, :, 0].tolist() == logits[0].argmax(-1).tolist()
    assert (tmp_path / "teacher-largest.parquet").stat().st_size > 0


def test_reading_the_teacher_costs_training_steps(problem: Distillation) -> None:
    assert problem.steps() == problem.tokens // (problem.batch * problem.train.context)
    assert problem.steps(2048) < problem.steps()


def test_a_student_of_any_even_width_has_heads_that_fit(problem: Distillation, tmp_path: Path) -> None:
    save_model(new_model(byte_config(64, 1), 0), tmp_path)  # of four heads
    for width in (6, 24, 40, 46, 56, 64):
        config = replace(problem, teacher=tmp_path, width=width).student(0).config
        assert config.num_attention_heads * (config.head_dim or 0) == config.hidden_size == width


def test_all_ways_learn_and_the_pruned_teacher_keeps_its_width(problem: Distillation, bench: Bench) -> None:
    nothing = quality(problem, DISTILLATION.arm("untrained").solve(problem, bench))[0]
    for name in ("scratch", "draws", "fidelities", "squared-cosines", "pruned"):
        student = DISTILLATION.arm(name).solve(problem, bench)
        assert quality(problem, student)[0] > nothing, name
        assert student.width == (16 if name == "pruned" else 8)
        assert student.depth == 1


def test_a_run_stores_the_student(context: Context, bench: Bench) -> None:
    refs = {"finetuning/model": context.inputs["training/model"]}
    assert DISTILLATION.pose(context, State(refs=refs), Options()) is None
    assert DISTILLATION.pose(context, State(refs=refs), Options(tokens=512)) is None  # one block cannot be halved
    folder = context.lake.folder(refs["finetuning/model"])
    problem = Distillation(folder, 8, 1, *_texts(context), tokens=512, batch=4)
    state = DISTILLATION.apply(context, State(refs=refs), problem, DISTILLATION.arm("scratch").solve(problem, bench))
    saved = load_model(context.lake.folder(state.refs["finetuning/student"]))
    assert bits_per_byte(saved, problem.test) == pytest.approx(state.facts["student"]["bits_per_byte"], rel=1e-5)
    assert replace(problem, tokens=1).steps() == 1


def _texts(context: Context) -> tuple[Any, Any]:
    from tasks.finetuning.target import domain_windows

    return domain_windows(context, "base", "train", 16), domain_windows(context, "base", "validation", 8)
