import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from infra.lake import Lake
from tasks.model.recipe import Recipe
from tasks.model.score import bits_per_byte
from tasks.model.training import loop
from tasks.model.training.checkpoint import Place
from tasks.model.training.loop import Run, Watch, batch_rows, make_optimizers, train
from tasks.model.windows import Windows

Make = Callable[..., LlamaForCausalLM]
Data = Callable[..., Windows]
RECIPE = Recipe(tokens=12 * 8 * 16, batch=8, seed=3, evaluate_every=4, checkpoint_every=5, precision="fp32")


def place(folder: Path) -> Place:
    return Place(Lake(folder), "training/checkpoints")


def steps_kept(folder: Path) -> list[int]:
    lake = Lake(folder)
    return sorted(lake.meta(ref)["step"] for name in lake.names() for ref in lake.versions(name))


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(value, weights(b)[name]) for name, value in weights(a).items())


class Killed(BaseException):
    pass


def losses(run: Run) -> list[float]:
    return [row["loss"] for row in run.history if "loss" in row]


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = loop._step, []

    def dies(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == step:
            monkeypatch.setattr(loop, "_step", real)
            raise Killed
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "_step", dies)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_run_killed_and_resumed_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Make, counting: Data, dropout: float
) -> None:
    watch = Watch(held_out=counting(8))
    whole = tiny(attention_dropout=dropout)
    reference = train(whole, counting(), RECIPE, watch)

    kill_at(8, monkeypatch)
    with pytest.raises(Killed):
        train(tiny(attention_dropout=dropout), counting(), RECIPE, watch, place(tmp_path))
    torch.manual_seed(99)
    resumed = tiny(attention_dropout=dropout)
    run = train(resumed, counting(), RECIPE, watch, place(tmp_path))

    assert run.resumed_at == 5
    assert run.history == reference.history
    assert same(whole, resumed)


def test_dropout_really_draws_from_the_generator_that_is_restored(tiny: Make, counting: Data) -> None:
    models = [tiny(attention_dropout=0.2) for _ in range(2)]
    for model, seed in zip(models, (3, 4), strict=True):
        train(model, counting(8), replace(RECIPE, batch=8, seed=seed, tokens=2 * 8 * 16))
    assert not same(*models)


def test_the_callers_random_numbers_are_left_alone(tiny: Make, counting: Data) -> None:
    model = tiny(attention_dropout=0.2)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(model, counting(), RECIPE)
    assert torch.equal(torch.rand(3), expected)


def test_a_finished_run_is_not_trained_again(tmp_path: Path, tiny: Make, counting: Data) -> None:
    first, second = tiny(), tiny()
    train(first, counting(), RECIPE, checkpoint=place(tmp_path))
    run = train(second, counting(), RECIPE, checkpoint=place(tmp_path))
    assert run.resumed_at == 12
    assert run.tokens_per_s == 0.0
    assert same(first, second)


@pytest.mark.parametrize("change", [{"seed": 4}, {"matrix_lr": 0.01}, {"tokens": 8 * 8 * 16}])
def test_a_checkpoint_of_another_recipe_is_not_continued(
    tmp_path: Path, tiny: Make, counting: Data, change: dict[str, Any]
) -> None:
    train(tiny(), counting(), RECIPE, checkpoint=place(tmp_path))
    assert train(tiny(), counting(), replace(RECIPE, **change), checkpoint=place(tmp_path)).resumed_at is None


def test_a_checkpoint_of_other_data_or_another_start_is_not_continued(
    tmp_path: Path, tiny: Make, counting: Data
) -> None:
    train(tiny(), counting(), RECIPE, checkpoint=place(tmp_path))
    assert train(tiny(), counting(41), RECIPE, checkpoint=place(tmp_path)).resumed_at is None
    assert train(tiny(seed=1), counting(), RECIPE, checkpoint=place(tmp_path)).resumed_at is None


def test_the_last_checkpoints_are_kept_and_hold_no_pickle(tmp_path: Path, tiny: Make, counting: Data) -> None:
    train(tiny(), counting(), replace(RECIPE, checkpoint_every=3, keep=2), checkpoint=place(tmp_path))
    assert steps_kept(tmp_path) == [9, 12]
    lake = Lake(tmp_path)
    names = {path.name for name in lake.names() for ref in lake.versions(name) for path in lake.files(ref)}
    assert names == {"model.safetensors", "optimizer.safetensors", "progress.json"}


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    tmp_path: Path, tiny: Make, counting: Data, caplog: pytest.LogCaptureFixture
) -> None:
    whole, resumed = tiny(), tiny()
    train(whole, counting(), RECIPE, checkpoint=place(tmp_path))
    lake = Lake(tmp_path)
    last = max((ref for name in lake.names() for ref in lake.versions(name)), key=lambda ref: lake.meta(ref)["step"])
    (lake.folder(last) / "model.safetensors").write_bytes(b"\x00" * 10)
    with caplog.at_level(logging.WARNING):
        run = train(resumed, counting(), RECIPE, checkpoint=place(tmp_path))
    assert run.resumed_at == 10
    assert same(whole, resumed)
    assert "damaged" in caplog.text


