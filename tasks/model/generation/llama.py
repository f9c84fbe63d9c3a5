"""A Llama model that writes several texts side by side, with a key-value cache that grows.

The arithmetic is compiled (`tasks.model.generation.kernel`); it gives the numbers of `transformers` from the same
weights, whatever widths pruning has left in each block. Several texts are rows of one cache and are advanced together.
A text that begins like one that is open, or was lately, copies its keys and values instead of reading its beginning
again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.model.generation.kernel import LANES, pack, panelled, project
from tasks.model.generation.kernel import read as read_blocks
from tasks.model.generation.plain import PlainLlama
from tasks.model.recipe import Form

Numbers = NDArray[np.float32]
FIRST_ROOM = 128  # tokens of each text that a new cache has room for
AT_ONCE = 256  # tokens whose probabilities over the whole vocabulary are in memory together
SHORTEST = 16  # tokens of a beginning that is worth a copy
ENTRIES = 64  # texts that are remembered


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
    if isinstance(model, PlainLlama):
        return True
    from transformers import LlamaForCausalLM

    if type(model) is not LlamaForCausalLM:
        return False
    rope = model.config.rope_parameters or {}
    if rope.get("rope_type", "default") != "default" or model.config.attention_bias or model.config.mlp_bias:
        return False
    return all(
        type(layer) is torch.nn.Linear for name, layer in model.named_modules() if name.endswith(("_proj", "lm_head"))
    )


@dataclass(frozen=True)
class Weights:
    """The weights of a model as the compiled functions read them.

    Attributes:
        sizes: queries, heads and channels of each block, (blocks, 3).
        blocks: matrices of all blocks in one line of panels.
        scales: of their outputs, of length 0 where all are 1.
        head: of the vocabulary, (vocabulary, width) in panels.
        head_scales: of its outputs.
        norms: (2 * blocks + 1, width).
        embedding: (vocabulary, width).
        head_width: width of an attention head.
        epsilon: of the norms.
    """

    sizes: NDArray[np.int64]
    blocks: NDArray[Any]
    scales: Numbers
    head: NDArray[Any]
    head_scales: Numbers
    norms: Numbers
    embedding: Numbers
    head_width: int
    epsilon: float

    @classmethod
    def of(cls, model: Any, form: Form) -> Weights:
        """Copy the matrices of a model in a number format; the embedding is its own."""
        width = int(model.config.head_dim)
        sizes, matrices, norms = [], [], []
        for layer in model.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            read = torch.cat([p.weight.detach() for p in (attention.q_proj, attention.k_proj, attention.v_proj)])
            gates = torch.cat([mlp.gate_proj.weight.detach(), mlp.up_proj.weight.detach()])
            matrices += [in_form(m, form) for m in (read, attention.o_proj.weight, gates, mlp.down_proj.weight)]
            heads, queries = (p.weight.shape[0] // width for p in (attention.k_proj, attention.q_proj))
            sizes.append((queries, heads, mlp.gate_proj.weight.shape[0]))
            norms += [layer.input_layernorm.weight, layer.post_attention_layernorm.weight]
        head, head_scales = in_form(model.lm_head.weight, form)
        return cls(
            np.array(sizes, np.int64),
            np.concatenate([pack(numbers) for numbers, _ in matrices]),
            np.concatenate([scales for _, scales in matrices]),
            pack(head),
            head_scales,
            np.stack([norm.detach().numpy() for norm in (*norms, model.model.norm.weight)]),
            model.model.embed_tokens.weight.detach().numpy(),
            width,
            float(model.config.rms_norm_eps),
        )


def in_form(weights: torch.Tensor, form: Form) -> tuple[NDArray[Any], Numbers]:
    """Return a matrix in a number format, and the scale of each row where the format has one.

    bfloat16 is the upper half of an fp32 number, rounded, as uint16. INT8 is symmetric: the largest of a row is 127.
    """
    weights, none = weights.detach(), np.zeros(0, np.float32)
    if form == "bf16":
        return weights.bfloat16().view(torch.int16).numpy().view(np.uint16), none
    if form == "int8":
        scales = weights.abs().amax(-1).clamp(min=1e-12) / 127
        return (weights / scales[:, None]).round().to(torch.int8).numpy(), scales.numpy()
    return weights.contiguous().numpy(), none


@dataclass(frozen=True, eq=False)
class _Kept:
    """Tokens that were read, and what the cache of a row holds of them."""

    ids: NDArray[np.int64]
    numbers: tuple[Numbers, Numbers, Numbers]

    @property
    def bytes(self) -> int:
        return sum(part.nbytes for part in self.numbers)


def _first(tokens: int, keys: Numbers, values: Numbers, states: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """Return the part of a row's cache that holds its first tokens; the last panel of keys is whole."""
    return keys[:, : -(-tokens // LANES)], values[:, :, :tokens], states[:tokens]


class LlamaSteps:
    """The state of texts that are generated together: keys, values and states of every token read.

    Rows are used from the first on; when a row is dropped, the last row moves to its place. The cache has room for the
    longest open text and grows by doubling; it shrinks when no text is open.
    """

    def __init__(
        self, model: Any, capacity: int, rows: int = 1, form: Form = "fp32", remembered: int = 0, threads: int = 1
    ) -> None:
        """Prepare for `rows` texts of at most `capacity` tokens.

        Args:
            model: whose weights are used.
            capacity: tokens of a text at most.
            rows: texts at most.
            form: number format of the weights.
            remembered: bytes of texts that are remembered after they are dropped.
            threads: texts of a step are split among so many.
        """
        self._weights = Weights.of(model, form)
        self._remembered, self._threads = remembered, threads
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._memory: list[_Kept] = []  # the latest last
        self._rows = rows
        self._empty(0)
        self._ids: list[list[int]] = []  # in the cache, of each row
        with torch.no_grad():
            cos, sin = model.model.rotary_emb(model.model.embed_tokens.weight, torch.arange(capacity)[None])
        self._cos, self._sin = cos[0].numpy(), sin[0].numpy().copy()
        # The first half of a turned vector is minus its second half: put the sign into the sine.
        self._sin[:, : self._weights.head_width // 2] *= -1

    @property
    def sizes(self) -> list[int]:
        """Tokens of each row."""
        return [len(ids) for ids in self._ids]

    def add(self) -> int:
        """Open the next row with an empty text and return its number."""
        if not self._ids and self._room > FIRST_ROOM:
            self._resize(min(FIRST_ROOM, len(self._cos)))
        self._ids.append([])
        return len(self._ids) - 1

    def clear(self, row: int) -> None:
        """Empty a row."""
        self._ids[row] = []

    def drop(self, row: int) -> None:
        """Remove a row; the last row moves to its place."""
        if self._remembered:
            self._remember(row)
        last, size = len(self._ids) - 1, len(self._ids[-1])
        if row != last:
            self._write(row, self._held(last, size))
        self._ids[row] = self._ids[-1]
        self._ids.pop()

    def read(self, ids: Sequence[int], row: int = 0, scored: int | None = None) -> Reading:
        """Read tokens into a row; probabilities of the last `scored` tokens can be computed later, by default of all.

        Raises:
            ValueError: there is no room for them.
        """
        start, end = len(self._ids[row]), len(self._ids[row]) + len(ids)
        self._make_room(end)
        known = start + (self._take_over(ids, row) if not start else 0)
        if known < end:
            rows, places = np.full(end - known, row), np.arange(known, end)
            self._states[row, known:end] = self._forward(np.array(ids[known - start :]), rows, places)
        self._ids[row] += ids
        kept = len(ids) - 1 if scored is None else min(len(ids) - 1, scored)
        tokens = torch.tensor(list(ids[len(ids) - kept :]), dtype=torch.long)
        states = torch.from_numpy(self._states[row, end - kept - 1 : end - 1].copy())
        return Reading(self._logits(self._states[row, end - 1 : end])[0], partial(score, self._scored, states, tokens))

    def step(self, ids: Sequence[int]) -> torch.Tensor:
        """Read one more token in every row and return the logits after each, (rows, vocabulary).

        Raises:
            ValueError: there is no room for them.
        """
        places = np.array(self.sizes)
        self._make_room(int(places.max()) + 1)
        rows, tokens = np.arange(len(ids)), np.array(ids)

        def part(some: slice) -> torch.Tensor:
            states = self._forward(tokens[some], rows[some], places[some])
            self._states[rows[some], places[some]] = states
            return self._logits(states)

        each = -(-len(ids) // (4 * self._threads)) * 4  # weights are read once for four
        parts = [slice(at, at + each) for at in range(0, len(ids), each)]
        logits = list(self._pool.map(part, parts) if self._pool and len(parts) > 1 else map(part, parts))
        for known, token in zip(self._ids, ids, strict=True):
            known.append(token)
        return logits[0] if len(logits) == 1 else torch.cat(logits)

    @property
    def _room(self) -> int:
        return self._states.shape[1]

    def _make_room(self, end: int) -> None:
        limit = len(self._cos)
        if end > limit:
            raise ValueError(f"{end} tokens do not fit the cache of {limit}")
        if end > self._room:
            self._resize(min(limit, max(end, FIRST_ROOM, 2 * self._room)))

    def _resize(self, room: int) -> None:
        """Change the room of the cache and keep the contents of the open rows."""
        held = [self._held(row, len(ids)) for row, ids in enumerate(self._ids)]
        self._empty(room)
        for row, numbers in enumerate(held):
            self._write(row, numbers)

    def _empty(self, room: int) -> None:
        """Make a cache for so many tokens of each row, filled up to whole panels."""
        it, panels = self._weights, -(-room // LANES)
        heads, across = int(it.sizes[:, 1].sum()), it.head_width
        self._keys = np.zeros((self._rows, heads, panels, across, LANES), np.float32)
        self._values = np.zeros((self._rows, heads, -(-across // LANES), panels * LANES, LANES), np.float32)
        self._states = np.zeros((self._rows, panels * LANES, it.embedding.shape[1]), np.float32)

    def _held(self, row: int, tokens: int) -> tuple[Numbers, Numbers, Numbers]:
        """Return what the cache holds of the first tokens of a row, not a copy."""
        return _first(tokens, self._keys[row], self._values[row], self._states[row])

    def _write(self, row: int, numbers: tuple[Numbers, Numbers, Numbers]) -> None:
        """Write the first tokens of a row."""
        for target, source in zip(self._held(row, len(numbers[-1])), numbers, strict=True):
            target[...] = source

    def _take_over(self, ids: Sequence[int], row: int) -> int:
        """Copy the longest known beginning of a text into an empty row; return its tokens."""
        if not self._remembered or len(ids) < SHORTEST:
            return 0
        wanted = np.array(ids)
        found = [(_common(wanted, kept.ids), kept) for kept in self._memory]
        found += [(_common(wanted, np.array(known)), self._kept(at)) for at, known in enumerate(self._ids) if at != row]
        count, kept = max(found, key=lambda one: one[0], default=(0, None))
        if kept is None or count < SHORTEST:
            return 0
        self._write(row, _first(count, *kept.numbers))
        if kept in self._memory:
            self._memory.append(self._memory.pop(self._memory.index(kept)))
        return count

    def _kept(self, row: int) -> _Kept:
        """Return the tokens of a row; its numbers are those of the cache, not a copy."""
        return _Kept(np.array(self._ids[row], np.int64), self._held(row, len(self._ids[row])))

    def _remember(self, row: int) -> None:
        """Keep a copy of a row; it takes the place of those that it continues, the oldest leave where room is short."""
        kept = self._kept(row)
        if len(kept.ids) < SHORTEST or any(_common(kept.ids, other.ids) == len(kept.ids) for other in self._memory):
            return
        keys, values, states = kept.numbers
        kept = _Kept(kept.ids, (keys.copy(), values.copy(), states.copy()))
        self._memory = [other for other in self._memory if _common(kept.ids, other.ids) < len(other.ids)]
        self._memory = [*self._memory[-ENTRIES + 1 :], kept]
        while sum(other.bytes for other in self._memory) > self._remembered:
            self._memory.pop(0)

    def _forward(self, ids: NDArray[np.int64], rows: NDArray[np.int64], places: NDArray[np.int64]) -> Numbers:
        """Read tokens, keep their keys and values, and return their normed states, (tokens, width)."""
        it = self._weights
        x = it.embedding[ids]
        turn = self._cos[places], self._sin[places]
        caches = self._keys, self._values
        read_blocks(x, rows, places, *turn, it.sizes, it.blocks, it.scales, it.norms, it.epsilon, *caches)
        return x

    def _logits(self, states: Numbers) -> torch.Tensor:
        vocabulary = len(self._weights.embedding)
        out = np.empty((len(states), panelled(vocabulary)), np.float32)
        project(states, self._weights.head, self._weights.head_scales, out)
        return torch.from_numpy(out)[:, :vocabulary]

    def _scored(self, states: torch.Tensor) -> torch.Tensor:
        return self._logits(states.numpy())


def _common(one: NDArray[np.int64], other: NDArray[np.int64]) -> int:
    """Return the number of first tokens that two texts share."""
    size = min(len(one), len(other))
    apart = np.flatnonzero(one[:size] != other[:size])
    return int(apart[0]) if len(apart) else size
