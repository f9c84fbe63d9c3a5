import csv
import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from pydantic import ValidationError

from infra.errors import BadInput
from tasks.architecture import stage as architecture
from tasks.model.causal import load_model, load_tokenizer
from tasks.model.score import bits_per_byte
from tasks.model.training.checkpoint import Place
from tasks.model.windows import read_windows
from tasks.stage import Context, State
from tasks.training import stage
from tasks.training.options import Options
from tasks.training.text import options_of


def run(context: Context, run_id: str = "r", **options: Any) -> State:
    context = replace(context, run_id=run_id, options={**context.options, **options})
    return stage.train_model(context, stage.measure(context, State()))


def reached(context: Context) -> int:
    """Return the step of the last checkpoint in the lake."""
    lake, place = context.lake, Place.of(context)
    return max((lake.meta(ref)["step"] for name in lake.names(place.name) for ref in lake.versions(name)), default=0)


@pytest.fixture(scope="module")
def done(context: Context) -> State:
    return run(context)


def test_the_figures_are_those_of_the_saved_model(context: Context, done: State) -> None:
    folder = context.lake.folder(done.refs["training/model"])
    load_tokenizer(folder)
    for split in ("validation", "test"):
        windows = read_windows(context.lake, context.inputs["preprocessing/shards"], "base", split, limit=20)
        assert bits_per_byte(load_model(folder), windows) == pytest.approx(done.facts["after"][split], rel=1e-6)
        assert done.facts["held_out_windows"][split] == len(windows)


def test_training_beats_the_start_and_knowing_nothing(done: State) -> None:
    for split in ("validation", "test"):
        after = done.facts["after"][split]
        assert after < 0.7 * done.facts["before"][split]
        assert after < done.facts["references"][split]["uniform"]
        assert set(done.facts["references"][split]) == {"uniform", "unigram", "bigram", "trigram", "zlib", "lzma"}