def test_training_learns_what_can_be_learnt(tiny: Make, counting: Data) -> None:
    model, data = tiny(), counting(200)
    recipe = Recipe(tokens=60 * 16 * 16, batch=16, other_lr=0.02, evaluate_every=20)
    run = train(model, data, recipe, Watch(held_out=counting(16), sample=lambda: "text"))
    values = [row["bits_per_byte"] for row in run.history if "bits_per_byte" in row]
    assert len(values) == 4
    assert values[0] > 2.5  # log2(64) bits a token, 2 bytes a token
    assert values[-1] < 0.5
    assert values[-1] == bits_per_byte(model, counting(16))
    assert set(run.samples) == {0, 20, 40, 60}
    assert run.tokens == 60 * 16 * 16
    assert not model.training


def test_each_weight_has_one_optimiser_and_embeddings_have_adamw(tiny: Make) -> None:
    model = tiny()
    optimizers = make_optimizers(model, RECIPE)
    owners = {id(p): name for name, o in optimizers.items() for group in o.param_groups for p in group["params"]}
    assert len(owners) == sum(1 for _ in model.parameters())
    for name, parameter in model.named_parameters():
        assert owners[id(parameter)] == ("muon" if name.endswith("_proj.weight") else "adamw"), name
    model.model.embed_tokens.weight.requires_grad_(False)
    assert id(model.model.embed_tokens.weight) not in {
        id(p) for o in make_optimizers(model, RECIPE).values() for group in o.param_groups for p in group["params"]
    }


def test_every_epoch_shows_every_window_once_in_a_new_order() -> None:
    rows = np.concatenate([batch_rows(10, 4, step, seed=1) for step in range(5)])
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10))
    assert list(rows[:10]) != list(rows[10:])
    assert list(batch_rows(10, 4, 3, seed=1)) == list(rows[12:16])


def test_the_rate_rises_then_falls_to_its_end() -> None:
    recipe = Recipe(tokens=1, warmup=0.1, final=0.2)
    rates = [recipe.rate(step, 100) for step in range(100)]
    assert rates[9] == max(rates) == 1.0
    assert rates[0] == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(0.2)
    assert np.diff(rates[10:]) == pytest.approx(-0.8 / 89)
    assert recipe.rate(0, 1) == 1.0


def test_clipping_bounds_the_step_and_not_the_report(tiny: Make, counting: Data) -> None:
    recipe = Recipe(tokens=8 * 16, batch=8, clip=1e-6)
    model = tiny()
    row = train(model, counting(), recipe).history[0]
    assert row["gradient_norm"] > 1e-3
    trained = [p.grad for p in model.parameters() if p.grad is not None]
    assert torch.linalg.vector_norm(torch.cat([g.flatten() for g in trained])) <= 1.01e-6


def test_a_loss_that_is_not_finite_stops_the_run_with_advice(tiny: Make, counting: Data) -> None:
    model = tiny()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="lower the learning rates"):
        train(model, counting(), RECIPE)


def test_no_window_is_an_error(tiny: Make) -> None:
    with pytest.raises(ValueError, match="at least one window"):
        train(tiny(), Windows(np.zeros((0, 17), np.int64), np.zeros(0, np.int64)), RECIPE)


def test_training_ends_after_the_step_that_is_told_to_be_the_last(tiny: Make, counting: Data) -> None:
    asked: list[int] = []

    def stop(step: int) -> bool:
        asked.append(step)
        return step == 3

    run = train(tiny(), counting(), RECIPE, Watch(held_out=counting(8), stop=stop))
    assert asked == [1, 2, 3]
    assert run.tokens == 3 * 8 * 16
    assert [row["step"] for row in run.history if "bits_per_byte" in row] == [0, 3]


def test_parts_of_a_step_add_up_to_the_step(tiny: Make, counting: Data) -> None:
    whole, parts = tiny(), tiny()
    runs = [
        train(model, counting(), replace(RECIPE, parts=count, tokens=3 * 8 * 16))
        for model, count in ((whole, 1), (parts, 3))
    ]
    assert losses(runs[0]) == pytest.approx(losses(runs[1]), rel=1e-5)
    for name, value in weights(whole).items():
        assert torch.allclose(value, weights(parts)[name], atol=2e-4), name


