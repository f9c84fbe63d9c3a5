"""Adapters of one frozen projection as torch modules: each wraps the projection and starts as it.

A Cayley unitary adapter (Aizpurua et al. 2026, arXiv 2605.05914) rotates the input in blocks, `Q = (I - A)(I + A)^-1`
with A skew. That is orthogonal fine-tuning (Qiu et al. 2023, arXiv 2306.07280) with blocks of that size; `peft` has it
as `OFTConfig`, the sign of A reversed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tasks.finetuning.adapter.problem import parts
from tasks.model.adapters import add_config, config_of

# Changes a model in place and returns what is trained; gets the model, the site in it and a seed.
Attach = Callable[[Any, str, int], list[nn.Parameter]]


class Rotation(nn.Module):
    """Cayley rotation of the input in blocks, in front of a projection.

    Args:
        inner: the projection.
        block: size of a block; divides the input width.
        magnitudes: whether the outcome has the signs of the input, `sign(x) |Q x|`, as measured frequencies have that
            get their signs from the stored input.
    """

    def __init__(self, inner: nn.Linear, block: int, *, magnitudes: bool = False) -> None:
        super().__init__()
        if inner.in_features % block:
            raise ValueError(f"blocks of {block} do not divide the input width {inner.in_features}")
        self.inner, self.block, self.magnitudes = inner, block, magnitudes
        self.angles = nn.Parameter(torch.zeros(inner.in_features // block, block * (block - 1) // 2))

    def matrices(self) -> torch.Tensor:
        """Return the blocks of Q, (blocks, b, b)."""
        return cayley(self.angles, self.block)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the projection of the rotated input."""
        rotated = in_blocks(self.matrices(), x)
        return torch.as_tensor(self.inner(x.sign() * rotated.abs() if self.magnitudes else rotated))


def cayley(angles: torch.Tensor, block: int) -> torch.Tensor:
    """Return the orthogonal matrices (n, b, b) of the upper triangles (n, b (b - 1) / 2) of skew matrices."""
    rows, columns = torch.triu_indices(block, block, 1)
    upper = torch.zeros(len(angles), block, block, dtype=angles.dtype)
    upper[:, rows, columns] = angles
    skew = upper - upper.transpose(1, 2)
    one = torch.eye(block, dtype=angles.dtype)
    return torch.as_tensor(torch.linalg.solve(one + skew, one - skew))


