"""Low-rank adaptation (Hu et al. 2022, LoRA) of every linear layer, saved without network access."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel


def add_lora(model: PreTrainedModel, rank: int, alpha: int, dropout: float, seed: int) -> PeftModel:
    """Wrap a model so that only rank-`rank` factors of its linear layers are trained.

    The second factor starts at zero, so the wrapped model starts with the outputs of the model.
    """
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft asks transformers for an attribute under its old name.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        # GPT-2 stores its matrices transposed; peft detects that and warns.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False", category=UserWarning)
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def count_trainable(model: torch.nn.Module) -> tuple[int, int]:
    """Return the number of trainable weights and of all weights."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes)


def save_adapter(model: PeftModel, folder: Path, base: str) -> None:
    """Save the adapter alone, in the format of `peft`.

    Args:
        model: the wrapped model.
        folder: folder that is written.
        base: name of the base model, e.g. a lake reference; a local path would differ from run to run.
    """
    # "auto" would query the model hub for a changed vocabulary.
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config: dict[str, Any] = json.loads(path.read_text())
    config["base_model_name_or_path"] = base
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True))


def load_adapter(model: PreTrainedModel, folder: Path) -> PeftModel:
    """Put a saved adapter on its model.

    Raises:
        FileNotFoundError: the folder holds no adapter; without this check peft would query the model hub.
    """
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (Path(folder) / name).is_file():
            raise FileNotFoundError(f"{folder} is no adapter folder: it has no {name}")
    return PeftModel.from_pretrained(model, str(folder), local_files_only=True)


def merge(model: PeftModel) -> PreTrainedModel:
    """Add the factors' products to the weights and return the plain model."""
    merged: PreTrainedModel = model.merge_and_unload()
    merged.train(False)
    return merged
