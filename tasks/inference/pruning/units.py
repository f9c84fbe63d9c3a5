"""Removable parts of a decoder.

A unit is a run of key-value heads (with their query heads) or of feed-forward channels of one block of a Llama-style
decoder, or a whole block of any decoder. The units of one problem are either all parts of blocks or all whole blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import torch

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

ATTENTION, FFN, BLOCK = "attention", "ffn", "block"


@dataclass(frozen=True, order=True)
class Unit:
    """A removable part: key-value heads or feed-forward channels `start..stop-1` of one block, or all of it."""

    layer: int
    part: str
    start: int
    stop: int

    @property
    def sublayer(self) -> int:
        """Position in the residual stream: attention and feed-forward of each block in turn."""
        return 2 * self.layer + (self.part == FFN)

    def __str__(self) -> str:
        if self.part == BLOCK:
            return f"block {self.layer}"
        kind = "heads" if self.part == ATTENTION else "channels"
        return f"block {self.layer} {kind} {self.start}-{self.stop - 1}"


@dataclass(frozen=True)
class Layout:
    """Sizes of a decoder from which its units follow."""

    layers: int
    hidden: int
    kv_heads: int
    queries_per_kv: int
    head_width: int
    channels: int

    @classmethod
    def of(cls, config: PretrainedConfig) -> Layout:
        """Return the sizes given by a model's configuration.

        Raises:
            ValueError: the configuration is not that of a Llama-style decoder.
        """
        c: Any = config
        names = ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size")
        missing = [name for name in names if not hasattr(c, name)]
        if missing:
            raise ValueError(
                f"a {c.model_type} model does not have the block structure of Llama (no {missing[0]} in its "
                "configuration); it cannot be pruned here"
            )
        heads, kv_heads = int(c.num_attention_heads), int(c.num_key_value_heads or c.num_attention_heads)
        width = int(getattr(c, "head_dim", None) or c.hidden_size // heads)
        return cls(c.num_hidden_layers, c.hidden_size, kv_heads, heads // kv_heads, width, int(c.intermediate_size))

    def parameters(self, unit: Unit) -> int:
        """Return the weights that belong to a unit."""
        size = unit.stop - unit.start
        if unit.part == FFN:
            return 3 * self.hidden * size
        return 2 * self.hidden * self.head_width * size * (1 + self.queries_per_kv)

    def columns(self, unit: Unit) -> slice:
        """Return the input columns of the output projection that belong to a unit."""
        width = 1 if unit.part == FFN else self.queries_per_kv * self.head_width
        return slice(unit.start * width, unit.stop * width)

    def shared_rows(self, unit: Unit) -> slice:
        """Return the rows of the key and value projections that belong to a unit of heads."""
        return slice(unit.start * self.head_width, unit.stop * self.head_width)


def make_units(layout: Layout, layers: Sequence[int], head_units: int, channel_units: int) -> tuple[Unit, ...]:
    """Divide the attention and the feed-forward part of some blocks into units of nearly equal size.

    Raises:
        ValueError: a block does not exist, or has fewer heads or channels than the requested units.
    """
    if not set(layers) <= set(range(layout.layers)):
        raise ValueError(f"blocks {sorted(layers)} should lie between 0 and {layout.layers - 1}")
    if head_units > layout.kv_heads or channel_units > layout.channels:
        raise ValueError(
            f"a block has {layout.kv_heads} key-value heads and {layout.channels} channels, too few for "
            f"{head_units} and {channel_units} units"
        )
    units = []
    for layer in sorted(layers):
        for part, size, count in ((ATTENTION, layout.kv_heads, head_units), (FFN, layout.channels, channel_units)):
            cuts = [round(size * i / count) for i in range(count + 1)] if count else []
            units += [Unit(layer, part, a, b) for a, b in pairwise(cuts)]
    return tuple(sorted(units, key=lambda u: (u.sublayer, u.start)))


def whole_blocks(layers: Sequence[int]) -> tuple[Unit, ...]:
    """Return blocks as units."""
    return tuple(Unit(layer, BLOCK, 0, 1) for layer in sorted(layers))


def choose_units(layout: Layout, limit: int) -> tuple[Unit, ...]:
    """Divide all blocks, or only the middle ones if all are too many, into at most `limit` units of about equal size.

    All numbers of units for attention and feed-forward part are tried. Even sizes have priority (the largest unit has
    at most 1.35 times the weights of the smallest), then the number of blocks covered, then the number of units. The
    first and the last blocks are left out first, as in LLM-Pruner (Ma et al. 2023, arXiv 2305.11627).

    Raises:
        ValueError: the limit is too small for the units of one block.
    """
    best: tuple[tuple[float, ...], tuple[Unit, ...]] | None = None
    for blocks in range(layout.layers, 0, -1):
        first = (layout.layers - blocks + 1) // 2
        for heads in range(1, min(layout.kv_heads, limit) + 1):
            for channels in range(1, min(layout.channels, limit) + 1):
                if blocks * (heads + channels) > limit:
                    break
                units = make_units(layout, range(first, first + blocks), heads, channels)
                sizes = [layout.parameters(unit) for unit in units]
                spread = max(sizes) / min(sizes)
                rank = (float(spread <= 1.35), float(blocks), float(len(units)), -spread)
                if best is None or rank > best[0]:
                    best = rank, units
    if best is None:
        raise ValueError(f"a limit of {limit} units is too small for one block; give at least 2")
    return best[1]


def weights_of(layer: Any, layout: Layout, unit: Unit) -> list[torch.Tensor]:
    """Return views of all weights of a unit in its block."""
    columns = layout.columns(unit)
    if unit.part == FFN:
        mlp = layer.mlp
        return [mlp.gate_proj.weight[columns], mlp.up_proj.weight[columns], mlp.down_proj.weight[:, columns]]
    attention, shared = layer.self_attn, layout.shared_rows(unit)
    return [
        attention.q_proj.weight[columns],
        attention.k_proj.weight[shared],
        attention.v_proj.weight[shared],
        attention.o_proj.weight[:, columns],
    ]


def zero_units(model: PreTrainedModel, units: Sequence[Unit]) -> None:
    """Set all weights of some units to zero, in place."""
    layout, decoder = Layout.of(model.config), cast("Any", model).model
    with torch.no_grad():
        for unit in units:
            layer, columns = decoder.layers[unit.layer], layout.columns(unit)
            for weight in weights_of(layer, layout, unit):
                weight.zero_()
            shared, attention, mlp = layout.shared_rows(unit), layer.self_attn, layer.mlp
            biased = [(mlp.gate_proj, columns), (mlp.up_proj, columns)]
            if unit.part == ATTENTION:
                biased = [(attention.q_proj, columns), (attention.k_proj, shared), (attention.v_proj, shared)]
            for linear, rows in biased:
                if linear.bias is not None:
                    linear.bias[rows] = 0