def in_blocks(matrices: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Apply block-diagonal matrices (n, b, b) to the last axis of x."""
    blocks = x.unflatten(-1, (len(matrices), -1))
    return torch.einsum("nij,...nj->...ni", matrices, blocks).flatten(-2)


class Butterfly(nn.Module):
    """Two block rotations in front of a projection, the second across the blocks of the first (BOFT, Liu et al. 2024).

    `peft`'s own BOFT compiles a CUDA extension and without one falls back to a single factor, which is OFT.
    """

    def __init__(self, inner: nn.Linear, block: int) -> None:
        super().__init__()
        self.inner, self.block = inner, block
        self.angles = nn.Parameter(torch.zeros(2, inner.in_features // block, block * (block - 1) // 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the projection of the twice rotated input."""
        first = in_blocks(cayley(self.angles[0], self.block), x)
        across = first.unflatten(-1, (self.block, -1)).transpose(-1, -2).flatten(-2)
        second = in_blocks(cayley(self.angles[1], self.block), across)
        return torch.as_tensor(self.inner(second.unflatten(-1, (-1, self.block)).transpose(-1, -2).flatten(-2)))


class Blocks(nn.Module):
    """Unconstrained blocks in front of a projection."""

    def __init__(self, inner: nn.Linear, block: int) -> None:
        super().__init__()
        self.inner = inner
        self.matrices = nn.Parameter(torch.eye(block).repeat(inner.in_features // block, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the projection of the input changed in blocks."""
        return torch.as_tensor(self.inner(in_blocks(self.matrices, x)))


class Scale(nn.Module):
    """A factor for each input in front of a projection, as (IA)^3 (Liu et al. 2022) has for each output."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner, self.factors = inner, nn.Parameter(torch.ones(inner.in_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the projection of the scaled input."""
        return torch.as_tensor(self.inner(x * self.factors))


class Bias(nn.Module):
    """An offset behind a projection."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner, self.offset = inner, nn.Parameter(torch.zeros(inner.out_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the projection plus the offset."""
        return torch.as_tensor(self.inner(x) + self.offset)


class RandomRotation(nn.Module):
    """A random Cayley rotation of which one factor on the skew matrices is trained."""

    def __init__(self, inner: nn.Linear, block: int, seed: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        shape = (inner.in_features // block, block * (block - 1) // 2)
        self.inner, self.block = inner, block
        self.directions = nn.Parameter(torch.randn(shape, generator=draw), requires_grad=False)
        self.factor = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the projection of the rotated input."""
        return torch.as_tensor(self.inner(in_blocks(cayley(self.factor * self.directions, self.block), x)))


def wrapped(make: Callable[[nn.Linear, int], nn.Module]) -> Attach:
    """Return the attachment that puts a module made of projection and seed in the place of the projection."""

    def attach(model: Any, site: str, seed: int) -> list[nn.Parameter]:
        holder, name = parts(model, site)
        module = make(getattr(holder, name), seed)
        setattr(holder, name, module)
        return [p for p in module.parameters() if p.requires_grad]

    return attach


def by_peft(config: str, **given: Any) -> Attach:
    """Return the attachment of an adapter of `peft`, by the name of its configuration, to the site alone."""

    def attach(model: Any, site: str, seed: int) -> list[nn.Parameter]:
        add_config(
            model, config_of(config, target_modules=rf"model\.{site}", **given), seed
        )  # changes the model in place
        return [p for p in model.parameters() if p.requires_grad]

    return attach


def attach_dense(model: Any, site: str, _: int) -> list[nn.Parameter]:
    """Train the projection itself."""
    holder, name = parts(model, site)
    weight: nn.Parameter = getattr(holder, name).weight
    weight.requires_grad_()
    return [weight]


def attach_norms(model: Any, _site: str, _seed: int) -> list[nn.Parameter]:
    """Train the norms from the site's block on; the projection stays as it is."""
    inside = (norm for layer in model.model.layers for norm in (layer.input_layernorm, layer.post_attention_layernorm))
    weights: list[nn.Parameter] = [norm.weight for norm in (*inside, model.model.norm)]
    for weight in weights:
        weight.requires_grad_()
    return weights


def rotation(block: int, *, magnitudes: bool = False) -> Attach:
    """Return the attachment of a Cayley rotation in blocks of a power of two, smaller where the width needs it."""

    def make(inner: nn.Linear, _: int) -> nn.Module:
        divisor = inner.in_features & -inner.in_features  # the largest power of two in the width
        return Rotation(inner, min(block, divisor), magnitudes=magnitudes)

    return wrapped(make)


def lora(rank: int) -> Attach:
    """Return the attachment of LoRA."""
    return by_peft("LoraConfig", r=rank, lora_alpha=2 * rank)


def vera(rank: int) -> Attach:
    """Return the attachment of VeRA (Kopiczko et al. 2024)."""
    return by_peft("VeraConfig", r=rank)


def fourier(coefficients: int) -> Attach:
    """Return the attachment of FourierFT (Gao et al. 2024)."""
    return by_peft("FourierFTConfig", n_frequency=coefficients, scaling=150.0, init_weights=True)


def householder(reflections: int) -> Attach:
    """Return the attachment of Householder reflections (HRA, Yuan et al. 2024; the family of HOFT)."""
    return by_peft("HRAConfig", r=reflections)


def oft(block: int) -> Attach:
    """Return the attachment of orthogonal fine-tuning as `peft` has it, by the exact Cayley transform."""
    return by_peft("OFTConfig", r=0, oft_block_size=block, use_cayley_neumann=False)
