from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from qiskit_aer.primitives import SamplerV2

from tasks.bench import make_bench
from tasks.contract import Bench
from tasks.finetuning.distillation.arms import TUNED, WAYS, Settings
from tasks.finetuning.distillation.options import Options
from tasks.finetuning.distillation.problem import Distillation, load_teacher, quality
from tasks.finetuning.distillation.subtask import DISTILLATION
from tasks.finetuning.distillation.teaching import _drawn, _largest, ask_teacher, finish, on_text
from tasks.finetuning.models import byte_config
from tasks.model.causal import load_model, save_model
from tasks.model.recipe import Recipe
from tasks.model.score import bits_per_byte
from tasks.model.small import new_model
from tasks.model.training.loop import train
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


def test_the_model_that_is_trained_sets_the_price_of_a_step(problem: Distillation) -> None:
    config = load_teacher(problem).config
    assert problem.steps(config=config) < problem.steps() == problem.steps(config=problem.config)


def test_the_teacher_reads_what_its_share_of_the_arithmetic_pays_for(problem: Distillation) -> None:
    posed = replace(problem, tokens=20_000, batch=1)
    assert posed.taught(1.0) == len(posed.train)
    for share in (0.05, 0.1):
        windows = posed.taught(share)
        assert 4 < windows < len(posed.train)
        left = posed.steps(windows * posed.train.context)
        assert 1 - left / posed.steps() == pytest.approx(share, rel=0.25)
    assert replace(problem, tokens=1).taught(0.25) == problem.batch


def test_readings_limit_the_steps(problem: Distillation, bench: Bench) -> None:
    posed, counted = replace(problem, tokens=10**6), []
    steps = replace(bench, spend=lambda *, tokens=0: counted.append(tokens))
    for name in ("scratch", "draws"):
        counted.clear()
        WAYS[name](Settings(0.05, readings=3, share=0.5), posed, steps)
        assert sum(counted) == 3 * len(posed.train) * posed.train.context, name


def test_every_trained_arm_has_its_settings_and_the_quantum_arm_those_of_its_twin() -> None:
    assert set(TUNED) == set(WAYS)
    trained = {arm.name for arm in DISTILLATION.arms if arm.name != "untrained"}
    assert trained == {*WAYS, "fidelities"}
    assert DISTILLATION.challenger.solve.args == DISTILLATION.arm("squared-cosines").solve.args  # type: ignore[attr-defined]


def test_muon_lowers_the_loss_more_than_adamw_alone(problem: Distillation) -> None:
    posed = replace(problem, tokens=16 * problem.train.n_predicted)
    made = finish(posed, posed.student(0), posed.steps(), lambda **_: None, on_text, len(posed.train), 0.05)
    other = posed.student(0)
    train(other, posed.train, Recipe(posed.tokens, posed.batch, other_lr=0.005, muon=False))
    by_adamw = replace(made, weights={name: p.detach().numpy() for name, p in other.state_dict().items()})
    assert quality(posed, made)[0] > quality(posed, by_adamw)[0]


def test_a_student_of_any_even_width_has_heads_that_fit(problem: Distillation, tmp_path: Path) -> None:
    save_model(new_model(byte_config(64, 1), 0), tmp_path)  # of four heads
    for width in (6, 24, 40, 46, 56, 64):
        config = replace(problem, teacher=tmp_path, width=width).student(0).config
        assert config.num_attention_heads * (config.head_dim or 0) == config.hidden_size == width


def test_all_ways_learn_and_the_pruned_teacher_keeps_its_width(problem: Distillation, bench: Bench) -> None:
    nothing = quality(problem, DISTILLATION.arm("untrained").solve(problem, bench))[0]
    for name in (*WAYS, "fidelities"):
        student = DISTILLATION.arm(name).solve(problem, bench)
        assert quality(problem, student)[0] > nothing, name
        assert student.width == (16 if name in ("pruned", "wide") else 8)
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
