"""Checkpoints of a training run, in the lake so that another machine can continue it.

Tensors are stored as safetensors, the rest as JSON; no pickle.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tasks.contract import content_key

if TYPE_CHECKING:
    from infra.lake import Lake, Ref
    from tasks.stage import Context

log = logging.getLogger("ketcycle.model")


@dataclass
class Progress:
    """Progress of a training run; the step is the position in the data.

    Attributes:
        step: steps done.
        steps: steps of the whole run, 0 = not known yet.
        history: rows of the training curve.
        samples: text at each evaluation, by step.
    """

    step: int = 0
    steps: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    samples: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where the checkpoints of a training are kept: below a name of a lake."""

    lake: Lake
    name: str

    @classmethod
    def of(cls, context: Context, training: str = "") -> Place:
        """Return the place of a training of a stage of a run; other runs do not continue its checkpoints."""
        parts = [context.stage, "checkpoints", content_key(context.run_id), *([training] if training else [])]
        return cls(context.lake, "/".join(parts))

    def clear(self) -> None:
        """Delete all checkpoints of this place."""
        for name in self.lake.names(self.name):
            for ref in self.lake.versions(name):
                self.lake.remove(ref)


class Checkpoints:
    """The checkpoints of one training run, the last `keep` of them."""

    def __init__(self, place: Place, fingerprint: str, keep: int) -> None:
        self._lake, self._name, self._keep = place.lake, f"{place.name}/{fingerprint}", max(1, keep)

    def save(self, model: torch.nn.Module, optimizers: dict[str, torch.optim.Optimizer], progress: Progress) -> Ref:
        """Write a checkpoint, then drop the oldest; a reader finds whole checkpoints only."""
        with TemporaryDirectory() as name:
            folder = Path(name)
            save_file(_trained(model), folder / "model.safetensors")
            save_file(
                {
                    f"{name}/{index}/{key}": value.contiguous()
                    for name, optimizer in optimizers.items()
                    for index, state in optimizer.state_dict()["state"].items()
                    for key, value in state.items()
                }
                | {"rng": torch.get_rng_state()},
                folder / "optimizer.safetensors",
            )
            (folder / "progress.json").write_text(json.dumps(asdict(progress)))
            saved = self._lake.put_folder(self._name, folder, {"step": progress.step})
        for old in self.list()[: -self._keep]:
            self._lake.remove(old)
        return saved

    def list(self) -> list[Ref]:
        """Return the checkpoints of this run, the oldest first."""
        return sorted(self._lake.versions(self._name), key=lambda ref: int(self._lake.meta(ref)["step"]))

    def restore(self, model: torch.nn.Module, optimizers: dict[str, torch.optim.Optimizer]) -> Progress | None:
        """Load the last readable checkpoint into model, optimisers and torch's generator; None if there is none."""
        from infra.errors import LakeError  # arms train without a lake and import nothing of it

        for ref in reversed(self.list()):
            try:
                folder = self._lake.folder(ref)
                weights = load_file(folder / "model.safetensors")
                tensors = load_file(folder / "optimizer.safetensors")
                rest = json.loads((folder / "progress.json").read_text())
            except (OSError, ValueError, SafetensorError, LakeError) as error:
                log.warning("checkpoint %s is damaged (%s); trying the one before", ref, error)
                continue
            with torch.no_grad():
                for name, parameter in _trained(model).items():
                    parameter.copy_(weights[name])
            torch.set_rng_state(tensors.pop("rng"))
            for name, optimizer in optimizers.items():
                optimizer.load_state_dict({**optimizer.state_dict(), "state": _state_of(name, tensors)})
            samples = {int(step): text for step, text in rest.pop("samples").items()}
            return Progress(**rest, samples=samples)
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
