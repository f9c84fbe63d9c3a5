from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from infra.errors import BadInput
from tasks.finetuning import stage
from tasks.model import train as training
from tasks.model.causal import load_model, load_tokenizer
from tasks.model.lora import load_adapter, merge
from tasks.model.score import bits_per_byte
from tasks.model.windows import read_windows
from tasks.stage import Context, State


def run(context: Context, run_id: str = "r", **options: Any) -> State:
    context = replace(context, run_id=run_id, options={**context.options, **options})
    return stage.adapt(context, stage.measure(context, State()))


@pytest.fixture(scope="module")
def done(context: Context) -> State:
    return run(context)


def test_the_second_domain_is_learnt_and_the_figures_say_at_what_price(done: State) -> None:
    before, lora, full = done.facts["before"], done.facts["lora"], done.facts["full"]
    assert lora["gain"] > 0.1
    assert full["gain"] > 0.1
    for figures in (lora, full):
        assert figures["gain"] == pytest.approx(before["second"]["test"] - figures["after"]["second"]["test"])
        assert figures["forgetting"] == pytest.approx(figures["after"]["base"]["test"] - before["base"]["test"])
    assert lora["tokens"] == full["tokens"] == 3840
    assert full["trained_share"] == 1.0
    assert lora["trained_share"] < 0.3


def test_the_figures_are_those_of_the_saved_model(context: Context, done: State) -> None:
    folder = context.lake.folder(done.refs["finetuning/model"])
    load_tokenizer(folder)
    model = load_model(folder)
    for domain in ("base", "second"):
        windows = read_windows(context.lake, context.inputs["preprocessing/shards"], domain, "test", limit=128)
        assert bits_per_byte(model, windows) == pytest.approx(done.facts["lora"]["after"][domain]["test"], rel=1e-6)


def test_adapter_and_trained_model_make_the_fine_tuned_model(context: Context, done: State) -> None:
    base = load_model(context.lake.folder(context.inputs["training/model"]))
    merged = merge(load_adapter(base, context.lake.folder(done.refs["finetuning/adapter"])))
    saved = load_model(context.lake.folder(done.refs["finetuning/model"]))
    windows = read_windows(context.lake, context.inputs["preprocessing/shards"], "second", "test")
    assert bits_per_byte(merged, windows) == pytest.approx(bits_per_byte(saved, windows), rel=1e-6)


def test_a_seed_gives_one_version_and_another_seed_another(context: Context, done: State) -> None:
    assert run(context, "again", compare_full=False).refs == done.refs
    other = run(replace(context, seed=1), "other", compare_full=False)
    assert other.refs["finetuning/adapter"] != done.refs["finetuning/adapter"]
    assert "full" not in other.facts


def test_a_stage_stopped_in_the_adapter_goes_on_there(
    context: Context, done: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = training._step, []

    def stops(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 30 + 25:
            monkeypatch.setattr(training, "_step", real)
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(training, "_step", stops)
    with pytest.raises(KeyboardInterrupt):
        run(context, "stopped")
    state = run(context, "stopped")
    assert state.facts["full"]["resumed_at"] == 30
    assert state.facts["lora"]["resumed_at"] == 20
    assert state.refs == done.refs


def test_what_is_missing_is_named(context: Context) -> None:
    inputs = {name: ref for name, ref in context.inputs.items() if name != "training/model"}
    with pytest.raises(BadInput, match="reads training/model, which is not in the lake yet"):
        stage.measure(replace(context, inputs=inputs), State())
    with pytest.raises(BadInput, match="needs text of a second domain"):
        run(context, domain="third")
    with pytest.raises(ValidationError, match="both 'base'"):
        run(context, domain="base")
    with pytest.raises(ValidationError):
        run(context, rank=0)
