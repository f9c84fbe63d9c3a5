"""Which model folders are accepted; every refusal says what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM

from infra.errors import BadInput
from tasks.model.causal import separator
from tasks.model.pretrained import check_folder, read_config, read_model, read_tokenizer, take_files

Folders = Callable[[str], Path]


@pytest.fixture
def copied(pretrained: Folders, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pretrained("llama"), tmp_path / "model"))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_causal_models_are_accepted(pretrained: Folders, kind: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pretrained(kind), tmp_path / "model"))
    assert read_config(folder).model_type == kind
    model = read_model(folder)
    assert model.dtype is torch.float32
    assert separator(read_tokenizer(folder)) == 0
    (folder / "training_args.bin").write_bytes(b"x")
    taken = tmp_path / "taken"
    taken.mkdir()
    take_files(folder, taken)
    assert {path.name for path in taken.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert not (taken / "training_args.bin").exists()


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _lose_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.3.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _reshape(folder: Path) -> None:
    change(folder / "config.json", intermediate_size=64)


def _pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _adapter(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


def _bert(folder: Path) -> None:
    config = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=50)
    BertForMaskedLM(config).save_pretrained(folder)


def _shards(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (shutil.rmtree, "there is no model folder"),
    "no configuration": (lambda f: (f / "config.json").unlink(), "no config.json; give a folder saved by"),
    "an adapter": (_adapter, "an adapter, no model; merge it"),
    "not JSON": (lambda f: (f / "config.json").write_text("{"), "cannot be read as JSON"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no weights"),
    "pickles": (_pickle, "pickles, which can run code.*convert them to safetensors"),
    "GGUF": (lambda f: (f / "model.safetensors").rename(f / "m.gguf"), "GGUF; convert"),
    "a missing shard": (_shards, "lacks model-00002-of-00002.safetensors"),
    "remote code": (
        lambda f: change(f / "config.json", auto_map={"AutoModelForCausalLM": "x.Y"}),
        "brings code of its own.*never run",
    ),
    "remote code of the tokenizer": (
        lambda f: change(f / "tokenizer_config.json", auto_map={"AutoTokenizer": ["x.Y", None]}),
        "auto_map in tokenizer_config.json",
    ),
    "quantised": (lambda f: change(f / "config.json", quantization_config={"bits": 4}), "quantised; save the model"),
    "no causal model": (_bert, "BertForMaskedLM, no causal language model"),
    "an unknown architecture": (
        lambda f: change(f / "config.json", model_type="nothing", architectures=["NothingForCausalLM"]),
        "cannot be read",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer.json"),
    "cut short": (_cut, "was the copy cut short"),
    "a tensor missing": (_lose_a_tensor, "lack 1 tensors.*up_proj"),
    "other shapes": (_reshape, "cannot be read"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_everything_else_is_refused_with_what_to_do(copied: Path, name: str) -> None:
    spoil, said = REFUSED[name]
    spoil(copied)
    with pytest.raises(BadInput, match=said):
        read_model(copied)


def test_files_alone_tell_most(copied: Path) -> None:
    assert check_folder(copied)["model_type"] == "llama"
    _pickle(copied)
    with pytest.raises(BadInput, match="pickles"):
        check_folder(copied)
    with pytest.raises(BadInput, match="pickles"):
        read_tokenizer(copied)


def test_a_damaged_tokenizer_is_bad_input(copied: Path) -> None:
    (copied / "tokenizer.json").write_text("{}")
    with pytest.raises(BadInput, match=r"tokenizer in .* cannot be used"):
        read_tokenizer(copied)
