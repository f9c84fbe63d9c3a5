"""Adapters of `peft` on every linear layer, saved, loaded and merged without network access.

LoRA (Hu et al. 2022), its variants, and orthogonal fine-tuning (Qiu et al. 2023). Several adapters can lie on one base
model; one of them is active at a time.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import PreTrainedModel

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel  # imported where an adapter is made: one worker of a run makes them

AdapterKind = Literal["lora", "rslora", "dora", "pissa", "vera", "oft", "hra", "road"]
FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class Adapter:
    """What is put on the linear layers of a model.

    Attributes:
        kind: method of `peft`.
        rank: rank of the factors; of VeRA the shared random ones, of HRA the reflections, of OFT the block size.
        alpha: scale of LoRA; the product of the factors is multiplied by alpha / rank.
        dropout: dropout probability on the input of the factors.
    """

    kind: AdapterKind = "lora"
    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0


def config_of(name: str, **given: Any) -> PeftConfig:
    """Return a configuration of `peft`, by the name of its class."""
    import peft

    made: PeftConfig = getattr(peft, name)(**given)
    return made


def _lora(**given: Any) -> Callable[[Adapter], PeftConfig]:
    return lambda a: config_of(
        "LoraConfig", r=a.rank, lora_alpha=a.alpha, lora_dropout=a.dropout, **_EVERYWHERE, **given
    )


_EVERYWHERE: dict[str, Any] = {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}
_CONFIGS: Mapping[str, Callable[[Adapter], PeftConfig]] = {
    "lora": _lora(),
    "rslora": _lora(use_rslora=True),
    "dora": _lora(use_dora=True),
    "pissa": _lora(init_lora_weights="pissa"),
    "vera": lambda a: config_of("VeraConfig", r=a.rank, vera_dropout=a.dropout, **_EVERYWHERE),
    "oft": lambda a: config_of(
        "OFTConfig", oft_block_size=a.rank, module_dropout=a.dropout, use_cayley_neumann=False, **_EVERYWHERE
    ),
    "hra": lambda a: config_of("HRAConfig", r=a.rank, **_EVERYWHERE),
    "road": lambda _: config_of("RoadConfig", group_size=2, **_EVERYWHERE),
}


def add_adapter(model: PreTrainedModel, adapter: Adapter, seed: int) -> PeftModel:
    """Wrap a model so that only the adapter's weights are trained; it starts with the outputs of the model.

    Raises:
        ValueError: the adapter does not fit the widths of the layers, such as a block size that divides none.
    """
    return add_config(model, _CONFIGS[adapter.kind](adapter), seed)


def add_config(model: PreTrainedModel, config: PeftConfig, seed: int) -> PeftModel:
    """Wrap a model with any configuration of `peft`, its random weights drawn with the seed."""
    from peft import get_peft_model

    with torch.random.fork_rng(devices=[]), _known_warnings():
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
    path = folder / FILES[0]
    config: dict[str, Any] = json.loads(path.read_text())
    config["base_model_name_or_path"] = base
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True))


def load_adapters(model: PreTrainedModel, folders: Mapping[str, Path]) -> PeftModel:
    """Put saved adapters on their common base, by name; the first is active, `set_adapter(name)` activates another.

    Raises:
        ValueError: no adapter is given, or their kinds differ: `peft` puts adapters of one kind on a base.
        FileNotFoundError: a folder holds no adapter; without this check peft would query the model hub.
    """
    from peft import PeftModel

    if not folders:
        raise ValueError("no adapter given")
    for folder, name in ((folder, name) for folder in folders.values() for name in FILES):
        if not (Path(folder) / name).is_file():
            raise FileNotFoundError(f"{folder} is no adapter folder: it has no {name}")
    kinds = {json.loads((Path(folder) / FILES[0]).read_text())["peft_type"] for folder in folders.values()}
    if len(kinds) > 1:
        raise ValueError(f"adapters of kinds {', '.join(sorted(kinds))} cannot lie on one base; merge them instead")
    with _known_warnings():
        (first, folder), *others = folders.items()
        wrapped = PeftModel.from_pretrained(model, str(folder), adapter_name=first, local_files_only=True)
        for name, other in others:
            wrapped.load_adapter(str(other), adapter_name=name, local_files_only=True)
        wrapped.set_adapter(first)
    wrapped.train(False)
    return wrapped


def merge(model: PeftModel) -> PreTrainedModel:
    """Merge the active adapter into the weights and return the plain model."""
    merged: PreTrainedModel = model.merge_and_unload()
    merged.train(False)
    return merged


@contextmanager
def _known_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        # peft asks transformers for an attribute under its old name.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        # GPT-2 stores its matrices transposed; peft detects that and warns.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False", category=UserWarning)
        yield
