"""A truncated Fourier series of the loss over the hyperparameters, by a circuit and by ridge regression.

A circuit that loads an input angle L times is a Fourier series of degree L in it (Schuld, Sweke and Meyer, Phys. Rev. A
103, 032430, 2021). Settings are laid on half a period, so that the ends of a range are not neighbours. The circuit is
the re-uploading circuit of `tasks.quantum.layer` with fixed frequencies and a linear read-out, trained by least squares.

Ridge regression on all products of these frequencies, each weighted by the number of ways in which the circuit can make
it, has the kernel `prod_d cos(delta_d / 2)^(2 L)`: the classical surrogate of the same series.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tasks.architecture.hyperparameters.space import SPACE, levels
from tasks.quantum.layer import CircuitLayer

Floats = NDArray[np.float64]

QUBITS, LAYERS = len(SPACE), 2
FIRST_STEPS, STEPS, RATE = 150, 40, 0.05  # of the first fit and of each further one
PENALTIES = tuple(10.0 ** np.arange(-4, 2))


@cache
def angles() -> Floats:
    """Return every setting as angles (256, 6) in [0, pi): level k of m is k pi / m."""
    found: Floats = np.pi * levels() / np.array([len(dimension.levels) for dimension in SPACE])
    found.setflags(write=False)
    return found


class FourierCircuit:
    """The circuit with its read-out; each fit goes on from the weights of the one before."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.circuit = CircuitLayer(QUBITS, LAYERS, 1.0, generator)
        self.circuit.scales.requires_grad_(False)  # the frequencies are those of the series
        self.readout = nn.Linear(QUBITS, 1)
        with torch.no_grad():
            self.readout.weight.zero_()
            self.readout.bias.zero_()
        trained = [p for p in (*self.circuit.parameters(), *self.readout.parameters()) if p.requires_grad]
        self._optimizer = torch.optim.Adam(trained, lr=RATE)
        self._steps = FIRST_STEPS

    def fit(self, settings: NDArray[np.int64], target: Floats) -> None:
        """Minimise the squared error of the exact expectations on the evaluated settings."""
        inputs = torch.from_numpy(angles()[settings].astype(np.float32))
        wanted = torch.from_numpy(target.astype(np.float32))
        for _ in range(self._steps):
            self._optimizer.zero_grad()
            nn.functional.mse_loss(self.readout(self.circuit(inputs))[:, 0], wanted).backward()
            self._optimizer.step()
        self._steps = STEPS

    def read(self, expectations: torch.Tensor) -> Floats:
        """Return the series at expectations (m, 6)."""
        with torch.inference_mode():
            return np.asarray(self.readout(expectations)[:, 0].numpy(), np.float64)


def ridge_series(settings: NDArray[np.int64], target: Floats) -> Floats:
    """Return the ridge fit at all settings (256,); its penalty has the lowest leave-one-out error."""
    at = angles()
    across = np.prod(np.cos((at[:, None] - at[settings][None]) / 2) ** (2 * LAYERS), axis=2)  # (256, n)
    values, vectors = np.linalg.eigh(across[settings])
    turned, best, lowest = vectors.T @ target, target, np.inf
    for penalty in PENALTIES:
        inverse = 1 / (np.maximum(values, 0) + penalty)
        dual = vectors @ (inverse * turned)
        errors = dual / np.einsum("ij,j,ij->i", vectors, inverse, vectors)  # leave one out, in closed form
        error = float(errors @ errors)
        if error < lowest:
            best, lowest = dual, error
    return np.asarray(across @ best)
