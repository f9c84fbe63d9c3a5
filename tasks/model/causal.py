"""Causal language models as folders in the `transformers` format: safetensors, fp32, no remote code, no network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def load_model(folder: Path) -> PreTrainedModel:
    """Load a causal language model in fp32, ready for evaluation.

    Raises:
        FileNotFoundError: the folder holds no `config.json` or no safetensors file.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    folder = Path(folder)
    for pattern in ("config.json", "*.safetensors"):
        if not any(folder.glob(pattern)):
            raise FileNotFoundError(f"{folder} is no model folder: it has no {pattern}; give one saved by transformers")
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
    )
    model.train(False)
    return model


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """Save a model as `config.json` and safetensors; the same weights give the same bytes."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Load a tokenizer from a folder.

    Raises:
        FileNotFoundError: the folder holds no `tokenizer.json`.
        TypeError: the tokenizer is not a fast one.
    """
    from transformers import PreTrainedTokenizerFast

    if not (Path(folder) / "tokenizer.json").is_file():
        raise FileNotFoundError(f"{folder} is no tokenizer folder: it has no tokenizer.json")
    found: Any = PreTrainedTokenizerFast
    if _tokenizer_class(Path(folder)) != PreTrainedTokenizerFast.__name__:
        from transformers import AutoTokenizer  # imports the classes of all models

        found = AutoTokenizer
    tokenizer = found.from_pretrained(folder, local_files_only=True, trust_remote_code=False, use_fast=True)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise TypeError(f"{folder} holds a {type(tokenizer).__name__}, not a fast tokenizer (tokenizer.json)")
    return tokenizer


def _tokenizer_class(folder: Path) -> str:
    try:
        return str(json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["tokenizer_class"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""  # transformers finds it in another file, or says what is wrong


def separator(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """Return the token between documents, which also starts a text: end-of-text, else the first or the last one.

    Instruct models often end a turn with another token than the one between the documents of their training.
    """
    named = {token.content: index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    for found in (named.get("<|endoftext|>"), tokenizer.bos_token_id, tokenizer.eos_token_id):
        if found is not None:
            return int(found)
    return None
