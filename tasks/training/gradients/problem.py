"""The problem of `gradients`: a circuit layer that learns to tell two kinds of text apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.contract import Budget
from tasks.quantum.layer import expectations

GAIN = 4.0  # of the mean expectation before the logistic loss, so that a loss near 0 is possible
INPUT_SCALE = 1.0  # angle of a feature of one standard deviation


@dataclass(frozen=True)
class Texts:
    """Train the weights of a data re-uploading circuit.

    The circuit is `tasks.quantum.layer.reuploading_circuit`. Its output for a text is the mean of Z over the qubits,
    its loss `log(1 + exp(-GAIN label output))`.

    Attributes:
        inputs: float64, (n, qubits), features of the training texts, standardised.
        labels: int8, (n,), -1 or 1.
        held_out: float64, (m, qubits), features of the held-out texts.
        held_out_labels: int8, (m,).
        layers: input blocks of the circuit.
        seed: seed of the initial weights.
        budget: executions that a method may use.
    """

    inputs: NDArray[np.float64]
    labels: NDArray[np.int8]
    held_out: NDArray[np.float64]
    held_out_labels: NDArray[np.int8]
    layers: int
    seed: int
    budget: Budget

    @property
    def qubits(self) -> int:
        """Number of qubits."""
        return int(self.inputs.shape[1])

    @property
    def size(self) -> int:
        """Number of weights: for every qubit an RY and an RZ in each block, and an RY at the end."""
        return (2 * self.layers + 1) * self.qubits

    def start(self) -> NDArray[np.float64]:
        """Return the initial weights, small enough that gradients do not vanish (identity-like start); (size,)."""
        return np.random.default_rng(self.seed).normal(scale=0.3, size=self.size)


@dataclass(frozen=True)
class Trained:
    """The weights that a method found.

    Attributes:
        weights: RY block by block, then RZ block by block.
        path: executions so far and the weights, after each step.
    """

    weights: tuple[float, ...]
    path: tuple[tuple[int, tuple[float, ...]], ...]


def bindings(problem: Texts, weights: NDArray[np.float64], inputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the parameters of `reuploading_circuit` for weights (r, size) and inputs (b, qubits); (r, b, size)."""
    table = np.repeat(weights[:, None], len(inputs), axis=1)
    table[:, :, : problem.layers * problem.qubits] += INPUT_SCALE * np.tile(inputs, problem.layers)
    return table


def outputs(problem: Texts, weights: NDArray[np.float64], inputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the exact outputs of the circuit for weights (r, size) and inputs (b, qubits); (r, b)."""
    table = bindings(problem, weights, inputs)
    n, layers = problem.qubits, problem.layers
    y = torch.from_numpy(table[:, :, : (layers + 1) * n]).view(len(weights), -1, layers + 1, n)
    with torch.no_grad():
        found = [
            expectations(rows, torch.from_numpy(z).view(layers, n)).mean(-1).numpy()
            for rows, z in zip(y, weights[:, (layers + 1) * n :], strict=True)
        ]
    return np.stack(found)


def loss(out: NDArray[np.float64], labels: NDArray[np.int8]) -> NDArray[np.float64]:
    """Return the mean loss of outputs (..., b)."""
    return np.asarray(np.logaddexp(0, -GAIN * labels * out).mean(axis=-1))


def slope(out: NDArray[np.float64], labels: NDArray[np.int8]) -> NDArray[np.float64]:
    """Return the derivative of each text's loss by its output; the shape of `out`."""
    return np.asarray(-GAIN * labels / (1 + np.exp(GAIN * labels * out)))


def exact_gradient(
    problem: Texts, weights: NDArray[np.float64], rows: NDArray[np.int64]
) -> tuple[float, NDArray[np.float64]]:
    """Return the loss on some texts and its gradient by adjoint differentiation of the simulated circuit."""
    n, layers = problem.qubits, problem.layers
    free = torch.from_numpy(weights.copy()).requires_grad_()
    loaded = torch.from_numpy(INPUT_SCALE * problem.inputs[rows])[:, None].expand(-1, layers, -1)
    shift = torch.cat([loaded, torch.zeros(len(rows), 1, n, dtype=torch.float64)], dim=1)
    found = expectations(shift + free[: (layers + 1) * n].view(layers + 1, n), free[(layers + 1) * n :].view(layers, n))
    labels = torch.from_numpy(problem.labels[rows].astype(np.float64))
    value = torch.nn.functional.softplus(-GAIN * labels * found.mean(-1)).mean()
    value.backward()
    assert free.grad is not None  # noqa: S101  (for mypy)
    return value.item(), free.grad.numpy()


def quality(problem: Texts, solution: Trained) -> tuple[float, ...]:
    """Return minus the loss on the held-out texts, computed without shot noise."""
    out = outputs(problem, np.array([solution.weights]), problem.held_out)
    return (-float(loss(out, problem.held_out_labels)[0]),)


def training_losses(problem: Texts, solution: Trained, last: int | None = None) -> list[tuple[int, float]]:
    """Return the executions so far and the exact training loss after each of the last steps, by default of all.

    No arm computes this while it trains: a device could not, and nobody who trains one needs it.
    """
    return [
        (used, float(loss(outputs(problem, np.array([weights]), problem.inputs), problem.labels)[0]))
        for used, weights in solution.path[-last if last else None :]
    ]


def executions_to(curve: Sequence[tuple[int, float]], target: float) -> int | None:
    """Return the executions after which the training loss was first at most `target`, or None."""
    return next((used for used, value in curve if value <= target), None)
