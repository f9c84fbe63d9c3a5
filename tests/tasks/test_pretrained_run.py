"""The stages on a pretrained model, one after the other, for two builds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from infra.errors import BadInput
from infra.lake import Lake
from tasks.architecture import stage as architecture
from tasks.contract import content_key
from tasks.finetuning import stage as finetuning
from tasks.inference import stage as inference
from tasks.inference.pruning.options import Options
from tasks.inference.pruning.subtask import PRUNING, find_units
from tasks.model.causal import load_model, load_tokenizer
from tasks.model.windows import read_windows
from tasks.preprocessing import stage as preprocessing
from tasks.stage import Context, State
from tasks.steps import posed
from tasks.training import stage as training
from tasks.training.evaluate import cut_windows

Folders = Callable[[str], Path]
SAMPLE = resources.files("deployments") / "sample" / "licences"
INFERENCE: dict[str, Any] = {
    "pruning": {
        "units": 3,
        "calibration_tokens": 256,
        "selection_windows": 6,
        "surrogate_tokens": 128,
        "surrogate_masks": 3,
        "parts": "blocks",
    },
    "recovery_tokens": 512,
    "muon": False,
    "other_lr": 0.001,
    "batch": 4,
    "evaluation_windows": 4,
    "speed_s": 0.02,
    "register_model": False,
    "serve": False,
}


def kept(lake: Lake) -> Any:
    rows = []
    for domain, name in (("base", "PSF-2.0.txt"), ("second", "CC-BY-4.0.txt")):
        text = (SAMPLE / name).read_text()
        for i, start in enumerate(range(0, len(text), 300)):
            part = text[start : start + 300]
            row = {"doc_id": f"{domain}{i}", "domain": domain, "source": name, "text": part}
            rows.append({**row, "n_bytes": len(part.encode())})
    return lake.write("curation/kept", pa.Table.from_pylist(rows))


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, pretrained: Folders
) -> tuple[Context, dict[str, State], Path]:
    """A run up to training, with the state of each stage."""
    torch.set_num_threads(1)
    folder, home = pretrained(request.param), tmp_path_factory.mktemp("home")
    text = home / "wiki.txt"
    text.write_text((SAMPLE / "PSF-2.0.txt").read_text()[:6000] + " caf\u00e9 \u732b")
    context = Context("run-p", "preprocessing", home, 0, {"model": str(folder), "context": 32})
    context = replace(context, inputs={"curation/kept": kept(context.lake)})
    states: dict[str, State] = {}
    for name, module, options in (
        ("preprocessing", preprocessing, {"context": 32}),
        ("architecture", architecture, {}),
        ("training", training, {"evaluate": str(text), "evaluate_windows": 5, "evaluation_windows": 10}),
    ):
        context = replace(context, stage=name, options={"model": str(folder), **options})
        state = State()
        for step in module.ROAD:
            if not isinstance(step, str):
                state = step(context, state)
        states[name] = state
        context = replace(context, inputs={**context.inputs, **states[name].refs})
    return context, states, folder


def test_the_models_own_tokenizer_packs_the_text(trained: tuple[Context, dict[str, State], Path]) -> None:
    context, states, folder = trained
    exported = load_tokenizer(context.lake.folder(context.inputs["preprocessing/tokenizer"]))
    own = load_tokenizer(folder)
    assert exported.get_vocab() == own.get_vocab()
    assert states["preprocessing"].facts["tokenizer"] == "pretrained"
    windows = read_windows(context.lake, context.inputs["preprocessing/shards"], "base", "train")
    assert windows.context == 32
    text = own.decode(windows.tokens[3][1:], skip_special_tokens=True)
    assert len(text.encode()) == windows.n_bytes[3]


def test_the_weights_pass_unchanged_and_are_not_trained(trained: tuple[Context, dict[str, State], Path]) -> None:
    context, states, folder = trained
    original = load_model(folder).state_dict()
    for name in ("architecture/model", "training/model"):
        found = load_model(context.lake.folder(context.inputs[name])).state_dict()
        assert all(torch.equal(found[key], value) for key, value in original.items())
    paths = [
        context.lake.folder(context.inputs[f"{s}/model"]) / "model.safetensors" for s in ("architecture", "training")
    ]
    assert paths[0].stat().st_ino == paths[1].stat().st_ino != (folder / "model.safetensors").stat().st_ino
    facts = states["architecture"].facts
    assert facts["parameters"] == sum(p.numel() for p in load_model(folder).parameters())
    assert states["training"].facts["tokens"] == 0
    assert states["training"].facts["after"] == states["training"].facts["before"]
    assert training.headline(states["training"]).startswith("pretrained, not trained")
    assert architecture.headline(states["architecture"]).startswith("pretrained")


def test_the_text_is_scored_the_usual_way(trained: tuple[Context, dict[str, State], Path]) -> None:
    """Perplexity of non-overlapping windows by the model's own loss, bytes by decoding."""
    context, states, folder = trained
    found = states["training"].facts["evaluated"]
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    text = (context.home / "wiki.txt").read_text()
    ids, length = tokenizer.encode(text), 64
    assert found["window_tokens"] == length  # what the model can read
    assert found["windows_in_text"] == len(ids) // length
    assert found["bytes_in_text"] == len(text.encode())
    losses, n_bytes = [], []
    for start in range(0, len(ids) // length * length, length):
        window = torch.tensor([ids[start : start + length]])
        with torch.inference_mode():
            logits = model(input_ids=window).logits[0, :-1]
        losses.append(float(cross_entropy(logits, window[0, 1:], reduction="sum")))
        n_bytes.append(len(tokenizer.decode(window[0, 1:]).encode()))
    assert found["first_windows"] == 8
    assert found["first_perplexity"] == pytest.approx(math.exp(sum(losses[:8]) / (8 * 63)), rel=1e-5)
    rows = [i * len(losses) // 5 for i in range(5)]
    assert found["windows"] == 5
    assert found["tokens"] == 5 * 63
    assert found["bytes"] == sum(n_bytes[i] for i in rows)
    nats = sum(losses[i] for i in rows)
    assert found["perplexity"] == pytest.approx(math.exp(nats / (5 * 63)), rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / found["bytes"], rel=1e-5)


def test_adaptation_trains_little_and_saves_a_plain_model(trained: tuple[Context, dict[str, State], Path]) -> None:
    context, _, _ = trained
    options = {"tokens": 2048, "batch": 4, "adapter_lr": 0.01, "evaluation_windows": 8, "beside": ()}
    context = replace(context, stage="finetuning", options=options)
    state = finetuning.adapt(context, finetuning.measure(context, State()))
    assert state.facts["lora"]["trained_share"] < 0.5
    assert state.facts["lora"]["gain"] > 0
    plain = AutoModelForCausalLM.from_pretrained(context.lake.folder(state.refs["finetuning/model"]))
    assert not [name for name, _ in plain.named_parameters() if "lora" in name]


def test_a_model_tuned_on_rows_is_judged_on_them_to_the_end_and_the_card_names_them(
    trained: tuple[Context, dict[str, State], Path], tmp_path: Path
) -> None:
    context, _, folder = trained
    data = tmp_path / "rows.jsonl"
    data.write_text(
        "".join(f'{{"prompt": "is {i % 5} odd?", "completion": "{"yes" * (i % 2)} no"}}\n' for i in range(40))
    )
    options = {"data": str(data), "tokens": 512, "batch": 4, "evaluation_windows": 4, "beside": ()}
    context = replace(context, run_id="run-rows", stage="finetuning", options=options)
    tuned = finetuning.adapt(context, finetuning.measure(context, State()))
    context = replace(context, stage="inference", inputs={**context.inputs, **tuned.refs}, options=INFERENCE)
    state = inference.measure(context, State())
    problem = posed(PRUNING, context, state)
    assert problem is not None
    state = inference.write_card(context, inference.prune(context, PRUNING.apply(context, state, problem, (1,))))
    scores = state.facts["bits_per_byte"]
    assert scores["before"]["data"] == pytest.approx(tuned.facts["lora"]["after"]["data"]["test"], rel=1e-6)
    assert scores["recovered"]["data"] < scores["pruned"]["data"]
    card = (context.lake.folder(state.refs["inference/card"]) / "README.md").read_text()
    assert f"| data | rows.jsonl | 40 | {data.stat().st_size} |" in card
    assert f"The base model `{folder.resolve().name}` was given" in card


def test_blocks_are_taken_out_and_the_smaller_model_is_published(
    trained: tuple[Context, dict[str, State], Path],
) -> None:
    context, _, _ = trained
    context = replace(context, stage="inference", options=INFERENCE)
    state = inference.measure(context, State())
    assert len(state.facts["units"]) == 3
    problem = posed(PRUNING, context, state)
    assert problem is not None
    assert problem.k == 1
    again = posed(PRUNING, context, State())
    assert again is not None
    assert content_key(again) == content_key(problem)  # a shadow arm of a resumed run has no facts
    state = inference.prune(context, PRUNING.apply(context, state, problem, (1,)))
    folder = context.lake.folder(state.refs["inference/model"])
    smaller = load_model(folder)
    assert smaller.config.num_hidden_layers == 4
    facts = state.facts
    assert facts["parameters"]["active"] == sum(p.numel() for p in smaller.parameters())
    assert facts["weights_bytes"]["after"] < facts["weights_bytes"]["before"]
    assert facts["stored_as"] == "without the blocks"
    assert set(facts["bits_per_byte"]) == {"before", "pruned", "recovered", "unpruned_same_compute"}
    low, median, high = facts["surrogate"]["random_bpb"]
    assert low <= median <= high
    assert "1 units" in inference.headline(state)


def test_a_build_that_has_no_heads_to_cut_is_cut_in_blocks(trained: tuple[Context, dict[str, State], Path]) -> None:
    context, states, _ = trained
    context = replace(
        context, stage="inference", options={"pruning": {"parts": "heads", "units": 6, "calibration_tokens": 256}}
    )
    units, why = find_units(context, context.parsed(Options, "pruning"))
    assert not why
    kind = states["architecture"].facts["shape"]["type"]
    assert {unit.part for unit in units} == ({"block"} if kind == "gpt2" else {"attention", "ffn"})


def test_misfits_are_said_before_anything_is_computed(trained: tuple[Context, dict[str, State], Path]) -> None:
    context, _, folder = trained
    options = {"model": str(folder), "evaluate": str(context.home / "none.txt")}
    with pytest.raises(BadInput, match=r"none\.txt cannot be read"):
        training.measure(replace(context, stage="training", options=options), State())
    latin = context.home / "latin.txt"
    latin.write_bytes("é".encode("latin-1") * 9)
    with pytest.raises(BadInput, match="not UTF-8"):
        training.measure(replace(context, stage="training", options={**options, "evaluate": str(latin)}), State())
    with pytest.raises(BadInput, match="give --model too"):
        training.measure(replace(context, stage="training", options={"evaluate": "x.txt"}), State())
    with pytest.raises(BadInput, match="no model folder"):
        preprocessing.prepare(replace(context, stage="preprocessing", options={"model": "nowhere"}), State())
    wide = context.lake.write("preprocessing/shards", pa.table({"a": [1]}), {"context": 128, "vocab_size": 300})
    inputs = {**context.inputs, "preprocessing/shards": wide}
    with pytest.raises(BadInput, match="more than the 64 tokens"):
        architecture.choose_shape(replace(context, inputs=inputs, options={"model": str(folder)}), State())


def test_a_text_shorter_than_a_window_is_one_window(pretrained: Folders) -> None:
    tokenizer = load_tokenizer(pretrained("llama"))
    windows = cut_windows("three short words", tokenizer)
    assert len(windows) == 1
    assert windows.tokens.dtype == np.int64
    with pytest.raises(ValueError, match="nothing to predict"):
        cut_windows("", tokenizer)
