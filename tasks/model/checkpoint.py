"""Checkpoints of a training run: safetensors for tensors, JSON for the rest, no pickle; a rename makes one visible."""

from __future__ import annotations

import json
import logging
import os
import shutil
import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

log = logging.getLogger("ketcycle.model")


@dataclass
class Progress:
    """Progress of a training run; the step is the position in the data."""

    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    samples: dict[int, str] = field(default_factory=dict)


class Checkpoints:
    """The checkpoints of one training run below one folder, the last `keep` of them."""

    def __init__(self, folder: Path, fingerprint: str, keep: int) -> None:
        self.folder = Path(folder)
        self.fingerprint = fingerprint
        self.keep = max(1, keep)

    def save(self, model: torch.nn.Module, optimizers: dict[str, torch.optim.Optimizer], progress: Progress) -> Path:
        """Write a checkpoint beside the others, then drop the oldest."""
        target = self.folder / f"{self.fingerprint}-{progress.step:08d}"
        partial = self.folder / f".partial-{uuid.uuid4().hex}"
        partial.mkdir(parents=True)
        save_file(_trained(model), partial / "model.safetensors")
        save_file(
            {
                f"{name}/{index}/{key}": value.contiguous()
                for name, optimizer in optimizers.items()
                for index, state in optimizer.state_dict()["state"].items()
                for key, value in state.items()
            }
            | {"rng": torch.get_rng_state()},
            partial / "optimizer.safetensors",
        )
        rest = {"step": progress.step, "history": progress.history, "samples": progress.samples}
        (partial / "progress.json").write_text(json.dumps(rest))
        for path in partial.iterdir():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        for old in self.list()[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)
        return target

    def list(self) -> list[Path]:
        """Return the complete checkpoints of this run, the oldest first."""
        return sorted(self.folder.glob(f"{self.fingerprint}-*"))

    def restore(self, model: torch.nn.Module, optimizers: dict[str, torch.optim.Optimizer]) -> Progress | None:
        """Load the last readable checkpoint into model, optimisers and torch's generator; None if there is none."""
        for partial in self.folder.glob(".partial-*"):
            shutil.rmtree(partial, ignore_errors=True)
        for folder in reversed(self.list()):
            try:
                weights = load_file(folder / "model.safetensors")
                tensors = load_file(folder / "optimizer.safetensors")
                rest = json.loads((folder / "progress.json").read_text())
            except (OSError, ValueError, SafetensorError) as error:
                log.warning("checkpoint %s is damaged (%s); trying the one before", folder, error)
                continue
            with torch.no_grad():
                for name, parameter in _trained(model).items():
                    parameter.copy_(weights[name])
            torch.set_rng_state(tensors.pop("rng"))
            for name, optimizer in optimizers.items():
                optimizer.load_state_dict({**optimizer.state_dict(), "state": _state_of(name, tensors)})
            samples = {int(step): text for step, text in rest["samples"].items()}
            return Progress(step=rest["step"], history=rest["history"], samples=samples)
        return None


def _state_of(optimizer: str, tensors: dict[str, torch.Tensor]) -> dict[int, dict[str, torch.Tensor]]:
    state: dict[int, dict[str, torch.Tensor]] = defaultdict(dict)
    for path, value in tensors.items():
        owner, index, key = path.split("/")
        if owner == optimizer:
            state[int(index)][key] = value
    return dict(state)


def _trained(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
