"""Policies that choose the levels of a setting one after another, trained by REINFORCE while the campaign runs.

A policy gives four logits for each of the 21 states. After each round it moves towards the settings whose reward was
above the mean of all rewards so far (Williams, Machine Learning 8, 229, 1992), with a bonus for entropy. The circuit is
a softmax policy of a data re-uploading circuit with trained input scales and output weights (Jerbi et al.,
arXiv 2103.05577): one qubit for each action. It is trained in simulation (exact gradients); where it is executed, the
probabilities that the settings are drawn from come from measurements.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from tasks.finetuning.tuning_policy.space import LEVELS, STATES, states
from tasks.quantum.layer import CircuitLayer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.contract import Bench
    from tasks.finetuning.tuning_policy.problem import Ledger

HIDDEN, BLOCKS = 6, 3  # of the network and of the circuit: 58 and 44 weights


@dataclass(frozen=True)
class Tuning:
    """Settings of the training of a policy, chosen by `python -m benchmarks.tuning tune` on cells outside the bank.

    Attributes:
        rate: learning rate of Adam.
        scale: of the initial weights of the network, or of the inputs of the circuit.
        entropy: weight of the entropy bonus.
        steps: steps of Adam after each round.
    """

    rate: float
    scale: float = 1.0
    entropy: float = 0.0
    steps: int = 1


class Table(nn.Module):
    """Four free logits for each state."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(STATES, LEVELS))

    def forward(self) -> torch.Tensor:
        """Return the logits, (21, 4)."""
        return 1.0 * self.table


class Network(nn.Module):
    """One hidden layer of six units from the four inputs of a state to four logits.

    Args:
        scale: factor of the initial weights.
        generator: source of the initial weights.
    """

    def __init__(self, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(LEVELS, HIDDEN), nn.Linear(HIDDEN, LEVELS)
        with torch.no_grad():
            for layer in (self.first, self.second):
                layer.weight.copy_(scale * torch.randn(layer.weight.shape, generator=generator))
                layer.weight.div_(layer.in_features**0.5)
                layer.bias.zero_()

    def forward(self) -> torch.Tensor:
        """Return the logits, (21, 4)."""
        logits: torch.Tensor = self.second(torch.tanh(self.first(INPUTS)))
        return logits


class Circuit(nn.Module):
    """The expectations of four qubits, each times a weight, as logits.

    Args:
        scale: initial factor of the inputs.
        generator: source of the initial weights.
    """

    def __init__(self, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        self.layer = CircuitLayer(LEVELS, BLOCKS, scale, generator)
        self.weights = nn.Parameter(torch.ones(LEVELS))

    def forward(self) -> torch.Tensor:
        """Return the logits of the exact expectations, (21, 4)."""
        logits: torch.Tensor = self.weights * self.layer(INPUTS)
        return logits

    @torch.no_grad()
    def measured(self, bench: Bench, shots: int) -> torch.Tensor:
        """Return the logits of measured expectations, (21, 4): 21 circuits, one job."""
        return self.weights * self.layer.estimate(INPUTS, bench.sampler, shots)


INPUTS = torch.tensor(states(), dtype=torch.float32)


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Return the probability of every setting, (64,), from the logits of every state (21, 4)."""
    step = logits.softmax(dim=1)
    first, second, third = step[0], step[1 : 1 + LEVELS], step[1 + LEVELS :].view(LEVELS, LEVELS, LEVELS)
    return (first[:, None, None] * second[:, :, None] * third).flatten()


def reinforce(
    policy: nn.Module, tuning: Tuning, ledger: Ledger, bench: Bench, read: Callable[[], torch.Tensor] | None = None
) -> None:
    """Let a policy choose all episodes of a campaign and learn from each round.

    Args:
        policy: returns the logits of all states.
        tuning: how it learns.
        ledger: makes the runs.
        bench: gives the random numbers.
        read: returns the logits that settings are drawn from; None = those of the policy.
    """
    adam = torch.optim.Adam(policy.parameters(), lr=tuning.rate)
    while ledger.left:
        with torch.no_grad():
            law = probabilities(read() if read else policy()).double().numpy()
        chosen = bench.rng.choice(len(law), ledger.together, p=law / law.sum())
        ledger.run(chosen.tolist())
        advantage = torch.from_numpy(ledger.standardised[-len(chosen) :]).float()
        for _ in range(tuning.steps):
            adam.zero_grad()
            law_now = probabilities(policy()).clamp_min(1e-12)
            entropy = -(law_now * law_now.log()).sum()
            loss = -(advantage * law_now[torch.from_numpy(chosen)].log()).mean() - tuning.entropy * entropy
            loss.backward()
            adam.step()


def generator_of(bench: Bench) -> torch.Generator:
    """Return a source of initial weights."""
    return torch.Generator().manual_seed(int(bench.rng.integers(2**31)))
