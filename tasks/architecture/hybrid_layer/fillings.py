"""Layers between the two linear maps that replace a layer, all of the same width.

The place (the feed-forward part or the output projection of the attention of the last block, as in HyQuT, arXiv
2511.10653) is filled by `up(f(down(x)))`: a linear map to n numbers, a function f of them, a linear map back. Only f
differs between the arms. With L input blocks a circuit has (3 L + 1) n parameters; `LowRank` has as many.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from tasks.quantum.layer import CircuitLayer

if TYPE_CHECKING:
    from qiskit.primitives import BaseSamplerV2

Place = str  # `feed-forward` or `attention`
PLACES: tuple[Place, ...] = ("feed-forward", "attention")


class Bottleneck(torch.nn.Module):
    """`up(f(down(x)))` with a function of `width` numbers."""

    def __init__(self, hidden: int, width: int, function: torch.nn.Module) -> None:
        super().__init__()
        self.down = torch.nn.Linear(hidden, width, bias=False)
        self.function = function
        self.up = torch.nn.Linear(width, hidden, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the layer's output of the same shape."""
        out: torch.Tensor = self.up(self.function(self.down(hidden)))
        return out


class Nothing(torch.nn.Module):
    """The layer left out: adds nothing to the residual stream."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return zeros."""
        return torch.zeros_like(hidden)


class LowRank(torch.nn.Module):
    """`B tanh(A x) + c`: 2 n r + n parameters; with r = 3 L / 2 as many as a circuit of L input blocks."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(width, rank, bias=False)
        self.outer = torch.nn.Linear(rank, width)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return n numbers."""
        out: torch.Tensor = self.outer(torch.tanh(self.inner(inputs)))
        return out


class RandomCosines(torch.nn.Module):
    """`cos(W x + b)` with fixed random W and b: random Fourier features (Rahimi, Recht, NIPS 2007)."""

    frequencies: torch.Tensor
    shifts: torch.Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(width, width))
        self.register_buffer("shifts", 2 * torch.pi * torch.rand(width))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return n numbers between -1 and 1."""
        return torch.cos(inputs @ self.frequencies + self.shifts)


class Sampled(torch.nn.Module):
    """A trained circuit whose expectations are estimated from shots by a sampler; for inference."""

    def __init__(self, layer: CircuitLayer, sampler: BaseSamplerV2, shots: int) -> None:
        super().__init__()
        self.layer, self._sampler, self._shots = layer, sampler, shots

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return estimates of the expectations; one job for all inputs."""
        return self.layer.estimate(inputs, self._sampler, self._shots)


def fixed(function: torch.nn.Module) -> torch.nn.Module:
    """Return the function with parameters that are not trained: a reservoir."""
    return function.requires_grad_(requires_grad=False)


Filling = Callable[[int, int], torch.nn.Module]  # of width and input blocks

FILLINGS: dict[str, Filling] = {
    "circuit": lambda width, layers: CircuitLayer(width, layers),
    "reservoir": lambda width, layers: fixed(CircuitLayer(width, layers)),
    "same-width": lambda width, layers: torch.nn.GELU(),  # noqa: ARG005  (one signature)
    "same-parameters": lambda width, layers: LowRank(width, 3 * layers // 2),
    "random-features": lambda width, layers: RandomCosines(width),  # noqa: ARG005
}


def fill(model: torch.nn.Module, place: Place, module: torch.nn.Module) -> None:
    """Put a module into the place of the last block of a Llama.

    Raises:
        ValueError: there is no such place.
    """
    block = model.get_submodule("model.layers")[-1]  # type: ignore[index]
    if place == "feed-forward":
        block.mlp = module
    elif place == "attention":
        block.self_attn.o_proj = module
    else:
        raise ValueError(f"the places are {' and '.join(PLACES)}, not {place!r}")


def of_place(model: torch.nn.Module, place: Place) -> torch.nn.Module:
    """Return the module in the place."""
    name = {"feed-forward": "mlp", "attention": "self_attn.o_proj"}[place]
    return model.get_submodule(f"model.layers.{len(model.get_submodule('model.layers')) - 1}.{name}")  # type: ignore[arg-type]