def test_the_curve_is_kept_as_data_and_for_people(context: Context, done: State) -> None:
    rows = context.lake.read(done.refs["training/curve"]).to_pylist()
    losses = [row["loss"] for row in rows if row["loss"] is not None]
    held_out = [(row["tokens"], row["bits_per_byte"]) for row in rows if row["bits_per_byte"] is not None]
    assert len(losses) == 30
    assert [list(pair) for pair in held_out] == done.facts["curve"]
    assert [tokens for tokens, _ in held_out] == [0, 1280, 2560, 3840]
    with (context.scratch / "history.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == len(rows)
    assert sorted(done.facts["samples"], key=int) == ["0", "10", "20", "30"]
    assert done.facts["tokens"] == 3840
    assert done.facts["tokens_per_s"] > 0


def test_every_domain_is_scored(context: Context, done: State) -> None:
    assert done.facts["domains"] == {"base": done.facts["after"]["test"]}
    assert done.facts["precision"] in ("bf16", "fp32")


def test_a_seed_gives_one_version_and_another_seed_another(context: Context, done: State) -> None:
    again = run(context, "again")
    assert again.refs == done.refs
    assert again.facts["resumed_at"] is None
    other = run(replace(context, seed=1), "other")
    assert other.refs["training/model"] != done.refs["training/model"]


def test_a_killed_stage_goes_on_at_its_last_checkpoint(
    context: Context, done: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = tmp_path / "home"
    copytree(context.home / "lake", home / "lake")
    slow = replace(context, run_id="killed", home=home)
    code = (
        "import pickle, sys, time\n"
        "from tasks.model.training import loop\n"
        "from tasks.training import stage\n"
        "step = loop._step\n"
        "loop._step = lambda *a: (time.sleep(0.05), step(*a))[1]\n"
        "context = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "stage.train_model(context, stage.State())\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, pickle.dumps(slow).hex()])
    deadline = time.monotonic() + 120
    while reached(slow) < 10 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    with caplog.at_level(logging.INFO, logger="ketcycle.training"):
        state = stage.train_model(slow, stage.measure(slow, State()))
    assert 10 <= state.facts["resumed_at"] < 30
    assert f"resuming at step {state.facts['resumed_at']} of 30" in caplog.text
    assert state.refs == done.refs
    assert state.facts["curve"] == done.facts["curve"]
    assert state.facts["samples"] == done.facts["samples"]


def test_checkpoints_and_samples_can_be_switched_off(context: Context) -> None:
    state = run(context, "plain", checkpoint_every=0, samples=0, tokens=100, evaluate_every=0)
    assert not any("checkpoints" in name for name in context.lake.names())
    assert state.facts["samples"] == {}
    assert state.facts["tokens"] == 128
    assert len(state.facts["curve"]) == 2


def test_a_budget_in_joules_becomes_one_in_core_minutes() -> None:
    assert Options(joules=360.0).recipe(0, joules_per_cpu_s=3.0).core_minutes == pytest.approx(2.0)
    assert Options(joules=360.0, core_minutes=1.0).recipe(0, joules_per_cpu_s=3.0).core_minutes == 1.0
    assert Options(core_minutes=1.0).recipe(0).core_minutes == 1.0
    assert Options(isolate=True).recipe(0, separator=7).separator == 7
    assert Options().recipe(0, separator=7).separator is None


def test_what_is_missing_is_named(context: Context) -> None:
    inputs = {name: ref for name, ref in context.inputs.items() if name != "architecture/model"}
    with pytest.raises(BadInput, match="reads architecture/model, which is not in the lake yet"):
        stage.measure(replace(context, inputs=inputs), State())
    with pytest.raises(BadInput, match="no windows of second/train; it holds base/test"):
        run(context, domain="second")
    with pytest.raises(ValidationError):
        run(context, token=5)


def test_a_recipe_that_came_with_the_model_fills_the_open_options(context: Context, done: State) -> None:
    made = context.inputs["architecture/model"]
    about = {"recipe": {"batch": 4, "matrix_lr": 0.05, "tokens": 99}, "dial": {"unique_tokens": 10_000}}
    model = context.lake.put_folder("architecture/model", context.lake.folder(made), about)
    given = replace(
        context, inputs={**context.inputs, "architecture/model": model}, options={"tokens": 3840, "steps": 3}
    )
    found = options_of(given)
    assert (found.batch, found.matrix_lr, found.tokens) == (4, 0.05, 3840)
    assert options_of(context).batch == Options().batch
    prediction = run(given, "predicted", samples=0).facts["prediction"]
    assert prediction["difference"] == pytest.approx(prediction["measured"] - prediction["predicted"])
    assert "prediction" not in done.facts


@pytest.mark.parametrize("budget", [{"scale": 0.0005}, {"core_minutes": 0.02}, {"joules": 4.0}])
def test_the_dial_goes_through_both_stages_and_its_prediction_is_scored(
    context: Context, budget: dict[str, float]
) -> None:
    inputs = {name: ref for name, ref in context.inputs.items() if name != "architecture/model"}
    before = replace(context, run_id="dial", stage="architecture", inputs=inputs, options=budget)
    made = architecture.make_model(before, architecture.choose_shape(before, State()))
    given = replace(context, inputs={**inputs, **made.refs}, options={"samples": 0, "evaluation_windows": 20})
    recipe = made.facts["dial"]["recipe"]
    facts = run(given, f"dialled {budget}", samples=0).facts
    assert facts["tokens"] <= recipe["tokens"] + recipe["batch"] * 16
    prediction = facts["prediction"]
    assert prediction["measured"] == facts["after"]["validation"]
    assert prediction["difference"] == pytest.approx(prediction["measured"] - prediction["predicted"])
    if "core_minutes" in recipe:
        assert facts["tokens"] / facts["tokens_per_cpu_s"] < 2 * 60 * recipe["core_minutes"] + 0.5
    else:
        assert facts["tokens"] == pytest.approx(recipe["tokens"], abs=recipe["batch"] * 16)
