"""Whole blocks of a causal decoder: the loss without some blocks, scores that rank blocks, and removal of blocks.

Supports every decoder of transformers whose blocks are one list and read and write the residual stream: the model's
own forward pass runs with a wrapped `forward` of each block, which computes the block, skips it, or returns its known
result. A model without some blocks is a smaller model of the same architecture, in any program that reads it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import cosine_similarity, cross_entropy

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from tasks.model.windows import Windows

BATCH_TOKENS = 512  # logits of this many tokens stay in the processor's cache: twice as fast as 2,048
PREFIX_BYTES = 512 << 20  # residual streams kept between evaluations


def find_blocks(model: PreTrainedModel) -> tuple[str, torch.nn.ModuleList]:
    """Return name and list of a decoder's blocks.

    Raises:
        ValueError: the model has no single list of as many blocks as its configuration says.
    """
    depth = int(model.config.num_hidden_layers)
    lists = [(name, m) for name, m in model.named_modules() if isinstance(m, torch.nn.ModuleList) and len(m) == depth]
    outer = [(name, m) for name, m in lists if not any(name.startswith(f"{other}.") for other, _ in lists)]
    if len(outer) != 1:
        raise ValueError(f"{type(model).__name__} has {len(outer)} lists of {depth} blocks, expected one")
    return outer[0]


def without_blocks(model: PreTrainedModel, gone: Sequence[int]) -> PreTrainedModel:
    """Return a model of the same architecture and weights without some blocks.

    Raises:
        ValueError: no block would be left, or the model has no list of blocks.
    """
    name, blocks = find_blocks(model)
    kept = [i for i in range(len(blocks)) if i not in set(gone)]
    if not kept:
        raise ValueError(f"all {len(blocks)} blocks would go; leave one")
    config: Any = copy.deepcopy(model.config)
    for key, value in config.to_dict().items():
        if isinstance(value, list) and len(value) == len(blocks):  # one entry for each block, such as layer_types
            setattr(config, key, [value[i] for i in kept])
    config.num_hidden_layers = len(kept)
    with torch.random.fork_rng(devices=[]):
        smaller: PreTrainedModel = type(model)(config)
    smaller.load_state_dict(dict(_renamed(model, f"{name}.", kept)))
    smaller.generation_config = model.generation_config
    smaller.train(False)
    return smaller


Compute = Callable[[torch.Tensor], torch.Tensor]
Visit = Callable[[int, torch.Tensor, Compute], torch.Tensor]


class _Enough(Exception):
    """The results after this block are not needed."""


class BlockWalker:
    """A decoder whose forward pass can skip blocks, and start after blocks whose result is known."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model: Any = model.requires_grad_(False)
        self.blocks = find_blocks(model)[1]
        self._visit: Visit = _compute
        self._prefix: dict[tuple[bytes, int], torch.Tensor] = {}
        for index, block in enumerate(self.blocks):
            self._watch(index, block)

    def nll(
        self, windows: Windows, removed: Sequence[int], candidates: Sequence[int], *, whole: bool
    ) -> NDArray[np.float64]:
        """Return the summed NLL (nats) without the removed blocks, then without each candidate in addition.

        The residual stream in front of the first block concerned is kept for later calls on the same text; a call
        for the whole model clears it first, so that each arm that needs it is charged for it.
        """
        total = np.zeros(1 + len(candidates))
        with torch.inference_mode():
            for tokens in batches(windows):
                total += self._batch_nll(tokens, frozenset(removed), tuple(candidates), whole)
        return total

    def _batch_nll(
        self, tokens: torch.Tensor, removed: frozenset[int], candidates: tuple[int, ...], whole: bool
    ) -> NDArray[np.float64]:
        text = tokens.numpy().tobytes()
        if whole and not removed:
            self._prefix = {key: stream for key, stream in self._prefix.items() if key[0] != text}
        result, inputs = np.full(1 + len(candidates), np.nan), {}
        first, last = min(removed | set(candidates), default=0), max(candidates, default=-1)

        def visit(index: int, stream: torch.Tensor, compute: Compute) -> torch.Tensor:
            if index < first and (text, first) in self._prefix:
                return self._prefix[text, first] if index == first - 1 else stream
            if index in candidates or index == first:
                inputs[index] = stream
            if index == last and not whole:
                raise _Enough
            return stream if index in removed else compute(stream)

        with self._visiting(visit), suppress(_Enough):
            loss = self._loss(tokens)
            result[0] = loss if whole else np.nan
        for index, stream in inputs.items():
            if index <= min(removed, default=index):
                self._keep(text, index, stream)
        for position, candidate in enumerate(candidates):
            result[1 + position] = self._without(tokens, candidate, inputs[candidate], removed)
        return result

    def _without(self, tokens: torch.Tensor, block: int, known: torch.Tensor, removed: frozenset[int]) -> float:
        """The loss where `block` hands on what it reads, which is known, and the removed ones do the same."""

        def visit(index: int, stream: torch.Tensor, compute: Compute) -> torch.Tensor:
            if index <= block:
                return known
            return stream if index in removed else compute(stream)

        with self._visiting(visit):
            return self._loss(tokens)

    def _keep(self, text: bytes, index: int, stream: torch.Tensor) -> None:
        size = stream.numel() * stream.element_size()
        if (len(self._prefix) + 1) * size <= PREFIX_BYTES:
            self._prefix[text, index] = stream

    def sizes(self, blocks: Sequence[int]) -> list[int]:
        """Return the weights of each block."""
        return [sum(p.numel() for p in self.blocks[index].parameters()) for index in blocks]

    def weight_norms(self, blocks: Sequence[int]) -> NDArray[np.float64]:
        """Return the root mean square weight of each block."""
        norms = []
        for index in blocks:
            parameters = list(self.blocks[index].parameters())
            squares = sum(float(p.double().square().sum()) for p in parameters)
            norms.append(math.sqrt(squares / sum(p.numel() for p in parameters)))
        return np.array(norms)

    def influences(self, blocks: Sequence[int], windows: Windows) -> NDArray[np.float64]:
        """Return 1 minus the mean cosine between what a block reads and writes (ShortGPT, arXiv 2403.03853, eq. 1)."""
        totals = np.zeros(len(self.blocks))

        def visit(index: int, stream: torch.Tensor, compute: Compute) -> torch.Tensor:
            after = compute(stream)
            totals[index] += float((1 - cosine_similarity(stream, after, dim=-1)).double().sum())
            if index == max(blocks):
                raise _Enough
            return after

        with torch.inference_mode(), self._visiting(visit):
            for tokens in batches(windows):
                with suppress(_Enough):
                    self._losses(tokens)
        return totals[list(blocks)] / windows.n_predicted

    def gate_gradients(self, blocks: Sequence[int], windows: Windows) -> NDArray[np.float64]:
        """Return dL/dg, (windows, blocks), for a gate g = 1 on what each block adds to the residual stream."""
        found = []
        for tokens in batches(windows):
            gates = torch.ones(len(self.blocks), len(tokens), requires_grad=True)

            with self._visiting(partial(_gated, gates)):
                self._losses(tokens).sum().backward()
            found.append(torch.as_tensor(gates.grad)[list(blocks)].T.double().numpy())
        return np.concatenate(found)

    def _loss(self, tokens: torch.Tensor) -> float:
        return float(self._losses(tokens).double().sum())

    def _losses(self, tokens: torch.Tensor) -> torch.Tensor:
        logits = self.model(input_ids=tokens[:, :-1], use_cache=False).logits
        losses: torch.Tensor = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        return losses

    @contextmanager
    def _visiting(self, visit: Visit) -> Iterator[None]:
        self._visit = visit
        try:
            yield
        finally:
            self._visit = _compute

    def _watch(self, index: int, block: Any) -> None:
        """Wrap the `forward` of a block, so that the block can be skipped or its known result returned."""
        own = block.forward

        def forward(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            return self._visit(index, hidden_states, lambda stream: _stream(own(stream, *args, **kwargs), self.model))

        block.forward = forward


def batches(windows: Windows) -> list[torch.Tensor]:
    """Cut windows into batches of about 512 tokens: the logits of a large vocabulary stay small."""
    size = max(1, BATCH_TOKENS // windows.context)
    tokens = torch.from_numpy(windows.tokens)
    return [tokens[start : start + size] for start in range(0, len(tokens), size)]


def _compute(_: int, stream: torch.Tensor, compute: Compute) -> torch.Tensor:
    return compute(stream)


def _gated(gates: torch.Tensor, index: int, stream: torch.Tensor, compute: Compute) -> torch.Tensor:
    return stream + gates[index][:, None, None] * (compute(stream) - stream)


def _stream(out: Any, model: Any) -> torch.Tensor:
    if not isinstance(out, torch.Tensor):
        raise ValueError(f"the blocks of {type(model).__name__} return more than the residual stream; they stay")
    return out


def _renamed(model: PreTrainedModel, prefix: str, kept: list[int]) -> Iterator[tuple[str, torch.Tensor]]:
    for key, tensor in model.state_dict().items():
        if not key.startswith(prefix):
            yield key, tensor
            continue
        index, _, rest = key.removeprefix(prefix).partition(".")
        if int(index) in kept:
            yield f"{prefix}{kept.index(int(index))}.{rest}", tensor
