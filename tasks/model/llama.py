"""One-token steps of a Llama model with a preallocated key-value cache, without the generic model's overhead.

At a million weights a forward pass of `transformers` spends most of its time in Python. This computes the same
numbers from the same weights, whatever widths pruning has left in each block. Several texts stand in rows of one cache
and take a step together: one product for all of them instead of one for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy, linear, rms_norm, scaled_dot_product_attention, silu
from transformers import LlamaForCausalLM


@dataclass(frozen=True)
class Reading:
    """What a model says to tokens it has read.

    Attributes:
        last: logits after the last of them, (vocabulary,).
        logprobs: computes the natural log-probability of each but the first, (tokens - 1,), or of the last `scored`.
    """

    last: torch.Tensor
    logprobs: Callable[[], torch.Tensor]


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
    """The state of texts being written side by side: what the model has read of each, as keys and values.

    Rows are filled from the first on; a row that is dropped is filled by the last one.
    """

    def __init__(self, model: Any, capacity: int, rows: int = 1) -> None:
        """Make room for `rows` texts of `capacity` tokens; the weights are the model's own, not copies."""
        self._head_width = int(model.config.head_dim)
        self._epsilon = float(model.config.rms_norm_eps)
        self._embedding = model.model.embed_tokens.weight
        self._head = model.lm_head.weight
        self._norm = model.model.norm.weight
        self._blocks = [self._block(layer, rows, capacity) for layer in model.model.layers]
        self.sizes: list[int] = []
        with torch.no_grad():
            cos, sin = model.model.rotary_emb(self._embedding, torch.arange(capacity)[None])
        self._cos, self._sin = cos[0], sin[0]
        # The first half of a turned vector is minus its second half: put the sign into the sine.
        self._sin[:, : self._head_width // 2] *= -1

    def _block(self, layer: Any, rows: int, capacity: int) -> _Block:
        attention, mlp = layer.self_attn, layer.mlp
        room = (rows, attention.k_proj.weight.shape[0] // self._head_width, capacity, self._head_width)
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
            # Zeros, for what a mask hides must be a number; numpy's take no memory before they are written.
            torch.from_numpy(np.zeros(room, np.float32)),
            torch.from_numpy(np.zeros(room, np.float32)),
        )

    def add(self) -> int:
        """Open the next row, empty, and return its number."""
        self.sizes.append(0)
        return len(self.sizes) - 1

    def clear(self, row: int) -> None:
        """Forget what was read of a text."""
        self.sizes[row] = 0

    def drop(self, row: int) -> None:
        """Take a row out; the last one moves to its place."""
        last, size = len(self.sizes) - 1, self.sizes[-1]
        if row != last:
            for block in self._blocks:
                for cache in (block.keys, block.values):
                    cache[row, :, :size] = cache[last, :, :size]
        self.sizes[row] = size
        self.sizes.pop()

    def read(self, ids: Sequence[int], row: int = 0, scored: int | None = None) -> Reading:
        """Read tokens into a row; of the last `scored` of them the probability can be asked, by default of all.

        Raises:
            ValueError: there is no room for them.
        """
        start, end = self.sizes[row], self.sizes[row] + len(ids)
        self._check(end)
        mask = None if len(ids) == 1 else torch.arange(end) <= torch.arange(start, end)[:, None]
        turn = self._cos[start:end], self._sin[start:end]

        def attend(block: _Block, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            keys, values = block.keys[row : row + 1, :, :end], block.values[row : row + 1, :, :end]
            keys[:, :, start:] = self._split(key)[None].transpose(1, 2)
            values[:, :, start:] = self._split(value)[None].transpose(1, 2)
            query = self._split(query)[None].transpose(1, 2)
            grouped = query.shape[1] != keys.shape[1]
            mixed = scaled_dot_product_attention(query, keys, values, attn_mask=mask, enable_gqa=grouped)
            return mixed.transpose(1, 2).reshape(len(ids), -1)

        states = self._forward(ids, turn, attend)
        self.sizes[row] = end
        kept = len(ids) - 1 if scored is None else min(len(ids) - 1, scored)
        tokens = torch.tensor(list(ids[len(ids) - kept :]), dtype=torch.long)
        return Reading(self._logits(states[-1]), partial(self._logprobs, states[-kept - 1 : -1].clone(), tokens))

    def step(self, ids: Sequence[int]) -> torch.Tensor:
        """Read one more token in every row and return the logits after each, (rows, vocabulary).

        Raises:
            ValueError: there is no room for them.
        """
        if len(ids) == 1:
            return self.read(ids, scored=0).last[None]
        rows, end = len(ids), max(self.sizes) + 1
        self._check(end)
        at, each = torch.tensor(self.sizes), torch.arange(rows)
        mask = (torch.arange(end) <= at[:, None])[:, None, None]

        def attend(block: _Block, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            block.keys[each, :, at] = self._split(key)
            block.values[each, :, at] = self._split(value)
            keys, values = block.keys[:rows, :, :end], block.values[:rows, :, :end]
            # The queries that share a key stand where the positions of a longer text would.
            query = query.view(rows, keys.shape[1], -1, self._head_width)
            mixed = scaled_dot_product_attention(query, keys, values, attn_mask=mask)
            return mixed.reshape(rows, -1)

        states = self._forward(ids, (self._cos[at], self._sin[at]), attend)
        self.sizes = [size + 1 for size in self.sizes]
        return self._logits(states)

    def _check(self, end: int) -> None:
        if end > len(self._cos):
            raise ValueError(f"{end} tokens do not fit the cache of {len(self._cos)}")

    def _forward(
        self,
        ids: Sequence[int],
        turn: tuple[torch.Tensor, torch.Tensor],
        attend: Callable[[_Block, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """Return the normed states of tokens, (tokens, width); `attend` stores keys and values and mixes them."""
        cos, sin = turn[0][:, None], turn[1][:, None]
        with torch.inference_mode():
            x = self._embedding[torch.tensor(ids)]
            shape = (x.shape[-1],)
            for block in self._blocks:
                h = rms_norm(x, shape, block.norm, self._epsilon)
                query = self._turned(linear(h, block.query), cos, sin)
                key = self._turned(linear(h, block.key), cos, sin)
                x = x + linear(attend(block, query, key, linear(h, block.value)), block.out)
                h = rms_norm(x, shape, block.ffn_norm, self._epsilon)
                x = x + linear(silu(linear(h, block.gate)).mul_(linear(h, block.up)), block.down)
            return rms_norm(x, shape, self._norm, self._epsilon)

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(len(x), -1, self._head_width)

    def _turned(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        heads = self._split(x)
        turned: torch.Tensor = torch.addcmul(heads * cos, heads.roll(self._head_width // 2, -1), sin).view(len(x), -1)
        return turned

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            logits: torch.Tensor = linear(states, self._head)
            return logits

    def _logprobs(self, states: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return -cross_entropy(self._logits(states), ids, reduction="none")
