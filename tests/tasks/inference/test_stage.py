"""The stage on a small trained model, from the lake to a server that answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForCausalLM

from infra.errors import BadInput
from infra.lake import Lake, Ref
from tasks.architecture.config import Shape, build_model
from tasks.inference import stage
from tasks.inference.pruning.subtask import PRUNING
from tasks.inference.pruning.units import Layout, choose_units, zero_units
from tasks.inference.texts import mixed_windows, recovery_windows, rows_of
from tasks.model.causal import load_model, save_model
from tasks.model.examples import ROWS, store_examples
from tasks.model.recipe import Recipe
from tasks.model.score import bits_per_byte
from tasks.model.training.loop import train
from tasks.model.windows import Windows, read_windows, token_bytes
from tasks.preprocessing.bpe import save_tokenizer, train_bpe
from tasks.preprocessing.pack import Packer
from tasks.serving.client import read_requests
from tasks.serving.compact import compact
from tasks.stage import Context, State
from tasks.steps import posed

LICENCES = Path(__file__).parents[3] / "deployments" / "sample" / "licences"
CONTEXT = 32
SMALL: dict[str, Any] = {
    "pruning": {
        "units": 6,
        "calibration_tokens": 640,
        "selection_windows": 12,
        "surrogate_tokens": 320,
        "surrogate_masks": 8,
    },
    "recovery_tokens": 4_000,
    "evaluation_windows": 20,
    "speed_s": 0.05,
    "register_model": False,
    "serve": False,
}


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    home = tmp_path_factory.mktemp("home")
    lake = Lake(home / "lake")
    texts = {"base": (LICENCES / "PSF-2.0.txt").read_text(), "second": (LICENCES / "CC-BY-4.0.txt").read_text()}
    tokenizer = train_bpe(iter(texts.values()), 400)
    folder = home / "tokenizer"
    save_tokenizer(tokenizer, folder, CONTEXT)
    tables = []
    for domain, text in texts.items():
        packer, encoding = Packer(CONTEXT, 0, 400), tokenizer.encode(text)
        packer.add(encoding.ids, token_bytes(text, [end for _, end in encoding.offsets]))
        tokens, n_bytes = packer.take()
        cuts = np.array_split(np.arange(len(tokens)), 10)
        parts = {"train": np.concatenate(cuts[:8]), "validation": cuts[8], "test": cuts[9]}
        for split, rows in parts.items():
            columns = {
                "domain": [domain] * len(rows),
                "split": [split] * len(rows),
                "tokens": pa.FixedSizeListArray.from_arrays(pa.array(tokens[rows].reshape(-1)), CONTEXT + 1),
                "n_bytes": n_bytes[rows],
            }
            tables.append(pa.table(columns))
    shards = lake.write("preprocessing/shards", tables, {"context": CONTEXT})
    holdout = lake.write(
        "preprocessing/holdout",
        pa.table({"doc_id": ["d"], "domain": ["base"], "split": ["test"], "text": [texts["base"][:2000]]}),
    )
    tokenizer_ref = lake.put_folder("preprocessing/tokenizer", folder)
    model = build_model(Shape(3, 32, 2, 64, tokenizer.get_vocab_size(), CONTEXT), 0, 0)
    train(model, read_windows(lake, shards, "base", "train"), Recipe(tokens=40_000, batch=16, matrix_lr=0.05))
    save_model(model, folder)
    inputs = {
        "preprocessing/shards": shards,
        "preprocessing/tokenizer": tokenizer_ref,
        "preprocessing/holdout": holdout,
        "training/model": lake.put_folder("training/model", folder),
    }
    return Context("run-a", "inference", home, 3, SMALL, inputs)


def walk(context: Context, removed: tuple[int, ...]) -> State:
    state = stage.measure(context, State())
    problem = posed(PRUNING, context, state)
    assert problem is not None
    state = PRUNING.apply(context, state, problem, removed)
    return stage.serve(context, stage.register(context, stage.prune(context, state)))


@pytest.fixture(scope="module")
def published(context: Context) -> State:
    return walk(context, (0, 3))


def test_the_problem_uses_disjoint_text_of_both_domains(context: Context) -> None:
    problem = posed(PRUNING, context, stage.measure(context, State()))
    assert problem is not None
    assert PRUNING.size(problem) == 6
    assert problem.k == 2
    assert problem.calibration.n_predicted >= 640
    lake, shards = context.lake, context.inputs["preprocessing/shards"]
    for windows, split in ((problem.calibration, "train"), (problem.selection, "validation")):
        rows = {row.tobytes() for row in windows.tokens}
        for domain in ("base", "second"):
            own = {row.tobytes() for row in read_windows(lake, shards, domain, split).tokens}
            assert len(rows & own) == len(rows) // 2


def test_the_published_model_loads_plainly_and_lacks_what_was_removed(context: Context, published: State) -> None:
    folder = context.lake.folder(published.refs["inference/model"])
    plain = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    source = context.lake.folder(context.inputs["training/model"])
    units = choose_units(Layout.of(plain.config), 6)
    again = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    zero_units(again, [units[0], units[3]])
    for (name, a), b in zip(plain.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert {n: p.shape for n, p in plain.named_parameters()} == {
        n: p.shape for n, p in load_model(source).named_parameters()
    }
    assert (folder / "tokenizer.json").is_file()


def test_the_figures_are_those_of_the_published_model(context: Context, published: State) -> None:
    model = load_model(context.lake.folder(published.refs["inference/model"]))
    windows = read_windows(context.lake, context.inputs["preprocessing/shards"], "second", "test", 20)
    figures = published.facts["bits_per_byte"]
    assert figures["recovered"]["second"] == pytest.approx(bits_per_byte(model, windows), abs=1e-4)
    assert set(figures) == {"before", "pruned", "recovered", "unpruned_same_compute"}
    assert figures["pruned"]["base"] > figures["before"]["base"]
    assert sum(figures["recovered"].values()) < sum(figures["pruned"].values())


def test_what_was_removed_saves_arithmetic_where_it_is_served(context: Context, published: State) -> None:
    model = load_model(context.lake.folder(published.refs["inference/model"]))
    compact(model)
    parameters = published.facts["parameters"]
    assert sum(p.numel() for p in model.parameters()) == parameters["active"] < parameters["stored"]
    speed = published.facts["prefill_tokens_per_cpu_s"]
    assert speed["before"] > 0
    assert speed["after"] > 0


def test_the_surrogate_is_reported(published: State) -> None:
    surrogate = published.facts["surrogate"]
    assert -1 <= surrogate["spearman"] <= 1
    assert surrogate["masks"] == 8


@pytest.mark.parametrize("run", ["run-a", "run-b"])
def test_a_rerun_and_another_run_of_the_same_seed_give_the_same_model(
    context: Context, published: State, run: str
) -> None:
    """The rerun finds the checkpoints of the first; the other run trains anew."""
    other = replace(context, run_id=run)
    assert walk(other, (0, 3)).refs == published.refs


def test_nothing_removed_publishes_the_model_as_it_is(context: Context) -> None:
    state = walk(context, ())
    before = load_model(context.lake.folder(context.inputs["training/model"]))
    after = load_model(context.lake.folder(state.refs["inference/model"]))
    for a, b in zip(before.parameters(), after.parameters(), strict=True):
        assert torch.equal(a, b)
    assert set(state.facts["bits_per_byte"]) == {"before"}


def test_whole_sublayers_can_go_and_stay_gone(context: Context) -> None:
    units = choose_units(Layout(3, 32, 2, 1, 16, 64), 6)
    assert str(units[0]) == "block 1 heads 0-1"
    ref = walk(context, (0, 1)).refs["inference/model"]
    model = load_model(context.lake.folder(ref))
    assert not model.model.layers[1].self_attn.o_proj.weight.any()
    assert not model.model.layers[1].self_attn.q_proj.weight.any()


def test_the_finetuned_model_comes_first(context: Context) -> None:
    trained = context.inputs["training/model"]
    tuned = context.lake.put_folder("finetuning/model", context.lake.folder(trained))
    state = stage.measure(replace(context, inputs={**context.inputs, "finetuning/model": tuned}), State())
    assert Ref.parse(state.facts["source"]).name == "finetuning/model"
    assert Ref.parse(stage.measure(context, State()).facts["source"]).name == "training/model"


def test_one_domain_is_enough(context: Context) -> None:
    only = replace(context, options={**SMALL, "domains": ["base", "absent"]})
    assert set(stage.measure(only, State()).facts["bits_per_byte"]["before"]) == {"base"}
    none = replace(context, options={**SMALL, "domains": ["absent"]})
    with pytest.raises(BadInput, match=r"inference\.domains"):
        stage.measure(none, State())


@pytest.mark.parametrize("name", ["training/model", "preprocessing/shards"])
def test_a_missing_input_is_named(context: Context, name: str) -> None:
    inputs = {key: ref for key, ref in context.inputs.items() if key != name}
    with pytest.raises(BadInput, match=name):
        stage.measure(replace(context, inputs=inputs), State())


def test_the_server_is_asked_and_the_model_registered(
    context: Context, published: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KETCYCLE_HOME", str(context.home))
    options = {**SMALL, "register_model": True, "serve": True, "recovery_tokens": 0}
    asked = replace(context, options=options, run_id="run-s")
    state = walk(asked, (0, 3))
    served = state.facts["served"]
    assert served["usage"]["completion_tokens"] >= 1
    assert served["model_version"] == state.refs["inference/model"].version
    assert read_requests(context.lake, "run-s-inference")["label"].to_pylist() == ["check"]
    assert len(read_requests(context.lake, "run-s")) == 0
    registered = state.facts["registered"]
    assert registered["version"] >= 1
    assert registered["alias"] == "challenger"
    assert "recovered" not in state.facts["bits_per_byte"]


def test_number_formats_are_measured_and_the_card_is_written(context: Context, published: State) -> None:
    options = replace(context, options={**context.options, "forms_s": 0.01, "licences": {"base": "PSF-2.0"}})
    state = stage.write_card(options, stage.compare_forms(options, published))
    assert state.facts["forms"]["chosen"] in ("fp32", "bf16", "int8")
    fp32 = state.facts["forms"]["rows"]["fp32"]
    assert fp32["bytes"] == 4 * state.facts["parameters"]["stored"]
    card = (context.lake.folder(state.refs["inference/card"]) / "README.md").read_text()
    assert f"Made by run `{context.run_id}`." in card
    assert str(state.refs["inference/model"]) in card
    assert f"Chosen: {state.facts['forms']['chosen']}." in card
    titles = [section.title for section in stage.sections(state.facts)]
    assert "Number formats" in titles
    assert stage.compare_forms(replace(context, options={**context.options, "forms_s": 0.0}), published) == published


def test_equal_windows_of_each_domain(context: Context) -> None:
    mixed: Windows = mixed_windows(context, "train", 10)
    assert len(mixed) == 10


def test_rows_are_a_third_text_of_recovery_and_of_the_figures(context: Context) -> None:
    read = np.tile(np.arange(CONTEXT), (3, 1))
    rows = Windows(np.full((3, CONTEXT + 1), 7), np.full(3, 8), read > CONTEXT - 3, read)
    stored = store_examples(context.lake, ROWS, {"train": rows}, {})
    context = replace(context, inputs={**context.inputs, ROWS: stored})
    found = recovery_windows(context, 12)
    assert found.scored is not None
    assert found.scored.sum(1).tolist() == [2] * 4 + [CONTEXT] * 8
    assert found.tokens[:4].tolist() == [[7] * (CONTEXT + 1)] * 4
    assert rows_of(context, "train")["data"].digest() == rows.digest()
    assert len(rows_of(context, "train", 2)["data"]) == 2
