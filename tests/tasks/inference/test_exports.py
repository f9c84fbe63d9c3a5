"""Files for other runtimes; what needs a runtime's package is tried where it is installed."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from infra.errors import BadInput
from tasks.inference.exports import Onnx, export, size
from tasks.model.causal import load_model, save_model
from tasks.preprocessing.bpe import save_tokenizer, train_bpe

TEXT = Path(__file__).parents[3] / "deployments" / "sample" / "licences" / "PSF-2.0.txt"


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with a tokenizer; its rows have 64 weights, for the quantised forms need 32 at a time."""
    folder = tmp_path_factory.mktemp("wide")
    tokenizer = train_bpe(iter([TEXT.read_text()]), 512)
    save_tokenizer(tokenizer, folder, 64)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        save_model(LlamaForCausalLM(config), folder)
    return folder


def test_a_form_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(BadInput, match=r"inference.exports=gguf needs a package; `pip install 'ketcycle\[exports\]'`"):
        export(tmp_path, "gguf", tmp_path)


def test_eight_bits_take_a_quarter_of_the_bytes_and_are_near_the_weights(wide: Path, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="needs `pip install 'ketcycle[exports]'`")
    whole, small = (export(wide, form, tmp_path / form) for form in ("gguf", "gguf-q8_0"))
    tensors = {t.name: t for t in gguf.GGUFReader(small).tensors}
    name = "blk.0.ffn_up.weight"
    assert tensors[name].n_bytes * 32 == tensors[name].n_elements * 34
    weights = dict(load_model(wide).state_dict())["model.layers.0.mlp.up_proj.weight"].numpy()
    found = gguf.quants.dequantize(tensors[name].data, tensors[name].tensor_type)
    assert np.abs(found - weights).max() <= np.abs(weights).max() / 127
    assert size(small) < size(whole)


def test_llama_cpp_is_told_how_words_are_split_and_whether_a_token_starts_a_text(wide: Path, tmp_path: Path) -> None:
    """A wrong splitting writes other tokens for numbers, a token in front of a chat other answers."""
    gguf = pytest.importorskip("gguf", reason="needs `pip install 'ketcycle[exports]'`")

    def told(name: str, pre_tokenizer: Any = None, template: str = "") -> tuple[str, bool]:
        folder = tmp_path / name
        shutil.copytree(wide, folder)
        state = json.loads((folder / "tokenizer.json").read_text())
        state["pre_tokenizer"] = pre_tokenizer or state["pre_tokenizer"]
        (folder / "tokenizer.json").write_text(json.dumps(state))
        if template:
            (folder / "chat_template.jinja").write_text(template)
        fields = gguf.GGUFReader(export(folder, "gguf", tmp_path / f"{name}-out")).fields
        return fields["tokenizer.ggml.pre"].contents(), fields["tokenizer.ggml.add_bos_token"].contents()

    words = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    assert told("own") == ("gpt-2", True)
    assert told("chat", template="{{ messages[0].content }}") == ("gpt-2", False)
    assert told("digits", {"type": "Sequence", "pretokenizers": [digits, words]}) == ("smollm", True)
    split = {"type": "Split", "pattern": {"Regex": " "}, "behavior": "Isolated", "invert": False}
    for name, parts in (
        ("split", [split, {**words, "use_regex": False}]),
        ("groups", [{**digits, "individual_digits": False}, words]),
    ):
        with pytest.raises(BadInput, match="splits words as GPT-2's or SmolLM's does"):
            told(name, {"type": "Sequence", "pretokenizers": parts})


@pytest.mark.slow
def test_onnx_runtime_gives_the_models_logits_and_writes_its_text(wide: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_genai", reason="needs `pip install 'ketcycle[exports]'`")
    decoder = Onnx(export(wide, "onnx", tmp_path))
    model: Any = load_model(wide)
    tokens = np.arange(3, 20)
    with torch.inference_mode():
        expected = model(torch.from_numpy(tokens)[None]).logits[0].numpy()
        written = model.generate(torch.from_numpy(tokens)[None], max_new_tokens=6, do_sample=False, eos_token_id=None)
    np.testing.assert_allclose(decoder.logits(tokens), expected, atol=1e-4)
    assert decoder.write(tokens, 6).tolist() == written[0, len(tokens) :].tolist()
