from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from infra.errors import BadInput
from infra.lake import Lake
from tasks.architecture import stage
from tasks.model.causal import load_model, load_tokenizer
from tasks.preprocessing.bpe import save_tokenizer, train_bpe
from tasks.stage import Context, State


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    home = tmp_path_factory.mktemp("home")
    lake = Lake(home / "lake")
    tokenizer = train_bpe(iter(["some text to learn from"]), 270)
    save_tokenizer(tokenizer, home / "tokenizer", context=16)
    tokens = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(17, np.uint16)), 17)
    shards = lake.write(
        "preprocessing/shards",
        pa.table({"domain": ["base"], "split": ["train"], "tokens": tokens, "n_bytes": [0]}),
        {"context": 16, "vocab_size": tokenizer.get_vocab_size()},
    )
    folder = lake.put_folder("preprocessing/tokenizer", home / "tokenizer")
    refs = {"preprocessing/shards": shards, "preprocessing/tokenizer": folder}
    return Context("r", "architecture", home, 0, {"depth": 1}, refs)


def run(context: Context, **options: Any) -> State:
    context = replace(context, options=options or context.options)
    return stage.make_model(context, stage.choose_shape(context, State()))


def test_the_model_fits_tokenizer_and_windows(context: Context) -> None:
    state = run(context)
    folder = context.lake.folder(state.refs["architecture/model"])
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.max_position_embeddings == 16
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert sum(p.numel() for p in model.parameters()) == state.facts["parameters"]


def test_a_seed_gives_one_version_and_another_seed_another(context: Context, tmp_path: Path) -> None:
    first = run(context).refs
    assert run(replace(context, run_id="other")).refs == first
    assert run(replace(context, seed=1)).refs != first


def test_the_dial_can_be_overruled(context: Context) -> None:
    shape = run(context, depth=2, width=48, heads=3, ffn=40).facts["shape"]
    assert [shape[name] for name in ("depth", "width", "heads", "ffn")] == [2, 48, 3, 40]
    assert run(context, depth=1, width=96).facts["shape"]["heads"] == 3
    assert run(context, depth=1, width=96).facts["shape"]["ffn"] == 256


def test_what_does_not_fit_is_refused_with_both_numbers(context: Context) -> None:
    with pytest.raises(BadInput, match=r"width 48 should be an even multiple of architecture\.heads 5"):
        run(context, width=48, heads=5)
    with pytest.raises(ValidationError):
        run(context, depth=0)
    with pytest.raises(BadInput, match="run preprocessing first"):
        stage.choose_shape(replace(context, inputs={}), State())


def test_what_a_search_found_holds_where_the_options_say_nothing(context: Context) -> None:
    found = {"depth": 1, "matrix_lr": 0.04, "other_lr": 0.01, "batch": 32, "warmup": 0.2, "weight_decay": 1.0}
    state = State().add(hyperparameters=found)
    open_context = replace(context, options={})
    shape = stage.choose_shape(open_context, state).facts["shape"]
    assert (shape["depth"], shape["width"]) == (2, 192)
    assert stage.choose_shape(replace(context, options={"depth": 4}), state).facts["shape"]["width"] == 128
    made = stage.make_model(context, stage.choose_shape(context, state))
    recipe = context.lake.meta(made.refs["architecture/model"])["recipe"]
    assert recipe == {name: found[name] for name in ("matrix_lr", "other_lr", "batch", "warmup", "weight_decay")}
    assert context.lake.meta(run(context).refs["architecture/model"])["recipe"] == {}


def test_the_dial_chooses_shape_and_recipe_and_what_is_set_holds(context: Context) -> None:
    state = run(context, scale=0.01)
    dial = state.facts["dial"]
    meta = context.lake.meta(state.refs["architecture/model"])
    assert meta["recipe"] == dial["recipe"]
    assert meta["dial"]["unique_tokens"] == 16
    assert dial["recipe"]["tokens"] * state.facts["training_flops_per_token"] == pytest.approx(dial["flops"])
    assert "core_minutes" not in dial["recipe"]
    fixed = run(context, core_minutes=0.5, depth=2, width=48, heads=3).facts
    assert (fixed["shape"]["depth"], fixed["shape"]["width"]) == (2, 48)
    assert fixed["dial"]["recipe"]["core_minutes"] == 0.5
    assert fixed["dial"]["rates"][0]["source"].startswith("measured on this machine")
    assert any(section.title == "Dial" for section in stage.sections(fixed))


def test_hours_of_a_card_set_the_tokens_and_no_limit_in_cpu_time(
    context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    dial = run(context, gpu_hours=1e-6, depth=1).facts["dial"]
    assert ("there is no card" in caplog.text) == (not dial["rates"][0]["measured"])
    assert "core_minutes" not in dial["recipe"]
    assert dial["gpu_hours"] == 1e-6
    assert len(dial["rates"]) == 1
