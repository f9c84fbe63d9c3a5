"""Removed heads and channels cost nothing where the model is served.

The `transformers` format has one number of heads and one of channels for all blocks, so a model pruned block by block
is stored with zeros in their place: any program loads it and gets the same text. Here the zeros are taken out of a
loaded model: rows and columns whose product is zero for every input, so the logits are the same up to the order of
summation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Kept:
    """What is left of one block: indices of its key-value heads and of its feed-forward channels."""

    heads: tuple[int, ...]
    channels: tuple[int, ...]


def compact(model: PreTrainedModel) -> tuple[Kept, ...]:
    """Take heads and channels out of a Llama-style model that feed only zeros into its output projections, in place.

    One head and one channel stay in each block, for the cache and the kernels need a shape. Models of another build
    are left alone.

    Returns:
        what is left, by block; empty for a model that was left alone.
    """
    blocks = _blocks(model)
    found = tuple(_surviving(block, _head_width(model)) for block in blocks)
    with torch.no_grad():
        for block, kept in zip(blocks, found, strict=True):
            _cut(block, kept, _head_width(model))
    return found


def expand(model: PreTrainedModel, kept: tuple[Kept, ...], full: PreTrainedModel) -> None:
    """Write the weights of a compacted model into one of the full shape, zeros elsewhere, in place.

    Raises:
        ValueError: the two models are not of the same build.
    """
    wide, narrow = _blocks(full), _blocks(model)
    if len(wide) != len(kept) or len(narrow) != len(kept):
        raise ValueError(f"{len(narrow)} and {len(wide)} blocks should both be the {len(kept)} that were compacted")
    inside = {id(p) for block in wide for linear in _linears(block).values() for p in linear.parameters()}
    names = [name for name, p in full.named_parameters() if id(p) not in inside]
    source = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in full.named_parameters():
            if name in names:
                parameter.copy_(source[name])
        for block, small, left in zip(wide, narrow, kept, strict=True):
            indices = _indices(left, _head_width(full), _queries_per_kv(block))
            for name, linear in _linears(block).items():
                rows, columns = indices[name]
                _paste(linear, _linears(small)[name], rows, columns)


def active_parameters(model: PreTrainedModel) -> int:
    """Return the weights of a compacted model, shared ones counted once."""
    return sum(p.numel() for p in model.parameters())


def _blocks(model: PreTrainedModel) -> list[Any]:
    decoder = getattr(model, "model", None)
    blocks = list(getattr(decoder, "layers", []))
    return (
        blocks
        if all(hasattr(b, "self_attn") and hasattr(b.self_attn, "o_proj") and _has_ffn(b) for b in blocks)
        else []
    )


def _has_ffn(block: Any) -> bool:
    return all(hasattr(getattr(block, "mlp", None), name) for name in ("gate_proj", "up_proj", "down_proj"))


def _head_width(model: PreTrainedModel) -> int:
    config: Any = model.config
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _queries_per_kv(block: Any) -> int:
    return int(block.self_attn.num_key_value_groups)


def _surviving(block: Any, width: int) -> Kept:
    outputs = block.self_attn.o_proj.weight
    used = outputs.ne(0).any(dim=0).view(-1, _queries_per_kv(block) * width).any(dim=1)
    channels = block.mlp.down_proj.weight.ne(0).any(dim=0)
    return Kept(_true(used), _true(channels))


def _true(mask: torch.Tensor) -> tuple[int, ...]:
    return tuple(int(i) for i in mask.nonzero()[:, 0]) or (0,)


def _linears(block: Any) -> dict[str, torch.nn.Linear]:
    attention, mlp = block.self_attn, block.mlp
    return {
        "q": attention.q_proj,
        "k": attention.k_proj,
        "v": attention.v_proj,
        "o": attention.o_proj,
        "gate": mlp.gate_proj,
        "up": mlp.up_proj,
        "down": mlp.down_proj,
    }


def _indices(kept: Kept, width: int, queries: int) -> dict[str, tuple[torch.Tensor | None, torch.Tensor | None]]:
    """Return rows and columns of each projection that stay; None = all."""
    shared = torch.tensor([h * width + i for h in kept.heads for i in range(width)])
    asking = torch.tensor([h * queries * width + i for h in kept.heads for i in range(queries * width)])
    channels = torch.tensor(kept.channels)
    return {
        "q": (asking, None),
        "k": (shared, None),
        "v": (shared, None),
        "o": (None, asking),
        "gate": (channels, None),
        "up": (channels, None),
        "down": (None, channels),
    }


def _cut(block: Any, kept: Kept, width: int) -> None:
    indices = _indices(kept, width, _queries_per_kv(block))
    for name, linear in _linears(block).items():
        rows, columns = indices[name]
        weight = linear.weight.detach()
        if rows is not None:
            weight = weight[rows]
            if linear.bias is not None:
                linear.bias = torch.nn.Parameter(linear.bias.detach()[rows].clone())
        if columns is not None:
            weight = weight[:, columns]
        linear.weight = torch.nn.Parameter(weight.clone().contiguous())
        linear.out_features, linear.in_features = linear.weight.shape


def _paste(
    wide: torch.nn.Linear, narrow: torch.nn.Linear, rows: torch.Tensor | None, columns: torch.Tensor | None
) -> None:
    wide.weight.zero_()
    rows = torch.arange(wide.out_features) if rows is None else rows
    columns = torch.arange(wide.in_features) if columns is None else columns
    wide.weight[rows[:, None], columns[None, :]] = narrow.weight
    if wide.bias is not None:
        wide.bias.zero_()
        wide.bias[rows] = narrow.bias
