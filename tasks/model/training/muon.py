"""Muon (K. Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"), batched by shape."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from tasks.model.training.peers import Alone, Peers

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: torch.Tensor, iterations: int = 5, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Replace the singular values of each matrix by values near 1 (quintic Newton-Schulz).

    Args:
        matrices: (..., rows, columns).
        iterations: 5 bring singular values above 1 % of the largest into about 0.7..1.2.
        dtype: type of the matrix products.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.size(-2) > matrices.size(-1)
    x = matrices.reshape(-1, *matrices.shape[-2:])
    x = x.mT if tall else x
    x = (x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)).to(dtype)
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).reshape(matrices.shape).to(matrices.dtype)


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` with its hyper-parameters and state; all matrices of a shape make one Newton-Schulz iteration.

    torch iterates one matrix after another in bfloat16, which costs twice as much where the CPU has bfloat16
    instructions and ten times as much where it emulates them.

    Args:
        params: two-dimensional parameters.
        bf16: iterate in bfloat16; else in fp32.
        peers: processes with the same parameters and gradients. Each iterates its part of the matrices, and the updates
            are summed, which costs one exchange and gives every process the same bits.
        options: as `torch.optim.Muon` takes them.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        *,
        bf16: bool = False,
        peers: Peers | None = None,
        **options: Any,
    ) -> None:
        super().__init__(params, **options)
        self._peers = peers or Alone()
        self._dtype = torch.bfloat16 if bf16 else torch.float32

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        by_shape: dict[torch.Size, list[tuple[torch.Tensor, torch.Tensor]]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            momentum = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
            update = parameter.grad.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
            by_shape[parameter.shape].append((parameter, update))
        stacks = [torch.stack([update for _, update in pairs]) for pairs in by_shape.values()]
        self._orthogonalise(stacks, group["ns_steps"])
        for ((rows, columns), pairs), updates in zip(by_shape.items(), stacks, strict=True):
            rate = group["lr"] * math.sqrt(max(1.0, rows / columns))
            for (parameter, _), update in zip(pairs, updates, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-rate)

    def _orthogonalise(self, stacks: Sequence[torch.Tensor], iterations: int) -> None:
        """Orthogonalise each matrix of the stacks in place; with peers, every `world`-th of all matrices here."""
        rank, world, before = self._peers.rank, self._peers.world, 0
        for stack in stacks:
            mine = slice((rank - before) % world, None, world)
            before += len(stack)
            done = orthogonalise(stack[mine], iterations, self._dtype) if len(stack[mine]) else stack[mine]
            if world > 1:
                stack.zero_()
            stack[mine] = done
        if world > 1:
            self._peers.sum(stacks)
