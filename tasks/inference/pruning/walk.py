"""The loss of a decoder without some of its units, and the scores by which units are commonly ranked.

A unit adds a separate term to the residual stream, `W[:, unit] a[unit]` of the output projection, so leaving a unit
out is a subtraction; only the sublayers after it are computed again. The module supports the decoder layout of
transformers (`input_layernorm`, `self_attn.o_proj`, `post_attention_layernorm`, `mlp.down_proj`: Llama, Mistral,
Qwen) and verifies it by comparing its logits with those of the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from tasks.inference.pruning.blocks import BlockWalker, batches
from tasks.inference.pruning.units import BLOCK, Layout, Unit, weights_of
from tasks.model.causal import load_model
from tasks.model.threads import torch_threads
from tasks.model.windows import Windows

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Job:
    """One piece of evaluation work: picklable, so that it can be done on another worker.

    Attributes:
        model: folder of the model.
        units: all units.
        windows: text windows on which the loss is evaluated.
        removed: units left out in every evaluation.
        candidates: units left out one at a time in addition.
        whole: whether the loss without `removed` alone is evaluated too; else it is nan.
        threads: number of torch threads.
    """

    model: Path
    units: tuple[Unit, ...]
    windows: Windows
    removed: tuple[int, ...] = ()
    candidates: tuple[int, ...] = ()
    whole: bool = True
    threads: int = 1


def evaluate(job: Job) -> NDArray[np.float64]:
    """Return the summed negative log-likelihood (nats) without the removed units, then without each candidate too."""
    with torch_threads(job.threads):
        if _are_blocks(job.units):
            removed, candidates = (layers(job.units, which) for which in (job.removed, job.candidates))
            return _block_walker(job.model).nll(job.windows, removed, candidates, whole=job.whole)
        return _walker(job.model).nll(job)


def bits_per_byte_without(
    model: Path, units: tuple[Unit, ...], windows: Windows, removed: Sequence[int], threads: int = 1
) -> float:
    """Return the bits per byte of a model without some of its units."""
    total = evaluate(Job(model, units, windows, tuple(removed), threads=threads))[0]
    return float(total / (math.log(2) * windows.n_bytes.sum()))


def weight_norms(model: Path, units: Sequence[Unit]) -> NDArray[np.float64]:
    """Return the root mean square weight of each unit."""
    if _are_blocks(units):
        return _block_walker(model).weight_norms(layers(units))
    return _walker(model).weight_norms(units)


def activation_norms(model: Path, units: Sequence[Unit], windows: Windows, threads: int = 1) -> NDArray[np.float64]:
    """Return Wanda's score |W_ij| * ||a_j|| (Sun et al. 2023, arXiv 2306.11695) of the output projection by unit.

    The elements of a unit are joined by the Euclidean norm: the size of what it adds to the residual stream if its
    channels were uncorrelated. The score of a whole block is how much the block turns the residual stream
    (`BlockWalker.influences`).
    """
    with torch_threads(threads):
        if _are_blocks(units):
            return _block_walker(model).influences(layers(units), windows)
        return _walker(model).activation_norms(units, windows)


def gate_gradients(model: Path, units: Sequence[Unit], windows: Windows, threads: int = 1) -> NDArray[np.float64]:
    """Return dL/dg in nats, (windows, units), for a gate g = 1 on each unit: one backward pass."""
    with torch_threads(threads):
        if _are_blocks(units):
            return _block_walker(model).gate_gradients(layers(units), windows)
        return _walker(model).gate_gradients(units, windows)


def unit_sizes(model: Path, units: Sequence[Unit]) -> list[int]:
    """Return the number of weights of each unit."""
    if _are_blocks(units):
        return _block_walker(model).sizes(layers(units))
    layout = _walker(model).layout
    return [layout.parameters(unit) for unit in units]


def layers(units: Sequence[Unit], which: Sequence[int] | None = None) -> tuple[int, ...]:
    """Return the blocks of some units, or of all."""
    return tuple(units[i].layer for i in (range(len(units)) if which is None else which))


def _are_blocks(units: Sequence[Unit]) -> bool:
    return bool(units) and units[0].part == BLOCK


@lru_cache(maxsize=2)
def _walker(folder: Path) -> _Walker:
    return _Walker(load_model(folder))


@lru_cache(maxsize=1)  # half a gigabyte each
def _block_walker(folder: Path) -> BlockWalker:
    return BlockWalker(load_model(folder))


@dataclass
class _Sublayer:
    norm: Any
    block: Any
    projection: Any
    attention: bool


class _Walker:
    """A decoder walked sublayer by sublayer; `_input` is the last input of an output projection."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model: Any = model
        self.layout = Layout.of(model.config)
        self.sublayers: list[_Sublayer] = []
        for layer in self.model.model.layers:
            self.sublayers.append(_Sublayer(layer.input_layernorm, layer.self_attn, layer.self_attn.o_proj, True))
            self.sublayers.append(_Sublayer(layer.post_attention_layernorm, layer.mlp, layer.mlp.down_proj, False))
        self._change: Callable[[torch.Tensor], torch.Tensor] | None = None
        self._input = torch.empty(0)
        for sublayer in self.sublayers:
            sublayer.projection.register_forward_pre_hook(self._hook)
        self._check()

    def nll(self, job: Job) -> NDArray[np.float64]:
        """See `evaluate`."""
        total = np.zeros(1 + len(job.candidates))
        removed = self._by_sublayer(job.units, job.removed)
        candidates = self._by_sublayer(job.units, job.candidates)
        with torch.inference_mode():
            for tokens in batches(job.windows):
                total += self._batch_nll(tokens, removed, candidates, len(job.candidates), job.whole)
        return total

    def _batch_nll(
        self,
        tokens: torch.Tensor,
        removed: dict[int, list[tuple[int, slice]]],
        candidates: dict[int, list[tuple[int, slice]]],
        n: int,
        whole: bool,
    ) -> NDArray[np.float64]:
        result = np.full(1 + n, np.nan)
        hidden, position = self._embed(tokens)
        end = len(self.sublayers) if whole else 1 + max(candidates, default=-1)
        for at in range(end):
            hidden = self._step(at, hidden, position, removed)
            inputs, weight = self._input, self.sublayers[at].projection.weight
            for which, columns in candidates.get(at, []):
                without = hidden - inputs[..., columns] @ weight[:, columns].T
                for later in range(at + 1, len(self.sublayers)):
                    without = self._step(later, without, position, removed)
                result[1 + which] = self._loss(without, tokens)
        if whole:
            result[0] = self._loss(hidden, tokens)
        return result

    def weight_norms(self, units: Sequence[Unit]) -> NDArray[np.float64]:
        """See the function of this name."""
        norms = []
        for unit in units:
            weights = weights_of(self.model.model.layers[unit.layer], self.layout, unit)
            flat = torch.cat([w.detach().reshape(-1).double() for w in weights])
            norms.append(float(flat.square().mean().sqrt()))
        return np.array(norms)

    def activation_norms(self, units: Sequence[Unit], windows: Windows) -> NDArray[np.float64]:
        """See the function of this name."""
        squares: dict[int, torch.Tensor] = {}
        with torch.inference_mode():
            for tokens in batches(windows):
                hidden, position = self._embed(tokens)
                for at in range(len(self.sublayers)):
                    hidden = self._step(at, hidden, position, {})
                    found = self._input.double().square().sum(dim=(0, 1))
                    squares[at] = squares[at] + found if at in squares else found
            scores = []
            for unit in units:
                columns = self.layout.columns(unit)
                weight = self.sublayers[unit.sublayer].projection.weight[:, columns].double()
                scores.append(float((weight.square() @ squares[unit.sublayer][columns]).sum().sqrt()))
        return np.array(scores)

    def gate_gradients(self, units: Sequence[Unit], windows: Windows) -> NDArray[np.float64]:
        """See the function of this name."""
        found = []
        for tokens in batches(windows):
            gates = torch.ones(len(units), len(tokens), requires_grad=True)
            hidden, position = self._embed(tokens)
            for at in range(len(self.sublayers)):
                here = [(gate, unit) for gate, unit in zip(gates, units, strict=True) if unit.sublayer == at]
                hidden = self._gated(at, hidden, position, here)
            loss = self._token_losses(hidden, tokens).sum()
            (gradient,) = torch.autograd.grad(loss, gates)
            found.append(gradient.T.double().numpy())
        return np.concatenate(found)

    def _gated(
        self, at: int, hidden: torch.Tensor, position: Any, gates: list[tuple[torch.Tensor, Unit]]
    ) -> torch.Tensor:
        def scale(x: torch.Tensor) -> torch.Tensor:
            factors = torch.ones_like(x[:, :1, :])
            parts, start = [], 0
            for gate, unit in sorted(gates, key=lambda pair: pair[1].start):
                columns = self.layout.columns(unit)
                parts += [
                    factors[..., start : columns.start],
                    gate[:, None, None].expand(-1, 1, columns.stop - columns.start),
                ]
                start = columns.stop
            return x * torch.cat([*parts, factors[..., start:]], dim=-1)

        return self._run(at, hidden, position, scale if gates else None)

    def _step(
        self, at: int, hidden: torch.Tensor, position: Any, removed: dict[int, list[tuple[int, slice]]]
    ) -> torch.Tensor:
        gone = removed.get(at)

        def clear(x: torch.Tensor) -> torch.Tensor:
            x = x.clone()
            for _, columns in gone or ():
                x[..., columns] = 0
            return x

        return self._run(at, hidden, position, clear if gone else None)

    def _run(
        self, at: int, hidden: torch.Tensor, position: Any, change: Callable[[torch.Tensor], torch.Tensor] | None
    ) -> torch.Tensor:
        sublayer = self.sublayers[at]
        self._change = change
        x = sublayer.norm(hidden)
        if sublayer.attention:
            out, _ = sublayer.block(hidden_states=x, position_embeddings=position, attention_mask=None)
        else:
            out = sublayer.block(x)
        result: torch.Tensor = hidden + out
        return result

    def _hook(self, _: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        x = inputs[0] if self._change is None else self._change(inputs[0])
        self._input = x
        return (x,)

    def _embed(self, tokens: torch.Tensor) -> tuple[torch.Tensor, Any]:
        hidden = self.model.model.embed_tokens(tokens[:, :-1])
        positions = torch.arange(tokens.shape[1] - 1)[None]
        return hidden, self.model.model.rotary_emb(hidden, position_ids=positions)

    def _token_losses(self, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        logits = self.model.lm_head(self.model.model.norm(hidden))
        losses: torch.Tensor = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        return losses

    def _loss(self, hidden: torch.Tensor, tokens: torch.Tensor) -> float:
        return float(self._token_losses(hidden, tokens).double().sum())

    def _by_sublayer(self, units: Sequence[Unit], which: Sequence[int]) -> dict[int, list[tuple[int, slice]]]:
        found: dict[int, list[tuple[int, slice]]] = {}
        for position, index in enumerate(which):
            found.setdefault(units[index].sublayer, []).append((position, self.layout.columns(units[index])))
        return found

    def _check(self) -> None:
        """Refuse a model whose blocks compute more than this module supports.

        Raises:
            ValueError: the logits of this module differ from those of the model.
        """
        tokens = torch.arange(9)[None] % int(self.model.config.vocab_size)
        with torch.inference_mode():
            self._change = None
            expected = self.model(input_ids=tokens[:, :-1], use_cache=False).logits
            hidden, position = self._embed(tokens)
            for at in range(len(self.sublayers)):
                hidden = self._step(at, hidden, position, {})
            found = self.model.lm_head(self.model.model.norm(hidden))
        if not torch.allclose(found, expected, rtol=1e-3, atol=1e-3):
            raise ValueError(
                f"{type(self.model).__name__} does not have the block structure of Llama; it cannot be pruned here"
            )
