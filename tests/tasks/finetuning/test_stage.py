import json
import math
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from infra.errors import BadInput
from tasks.finetuning import stage
from tasks.finetuning.options import Options
from tasks.finetuning.target import read_target
from tasks.model.adapters import load_adapters, merge
from tasks.model.causal import load_model, load_tokenizer
from tasks.model.examples import ROWS, read_examples
from tasks.model.score import bits_per_byte
from tasks.model.training import loop
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
    merged = merge(load_adapters(base, {"first": context.lake.folder(done.refs["finetuning/adapter"])}))
    saved = load_model(context.lake.folder(done.refs["finetuning/model"]))
    windows = read_windows(context.lake, context.inputs["preprocessing/shards"], "second", "test")
    assert bits_per_byte(merged, windows) == pytest.approx(bits_per_byte(saved, windows), rel=1e-6)


def test_a_seed_gives_one_version_and_another_seed_another(context: Context, done: State) -> None:
    assert run(context, "again", beside=()).refs == done.refs
    other = run(replace(context, seed=1), "other", beside=())
    assert other.refs["finetuning/adapter"] != done.refs["finetuning/adapter"]
    assert "full" not in other.facts


def test_a_stage_stopped_in_the_adapter_goes_on_there(
    context: Context, done: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = loop._step, []

    def stops(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 30 + 25:
            monkeypatch.setattr(loop, "_step", real)
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(loop, "_step", stops)
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


def questions(path: Path, n: int = 40) -> Path:
    """Questions whose answer is a word of the language that the model has not learnt."""
    rng = np.random.default_rng(0)
    words = [a + b for a in ("zu", "ny", "ho") for b in ("n", "sha", "vor")]
    rows = [{"prompt": "kan ", "completion": str(rng.choice(words))} for _ in range(n)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_is_learnt_by_several_methods_and_their_adapters_lie_on_one_base(
    context: Context, tmp_path: Path
) -> None:
    data = questions(tmp_path / "rows.jsonl")
    longer = replace(
        context, options={"data": str(data), "method": "dora", "beside": ("rslora",), "epochs": 2, "rank": 4}
    )
    state = stage.adapt(longer, stage.measure(longer, State()))
    for method in ("dora", "rslora"):
        assert state.facts[method]["gain"] > 0.05
        assert "forgetting" in state.facts[method]
    assert state.facts["rows"] | {"filled": 0, "windows": 0} == {
        "rows": 40, "trained_rows": 36, "filled": 0, "windows": 0, "cut": 0, "dropped": 0,
    }  # fmt: skip
    assert stage.headline(state).startswith("DoRA: ")
    assert "rsLoRA" in stage.headline(state)
    assert [section.title for section in stage.sections(state.facts)][:2] == ["Gain and forgetting", "Rows of the file"]
    folders = {m: context.lake.folder(state.refs[f"finetuning/adapter-{m}"]) for m in ("dora", "rslora")}
    both = load_adapters(load_model(context.lake.folder(context.inputs["training/model"])), folders)
    assert both.active_adapter == "dora"
    target = read_target(longer, longer.parsed(Options))
    assert bits_per_byte(both, target.test) == pytest.approx(state.facts["dora"]["after"]["data"]["test"], rel=1e-5)
    for split in ("train", "validation", "test"):
        windows = read_examples(context.lake, state.refs[ROWS], split)
        assert windows.digest() == getattr(target, split).digest()
    (learned,) = context.lake.meta(state.refs["finetuning/model"])["learned"]
    assert (learned["source"], learned["documents"]) == ("rows.jsonl", 40)
    assert learned["sha256"] == sha256(data.read_bytes()).hexdigest()


def test_files_that_cannot_be_trained_on_are_named(context: Context, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="at least 3 are needed"):
        run(context, data=str(questions(tmp_path / "two.jsonl", 2)))
    with pytest.raises(BadInput, match=r"cannot be read \(No such file"):
        run(context, data=str(tmp_path / "none.jsonl"))
    with pytest.raises(BadInput, match=r"chat template .* cannot be read"):
        run(context, data=str(questions(tmp_path / "rows.jsonl")), template=str(tmp_path / "none.jinja"))
    with pytest.raises(ValidationError, match="epochs needs a file"):
        run(context, epochs=2)
    with pytest.raises(ValidationError, match="name a method twice"):
        run(context, beside=("lora",))


def test_preferences_make_the_preferred_answer_likelier(
    context: Context, done: State, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("trl", reason="preference tuning needs the extra `preference`")
    rows = [{"prompt": "kan ", "chosen": "zun", "rejected": "rushavor"}] * 20
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {**context.options, "preferences": str(path), "preference_steps": 6, "preference_lr": 0.01, "batch": 2}
    state = stage.align(replace(context, options=options), done)
    found = state.facts["preference"]
    assert (found["pairs"], found["held_out"], found["steps"]) == (20, 2, 6)
    assert found["accuracy"] == 1.0
    assert found["loss"] < math.log(2)
    gain = done.facts["before"]["second"]["test"] - found["after"]["second"]["test"]
    assert found["gain"] == pytest.approx(gain)
    assert f"; after preference tuning {gain:.3f} and " in stage.headline(state)
    assert not [stream for stream in capfd.readouterr() if "loss" in stream or "examples/s" in stream]
    assert state.refs["finetuning/model"] != done.refs["finetuning/model"]
    (learned,) = context.lake.meta(state.refs["finetuning/model"])["learned"]
    assert learned | {"sha256": ""} == {
        "domain": "preferences", "source": "pairs.jsonl", "documents": 20, "bytes": path.stat().st_size, "sha256": "",
    }  # fmt: skip
    assert stage.align(context, done) == done
