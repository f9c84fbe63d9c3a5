"""The circuit head: a data re-uploading circuit with a linear read-out, its input scale chosen on held-out labels.

Trained on the exact expectations (adjoint gradients on a computer), read by shots at inference: the published set-up
(Kim et al. 2025, arXiv 2504.08732; Knitter et al. 2026, arXiv 2605.02798) on one principal component for each qubit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy

from tasks.finetuning.head.problem import FewShot, FloatArray
from tasks.quantum.layer import CircuitLayer

SCALES = (0.1, 0.3, 0.6)  # radians for one standard deviation of a component
RATE, BATCH = 0.05, 32
HELD_OUT = 4  # every fourth labelled text chooses the scale


@dataclass(frozen=True)
class CircuitHead:
    """A trained circuit with its read-out."""

    circuit: CircuitLayer
    readout: nn.Linear

    def label(self, expectations: torch.Tensor) -> tuple[int, ...]:
        """Return the labels for expectations (m, qubits)."""
        with torch.inference_mode():
            return tuple(int(v) for v in self.readout(expectations).argmax(dim=1))


def train_head(problem: FewShot, rng: Generator) -> CircuitHead:
    """Train a head with every input scale, choose the best on held-out labels, and train it on all of them."""
    x, y, seed = problem.reduced[0], problem.labels, int(rng.integers(2**31))
    order = rng.permutation(len(y))
    held, kept = order[::HELD_OUT], np.delete(order, np.s_[::HELD_OUT])
    losses = []
    for scale in SCALES:
        head = _fit(problem, x[kept], y[kept], scale, seed)
        with torch.inference_mode():
            logits = head.readout(head.circuit(_tensor(x[held])))
        losses.append(float(cross_entropy(logits, torch.from_numpy(y[held]))))
    return _fit(problem, x, y, SCALES[int(np.argmin(losses))], seed)


def _fit(problem: FewShot, x: FloatArray, y: NDArray[np.int64], scale: float, seed: int) -> CircuitHead:
    generator = torch.Generator().manual_seed(seed)
    circuit = CircuitLayer(problem.components, problem.layers, scale, generator)
    readout = nn.Linear(problem.components, problem.classes)
    with torch.no_grad():
        readout.weight.copy_(0.5 * torch.randn(readout.weight.shape, generator=generator))
        readout.bias.zero_()
    optimizer = torch.optim.Adam([*circuit.parameters(), *readout.parameters()], lr=RATE)
    inputs, labels = _tensor(x), torch.from_numpy(y)
    for _ in range(problem.steps):
        rows = torch.randperm(len(y), generator=generator)[:BATCH]
        optimizer.zero_grad()
        cross_entropy(readout(circuit(inputs[rows])), labels[rows]).backward()
        optimizer.step()
    return CircuitHead(circuit, readout)


def _tensor(x: FloatArray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(x, np.float32))
