"""A pretrained model given by the user: checks of its folder, loading, and copying of its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.errors import BadInput
from infra.lake import link_or_copy

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

TAKEN = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "LICENSE*", "SOURCE")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
CAUSAL = ("ForCausalLM", "LMHeadModel")


def check_folder(folder: Path) -> dict[str, Any]:
    """Check the files of a model folder without loading weights, and return its configuration.

    Raises:
        BadInput: the folder holds no causal model with safetensors weights, or the model needs code of its own.
    """
    config = _configuration(folder)
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).is_file() and "auto_map" in _json(folder / name):
            raise BadInput(
                f"the model in {folder} brings code of its own (auto_map in {name}), which is never run here; "
                "give a model whose architecture transformers itself knows"
            )
    if config.get("quantization_config"):
        raise BadInput(
            f"the weights in {folder} are quantised; save the model de-quantised as safetensors and give that"
        )
    _check_weights(folder)
    named = config.get("architectures") or []
    if named and not any(name.endswith(CAUSAL) for name in named):
        raise BadInput(
            f"the model in {folder} is a {', '.join(named)}, no causal language model; "
            "give one whose architecture ends in ForCausalLM or LMHeadModel"
        )
    if not (folder / "tokenizer.json").is_file():
        raise BadInput(
            f"{folder} has no tokenizer.json; load its tokenizer once with transformers' AutoTokenizer and "
            "save_pretrained it into the folder"
        )
    return config


def read_config(folder: Path) -> PretrainedConfig:
    """Return the configuration of an accepted model.

    Raises:
        BadInput: transformers does not know the architecture, or knows no causal model of it.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL_TYPES

    check_folder(folder)
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, KeyError, OSError) as error:
        raise BadInput(f"the model in {folder} cannot be read: {_first_line(error)}") from error
    if config.model_type not in CAUSAL_TYPES or getattr(config, "is_encoder_decoder", False):
        raise BadInput(f"the model in {folder} is a {config.model_type}, no causal language model; give a decoder")
    return config


def read_model(folder: Path) -> PreTrainedModel:
    """Load an accepted model in fp32 and check that its weights are complete.

    Raises:
        BadInput: the folder is not accepted, or weights are missing, damaged or of other shapes.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    read_config(folder)
    try:
        loaded: tuple[PreTrainedModel, dict[str, Any]] = AutoModelForCausalLM.from_pretrained(  # type: ignore[assignment]
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise BadInput(
            f"the weights in {folder} cannot be read ({_first_line(error)}); was the copy cut short? copy them again"
        ) from error
    model, found = loaded
    lacking = sorted(found["missing_keys"])
    if lacking:
        raise BadInput(
            f"the weights in {folder} lack {len(lacking)} tensors of the architecture, {lacking[0]} first; "
            "give the whole model"
        )
    model.train(False)
    return model


def read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer of an accepted model.

    Raises:
        BadInput: the folder is not accepted, or its tokenizer cannot be read.
    """
    from tasks.model.causal import load_tokenizer

    check_folder(folder)
    try:
        return load_tokenizer(folder)
    except Exception as error:  # the tokenizers library raises many types for a bad file, often a bare Exception
        raise BadInput(f"the tokenizer in {folder} cannot be used: {_first_line(error)}") from error


def take_files(source: Path, target: Path) -> None:
    """Copy configuration, weights and tokenizer of a model into a folder, as hard links if the file system allows."""
    for pattern in TAKEN:
        for path in sorted(source.glob(pattern)):
            link_or_copy(path.resolve(), target / path.name)


def _configuration(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise BadInput(f"there is no model folder {folder}; give one saved by transformers' save_pretrained")
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise BadInput(f"{folder} holds an adapter, no model; merge it into its model, save that, and give it")
        raise BadInput(f"{folder} has no config.json; give a folder saved by transformers' save_pretrained")
    return _json(folder / "config.json")


def _check_weights(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        index = folder / "model.safetensors.index.json"
        shards = set(_json(index).get("weight_map", {}).values()) if index.is_file() else set()
        missing = sorted(name for name in shards if not (folder / name).is_file())
        if missing:
            raise BadInput(f"{folder} lacks {', '.join(missing)}, named in {index.name}; copy the whole model")
        return
    if any(any(folder.glob(pattern)) for pattern in PICKLES):
        raise BadInput(
            f"the weights in {folder} are pickles, which can run code when they are read; "
            "convert them to safetensors where you trust them, and give that folder"
        )
    if any(folder.glob("*.gguf")):
        raise BadInput(f"the weights in {folder} are GGUF; convert them to safetensors as deployments/models.py does")
    raise BadInput(f"{folder} has a config.json but no weights (*.safetensors); give the whole model")


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise BadInput(f"{path} cannot be read as JSON ({_first_line(error)}); copy the model again") from error
    if not isinstance(content, dict):
        raise BadInput(f"{path} should hold a JSON object; copy the model again")
    return content


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
