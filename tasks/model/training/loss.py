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
CARD_CHUNK = 8192  # the same on a card, where a small product costs as much as a larger one


def next_token_loss(model: torch.nn.Module, batch: Windows, *, bf16: bool = False) -> torch.Tensor:
    """Return the mean loss of the scored tokens of some windows, in nats.

    Args:
        model: a causal language model of transformers.
        batch: the windows.
        bf16: make matrix products in bfloat16 (inside `tasks.model.training.precision.fp32_attention`).
    """
    device = next(model.parameters()).device
    given = {name: value.to(device) for name, value in batch.inputs().items()} | {"use_cache": False}
    wanted = batch.labels().flatten().to(device)
    llama = find_llama(model)
    if llama is None or type(llama.lm_head) is not torch.nn.Linear:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            return cross_entropy(model(**given).logits.flatten(0, 1).float(), wanted)
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        hidden = llama.model(**given).last_hidden_state
    loss: torch.Tensor = ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden.flatten(0, 1).float(), llama.lm_head.weight, wanted, bf16, batch.n_scored
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
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, wanted: torch.Tensor, bf16: bool, n: int
    ) -> torch.Tensor:
        """Return the mean loss of n scored tokens.

        Args:
            ctx: keeps the gradients.
            hidden: (tokens, width).
            weight: (vocabulary, width).
            wanted: target tokens, (tokens,), -100 = not scored.
            bf16: make matrix products in bfloat16.
            n: number of scored tokens.
        """
        chunk = CARD_CHUNK if hidden.is_cuda else CHUNK
        states, head = (hidden.bfloat16(), weight.bfloat16()) if bf16 else (hidden, weight)
        states, head = states.detach(), head.detach()
        to_hidden = torch.empty_like(hidden)
        to_weight = torch.zeros_like(weight) if weight.requires_grad else None
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        for start in range(0, len(hidden), chunk):
            rows, targets = states[start : start + chunk], wanted[start : start + chunk, None]
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
            to_hidden[start : start + chunk] = gradient @ head
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
        scaled = None if to_weight is None else to_weight * gradients[0]
        return to_hidden * gradients[0], scaled, None, None, None
