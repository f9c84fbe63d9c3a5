"""One-token steps of a Llama model with a key-value cache that grows, without the generic model's overhead.

At a million weights a forward pass of `transformers` spends most of its time in Python. This computes the same
numbers from the same weights, whatever widths pruning has left in each block: projections with the same input are one
product, and several texts are rows of one cache and are advanced together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu

FIRST_ROOM = 128  # tokens of each text that a new cache has room for
AT_ONCE = 256  # tokens whose probabilities over the whole vocabulary are in memory together


@dataclass(frozen=True)
class Scored:
    """Natural log-probabilities of tokens, each given all before it.

    Attributes:
        logprobs: log-probabilities of the tokens themselves, (tokens,).
        top_ids: the most probable tokens at each position, (tokens, top).
        top_logprobs: log-probabilities of the most probable tokens, (tokens, top).
    """

    logprobs: torch.Tensor
    top_ids: torch.Tensor
    top_logprobs: torch.Tensor


@dataclass(frozen=True)
class Reading:
    """Logits and log-probabilities of tokens that a model has read.

    Attributes:
        last: logits after the last token, (vocabulary,).
        scores: function that returns the log-probability of each token but the first, or of the last `scored` tokens,
            with the requested number of most probable tokens.
    """

    last: torch.Tensor
    scores: Callable[[int], Scored]


def score(logits: Callable[[torch.Tensor], torch.Tensor], states: torch.Tensor, ids: torch.Tensor, top: int) -> Scored:
    """Return the log-probabilities of tokens from the states before them, (tokens, width)."""
    found: list[tuple[torch.Tensor, ...]] = [(torch.zeros(0), torch.zeros(0, top).long(), torch.zeros(0, top))]
    with torch.inference_mode():
        for part, wanted in zip(states.split(AT_ONCE), ids.split(AT_ONCE), strict=True):
            said = torch.log_softmax(logits(part), -1)
            best = said.topk(min(top, said.shape[-1]))
            found.append((said.gather(1, wanted[:, None])[:, 0], best.indices, best.values))
    return Scored(*(torch.cat(column) for column in zip(*found[len(found) > 1 :], strict=True)))


def supports(model: Any) -> bool:
    """Return whether the model is a plain Llama with fixed rotary frequencies and bare linear layers."""
    from transformers import LlamaForCausalLM

    if type(model) is not LlamaForCausalLM:
        return False
    rope = model.config.rope_parameters or {}
    if rope.get("rope_type", "default") != "default" or model.config.attention_bias or model.config.mlp_bias:
        return False
    return all(
        type(layer) is torch.nn.Linear for name, layer in model.named_modules() if name.endswith(("_proj", "lm_head"))
    )


class _Block:
    """The weights of one block, concatenated if they have the same input, and its keys and values."""

    def __init__(self, layer: Any, width: int, rows: int) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.norm = layer.input_layernorm.weight
        self.ffn_norm = layer.post_attention_layernorm.weight
        self.inputs = torch.cat([p.weight.detach() for p in (attention.q_proj, attention.k_proj, attention.v_proj)])
        self.out = attention.o_proj.weight
        self.gates = torch.cat([mlp.gate_proj.weight.detach(), mlp.up_proj.weight.detach()])
        self.down = mlp.down_proj.weight
        self.heads = attention.k_proj.weight.shape[0] // width
        self.queries = attention.q_proj.weight.shape[0] // width
        self.keys = self.values = torch.zeros(rows, self.heads, 0, width)

    def grow(self, room: int, used: int) -> None:
        """Enlarge the cache for more tokens and keep the contents of the first `used` rows."""
        rows, heads, before, width = self.keys.shape
        for name in ("keys", "values"):
            # Zeros, because a masked value must be finite; numpy's take no memory before they are written.
            larger = torch.from_numpy(np.zeros((rows, heads, room, width), np.float32))
            larger[:used, :, :before] = getattr(self, name)[:used]
            setattr(self, name, larger)


class LlamaSteps:
    """The state of texts that are generated together: the keys and values of every token read.

    Rows are used from the first on; when a row is dropped, the last row moves to its place. The cache has room for the
    longest open text and grows by doubling; it shrinks when no text is open.
    """

    def __init__(self, model: Any, capacity: int, rows: int = 1) -> None:
        """Prepare for `rows` texts of at most `capacity` tokens; weights that read one input are copied together."""
        self._head_width = int(model.config.head_dim)
        self._epsilon = float(model.config.rms_norm_eps)
        self._embedding = model.model.embed_tokens.weight
        self._head = model.lm_head.weight
        self._norm = model.model.norm.weight
        self._blocks = [_Block(layer, self._head_width, rows) for layer in model.model.layers]
        self._room = 0
        self.sizes: list[int] = []
        with torch.no_grad():
            cos, sin = model.model.rotary_emb(self._embedding, torch.arange(capacity)[None])
        self._cos, self._sin = cos[0], sin[0]
        # The first half of a turned vector is minus its second half: put the sign into the sine.
        self._sin[:, : self._head_width // 2] *= -1

    def add(self) -> int:
        """Open the next row with an empty text and return its number."""
        if not self.sizes and self._room > FIRST_ROOM:
            self._resize(min(FIRST_ROOM, len(self._cos)), 0)
        self.sizes.append(0)
        return len(self.sizes) - 1

    def clear(self, row: int) -> None:
        """Empty a row."""
        self.sizes[row] = 0

    def drop(self, row: int) -> None:
        """Remove a row; the last row moves to its place."""
        last, size = len(self.sizes) - 1, self.sizes[-1]
        if row != last:
            for block in self._blocks:
                for cache in (block.keys, block.values):
                    cache[row, :, :size] = cache[last, :, :size]
        self.sizes[row] = size
        self.sizes.pop()

    def read(self, ids: Sequence[int], row: int = 0, scored: int | None = None) -> Reading:
        """Read tokens into a row; probabilities of the last `scored` tokens can be computed later, by default of all.

        Raises:
            ValueError: there is no room for them.
        """
        start, end = self.sizes[row], self.sizes[row] + len(ids)
        self._make_room(end)
        mask = None if len(ids) == 1 else torch.arange(end) <= torch.arange(start, end)[:, None]
        turn = self._cos[start:end], self._sin[start:end]

        def attend(block: _Block, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            keys, values = block.keys[row : row + 1, :, :end], block.values[row : row + 1, :, :end]
            keys[0, :, start:] = key.transpose(0, 1)
            values[0, :, start:] = value.transpose(0, 1)
            query = query[None].transpose(1, 2)
            grouped = block.queries != block.heads
            mixed = scaled_dot_product_attention(query, keys, values, attn_mask=mask, enable_gqa=grouped)
            return mixed.transpose(1, 2).reshape(len(ids), -1)

        states = self._forward(ids, turn, attend)
        self.sizes[row] = end
        kept = len(ids) - 1 if scored is None else min(len(ids) - 1, scored)
        tokens = torch.tensor(list(ids[len(ids) - kept :]), dtype=torch.long)
        return Reading(self._logits(states[-1]), partial(score, self._logits, states[-kept - 1 : -1].clone(), tokens))

    def step(self, ids: Sequence[int]) -> torch.Tensor:
        """Read one more token in every row and return the logits after each, (rows, vocabulary).

        Raises:
            ValueError: there is no room for them.
        """
        if len(ids) == 1:
            return self.read(ids, scored=0).last[None]
        rows, end = len(ids), max(self.sizes) + 1
        self._make_room(end)
        at, each = torch.tensor(self.sizes), torch.arange(rows)
        mask = (torch.arange(end) <= at[:, None])[:, None, None]

        def attend(block: _Block, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            block.keys[each, :, at] = key
            block.values[each, :, at] = value
            keys, values = block.keys[:rows, :, :end], block.values[:rows, :, :end]
            # The queries that share a key are laid out where the positions of a longer text would be.
            query = query.reshape(rows, block.heads, -1, self._head_width)
            mixed = scaled_dot_product_attention(query, keys, values, attn_mask=mask)
            return mixed.reshape(rows, -1)

        states = self._forward(ids, (self._cos[at], self._sin[at]), attend)
        self.sizes = [size + 1 for size in self.sizes]
        return self._logits(states)

    def _make_room(self, end: int) -> None:
        limit = len(self._cos)
        if end > limit:
            raise ValueError(f"{end} tokens do not fit the cache of {limit}")
        if end > self._room:
            self._resize(min(limit, max(end, FIRST_ROOM, 2 * self._room)), len(self.sizes))

    def _resize(self, room: int, used: int) -> None:
        for block in self._blocks:
            if not used:
                block.keys = block.values = block.keys[:, :, :0]
            block.grow(room, used)
        self._room = room

    def _forward(
        self,
        ids: Sequence[int],
        turn: tuple[torch.Tensor, torch.Tensor],
        attend: Callable[[_Block, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """Return the normed states of tokens, (tokens, width); `attend` stores keys and values and mixes them."""
        cos, sin = turn[0][:, None], turn[1][:, None]
        width, half, count = self._head_width, self._head_width // 2, len(ids)
        with torch.inference_mode():
            x = self._embedding[torch.tensor(ids)]
            shape = (x.shape[-1],)
            for block in self._blocks:
                h = linear(rms_norm(x, shape, block.norm, self._epsilon), block.inputs).view(count, -1, width)
                turned = h[:, : block.queries + block.heads]
                turned = torch.addcmul(turned * cos, turned.roll(half, -1), sin)
                mixed = attend(block, turned[:, : block.queries], turned[:, block.queries :], h[:, -block.heads :])
                x = x + linear(mixed, block.out)
                gate, up = linear(rms_norm(x, shape, block.ffn_norm, self._epsilon), block.gates).chunk(2, -1)
                x = x + linear(silu(gate).mul_(up), block.down)
            return rms_norm(x, shape, self._norm, self._epsilon)

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            logits: torch.Tensor = linear(states, self._head)
            return logits