def test_a_budget_in_steps_is_kept(tiny: Make, counting: Data) -> None:
    run = train(tiny(), counting(), replace(RECIPE, steps=3))
    assert len(losses(run)) == 3
    assert run.history[-1]["step"] == 3
    assert run.tokens == 3 * 8 * 16


def test_a_budget_in_time_is_kept_and_resumed_to_the_same_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Make, counting: Data
) -> None:
    recipe = replace(RECIPE, tokens=10_000 * 8 * 16, evaluate_every=0, checkpoint_every=6, core_minutes=0.6)
    clock = iter(np.arange(0, 1e6, 1.0))
    # each step takes a second
    monkeypatch.setattr("tasks.model.training.loop.time.process_time", lambda: float(next(clock)))
    kill_at(9, monkeypatch)
    with pytest.raises(Killed):
        train(tiny(), counting(), recipe, checkpoint=place(tmp_path))
    run = train(tiny(), counting(), recipe, checkpoint=place(tmp_path))
    assert run.resumed_at == 6
    assert len(losses(run)) == 34  # and two evaluations of a second each
    assert run.history[-1]["rate"] == pytest.approx(recipe.final)


def test_a_budget_in_time_is_kept_where_the_first_steps_are_slow(
    monkeypatch: pytest.MonkeyPatch, tiny: Make, counting: Data
) -> None:
    recipe = replace(RECIPE, tokens=10_000 * 8 * 16, evaluate_every=0, core_minutes=5.0)
    # The first ten steps take three seconds each, as on a machine that others use, the others one second; the clock
    # is read at the beginning and at the end of a step.
    clock = iter(np.cumsum([3.0] * 20 + [1.0] * 100_000))
    monkeypatch.setattr("tasks.model.training.loop.time.process_time", lambda: float(next(clock)))
    run = train(tiny(), counting(), recipe)
    took_s = 10 * 3 + len(losses(run)) - 10
    assert 290 < took_s <= 300
    assert run.history[-1]["rate"] == pytest.approx(recipe.final)


def test_training_stops_where_it_no_longer_helps(tiny: Make, counting: Data) -> None:
    recipe = replace(RECIPE, tokens=40 * 8 * 16, evaluate_every=2, patience=3, matrix_lr=1e-9, other_lr=1e-9)
    run = train(tiny(), counting(), recipe, Watch(held_out=counting(8)))
    values = [row["bits_per_byte"] for row in run.history if "bits_per_byte" in row]
    assert "3 evaluations" in run.stopped
    assert min(values[-3:]) >= min(values[:-3])
    assert run.tokens < 40 * 8 * 16


def test_dropout_acts_in_training_alone(tiny: Make, counting: Data) -> None:
    models = [tiny() for _ in range(2)]
    for model, share in zip(models, (0.0, 0.5), strict=True):
        train(model, counting(8), replace(RECIPE, dropout=share, tokens=2 * 8 * 16))
    assert not same(*models)
    tokens = torch.from_numpy(counting(2).tokens[:, :-1])
    assert torch.equal(models[1](input_ids=tokens).logits, models[1](input_ids=tokens).logits)


def test_bfloat16_learns_as_well_and_leaves_the_weights_fp32(tiny: Make, counting: Data) -> None:
    found = {}
    for precision in ("fp32", "bf16"):
        model = tiny()
        recipe = Recipe(tokens=30 * 16 * 16, batch=16, precision=precision)
        run = train(model, counting(200), recipe, Watch(held_out=counting(16)))
        found[precision] = run.history[-1]["bits_per_byte"]
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert model.config._attn_implementation == "sdpa"
        assert run.bf16 == (precision == "bf16")
    assert found["bf16"] == pytest.approx(found["fp32"], abs=0.05)


def test_new_rows_of_the_curve_are_published_once(
    monkeypatch: pytest.MonkeyPatch, tiny: Make, counting: Data, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loop, "SAID_S", 0.0)
    published: list[Mapping[str, float]] = []
    with caplog.at_level(logging.INFO):
        run = train(
            tiny(), counting(), RECIPE, Watch(held_out=counting(8), publish=published.extend, joules_per_cpu_s=3)
        )
    assert published == list(run.history)
    assert re.search(r"step 12/12: loss [\d.]+, [\d,]+ tokens/s, [\d.]+ W \(modelled\), 0 s left", caplog.text)
