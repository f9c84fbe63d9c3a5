"""One-token steps of a Llama model with a preallocated key-value cache, without the generic model's overhead.

At a million weights a forward pass of `transformers` spends most of its time in Python. This computes the same
numbers from the same weights, whatever widths pruning has left in each block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu
from transformers import LlamaForCausalLM


def supports(model: Any) -> bool:
    """Return whether the model is a plain Llama with fixed rotary frequencies and bare linear layers."""
    if type(model) is not LlamaForCausalLM:
        return False
    rope = model.config.rope_parameters or {}
    if rope.get("rope_type", "default") != "default" or model.config.attention_bias or model.config.mlp_bias:
        return False
    return all(
        type(layer) is torch.nn.Linear for name, layer in model.named_modules() if name.endswith(("_proj", "lm_head"))
    )


@dataclass(frozen=True)
class _Block:
    """The weights of one block, looked up once."""

    norm: torch.Tensor
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    out: torch.Tensor
    ffn_norm: torch.Tensor
    gate: torch.Tensor
    up: torch.Tensor
    down: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor


class LlamaSteps:
    """The state of one text being written: what the model has read, as keys and values."""

    def __init__(self, model: Any, capacity: int) -> None:
        """Make room for `capacity` tokens; the weights are the model's own, not copies."""
        self._head_width = int(model.config.head_dim)
        self._epsilon = float(model.config.rms_norm_eps)
        self._embedding = model.model.embed_tokens.weight
        self._head = model.lm_head.weight
        self._norm = model.model.norm.weight
        self._size = 0
        self._blocks = [self._block(layer, capacity) for layer in model.model.layers]
        with torch.no_grad():
            cos, sin = model.model.rotary_emb(self._embedding, torch.arange(capacity)[None])
        self._cos, self._sin = cos[0], sin[0]
        # The first half of a turned vector is minus its second half: put the sign into the sine.
        self._sin[:, : self._head_width // 2] *= -1

    def _block(self, layer: Any, capacity: int) -> _Block:
        attention, mlp = layer.self_attn, layer.mlp
        room = (1, attention.k_proj.weight.shape[0] // self._head_width, capacity, self._head_width)
        return _Block(
            layer.input_layernorm.weight,
            attention.q_proj.weight,
            attention.k_proj.weight,
            attention.v_proj.weight,
            attention.o_proj.weight,
            layer.post_attention_layernorm.weight,
            mlp.gate_proj.weight,
            mlp.up_proj.weight,
            mlp.down_proj.weight,
            torch.empty(room),
            torch.empty(room),
        )

    def read(self, ids: Sequence[int]) -> torch.Tensor:
        """Read tokens and return the logits after the last, (vocabulary,).

        Raises:
            ValueError: there is no room for them.
        """
        end = self._size + len(ids)
        if end > len(self._cos):
            raise ValueError(f"{end} tokens do not fit the cache of {len(self._cos)}")
        mask = None if len(ids) == 1 else torch.arange(end) <= torch.arange(self._size, end)[:, None]
        with torch.inference_mode():
            x = self._embedding[torch.tensor(ids)]
            shape = (x.shape[-1],)
            for block in self._blocks:
                x = x + self._attend(block, rms_norm(x, shape, block.norm, self._epsilon), end, mask)
                h = rms_norm(x, shape, block.ffn_norm, self._epsilon)
                x = x + linear(silu(linear(h, block.gate)).mul_(linear(h, block.up)), block.down)
            self._size = end
            logits: torch.Tensor = linear(rms_norm(x[-1], shape, self._norm, self._epsilon), self._head)
            return logits

    def _attend(self, block: _Block, x: torch.Tensor, end: int, mask: torch.Tensor | None) -> torch.Tensor:
        rows, width, start = len(x), self._head_width, self._size
        cos, sin = self._cos[start:end], self._sin[start:end]
        query = linear(x, block.query).view(1, rows, -1, width).transpose(1, 2)
        key = linear(x, block.key).view(1, rows, -1, width).transpose(1, 2)
        keys, values = block.keys[:, :, :end], block.values[:, :, :end]
        torch.addcmul(key * cos, key.roll(width // 2, -1), sin, out=keys[:, :, start:])
        values[:, :, start:] = linear(x, block.value).view(1, rows, -1, width).transpose(1, 2)
        query = torch.addcmul(query * cos, query.roll(width // 2, -1), sin)
        grouped = query.shape[1] != keys.shape[1]
        mixed = scaled_dot_product_attention(query, keys, values, attn_mask=mask, enable_gqa=grouped)
        return linear(mixed.transpose(1, 2).reshape(rows, -1), block.out)
