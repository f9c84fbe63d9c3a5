"""The processor that a training runs on: CPU, or a CUDA card where torch finds one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tasks.model.recipe import DeviceName


def find_device(name: DeviceName) -> torch.device:
    """Return a device; `auto` is the card if there is one.

    Raises:
        ValueError: a card is asked for and torch finds none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device cuda: torch finds no CUDA card; set the device to auto or cpu, or install torch with CUDA"
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def describe(device: torch.device) -> str:
    """Return the name of a device: that of the card, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


@contextmanager
def placed(model: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Move a model to a device inside the block and back to where it was after it."""
    before = next(model.parameters()).device
    model.to(device)
    try:
        yield
    finally:
        model.to(before)
