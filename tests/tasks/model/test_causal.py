from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from tasks.model.causal import load_model, load_tokenizer, save_model

Make = Callable[..., LlamaForCausalLM]


def test_a_saved_model_comes_back_to_the_bit_and_saves_to_the_same_bytes(tiny: Make, tmp_path: Path) -> None:
    model = tiny()
    save_model(model, tmp_path / "a")
    loaded = load_model(tmp_path / "a")
    save_model(loaded, tmp_path / "b")
    ids = torch.arange(10)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, loaded(ids).logits)
    assert not loaded.training
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_half_precision_weights_are_loaded_as_fp32(tiny: Make, tmp_path: Path) -> None:
    model: Any = tiny()
    save_model(model.to(torch.bfloat16), tmp_path)
    assert {p.dtype for p in load_model(tmp_path).parameters()} == {torch.float32}


def test_pickled_weights_are_refused(tiny: Make, tmp_path: Path) -> None:
    model = tiny()
    save_model(model, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="safetensors"):
        load_model(tmp_path)


def test_code_in_a_model_folder_is_not_run(tiny: Make, tmp_path: Path) -> None:
    save_model(tiny(), tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(
        config.replace('"model_type": "llama"', '"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}')
    )
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    with pytest.raises(ValueError, match=r"trust_remote_code|own"):
        load_model(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_folder_without_a_model_or_tokenizer_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load_model(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)
