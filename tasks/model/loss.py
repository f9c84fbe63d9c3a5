"""The loss of next-token prediction, with the logits of a few tokens in memory at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy

from tasks.model.windows import UNSCORED

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

    from tasks.model.windows import Windows

CHUNK = 128  # tokens whose logits are in memory at once: with a vocabulary of 4,096 they fit the second-level cache


def next_token_loss(model: torch.nn.Module, batch: Windows, *, bf16: bool = False) -> torch.Tensor:
    """Return the mean loss of the scored tokens of some windows, in nats.

    Args:
        model: a causal language model of transformers.
        batch: the windows.
        bf16: make matrix products in bfloat16 (inside `tasks.model.precision.fp32_attention`).
    """
    given, wanted = batch.inputs() | {"use_cache": False}, batch.labels().flatten()
    llama = find_llama(model)
    if llama is None or type(llama.lm_head) is not torch.nn.Linear:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return cross_entropy(model(**given).logits.flatten(0, 1).float(), wanted)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        hidden = llama.model(**given).last_hidden_state
    loss: torch.Tensor = ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden.flatten(0, 1).float(), llama.lm_head.weight, wanted, bf16
    )
    return loss


def find_llama(model: torch.nn.Module) -> LlamaForCausalLM | None:
    """Return the Llama model itself or the one that adapters were put into; None for other models.

    Other models may scale or cap their logits, or mix attention in another way.
    """
    from transformers import LlamaForCausalLM

    return next((module for module in model.modules() if type(module) is LlamaForCausalLM), None)


class ChunkedCrossEntropy(torch.autograd.Function):
    """Mean cross entropy of `hidden @ weight.T`, forward and backward chunk by chunk.

    The gradients are made in the forward pass, so the logits of a chunk are used while they are in the cache and never
    stored. `torch.nn.functional.linear_cross_entropy` does the same; on a CPU it was not faster than the plain product
    (`python -m benchmarks.training speed` prints both).
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, wanted: torch.Tensor, bf16: bool) -> torch.Tensor:
        """Return the loss of (n, width) states, (vocabulary, width) weights and n target tokens, -100 = not scored."""
        n = int((wanted != UNSCORED).sum())
        states, head = (hidden.bfloat16(), weight.bfloat16()) if bf16 else (hidden, weight)
        states, head = states.detach(), head.detach()
        to_hidden = torch.empty_like(hidden)
        to_weight = torch.zeros_like(weight) if weight.requires_grad else None
        total = torch.zeros((), dtype=torch.float64)
        for start in range(0, len(hidden), CHUNK):
            rows, targets = states[start : start + CHUNK], wanted[start : start + CHUNK, None]
            scored = targets != UNSCORED
            targets = targets.clamp(min=0)
            values = (rows @ head.T).float()
            values -= values.amax(1, keepdim=True)
            at_target = values.gather(1, targets)
            sums = values.exp_().sum(1, keepdim=True)
            total += ((sums.log() - at_target) * scored).sum()
            values *= scored / (sums * n)
            values.scatter_add_(1, targets, scored * (-1 / n))
            gradient = values.to(rows.dtype)
            to_hidden[start : start + CHUNK] = gradient @ head
            if to_weight is not None and bf16:
                to_weight += gradient.T @ rows
            elif to_weight is not None:
                to_weight.addmm_(gradient.T, rows)
        ctx.save_for_backward(to_hidden, to_weight)
        return (total / n).float()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Scale the gradients of the forward pass."""
        to_hidden, to_weight = ctx.saved_tensors
        return to_hidden * gradients[0], None if to_weight is None else to_weight * gradients[0], None, None
