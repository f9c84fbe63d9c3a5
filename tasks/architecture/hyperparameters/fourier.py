"""A Fourier series as the model of the loss: the outputs of a data re-uploading circuit, or a ridge regression.

Every level of a setting turns one qubit by at most 90 degrees in each of two blocks, so the model is a truncated
Fourier series with the frequencies 0, 90 and 180 degrees in every dimension (Schuld, Sweke, Meyer, Phys. Rev. A 103,
032430, 2021). The ridge regression has all products of these frequencies with free coefficients; the circuit's
coefficients hang together by its 30 angles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from tasks.architecture.hyperparameters.space import SPACE, unit
from tasks.architecture.hyperparameters.surrogates import ALPHAS, standardised
from tasks.quantum.layer import CircuitLayer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tasks.combinatorial.qubo import Floats
    from tasks.contract import Bench

BLOCKS, TURN = 2, np.pi / 2
STEPS, RATE, DECAY = 60, 0.1, 1e-2  # of Adam; weight decay of the readout
SHOTS = 128


def rank_by_ridge(settings: NDArray[np.int64], losses: Floats) -> NDArray[np.int64]:
    """Return all settings, the lowest prediction of the ridge regression first; the penalty by leave-one-out errors.

    The kernel of the products of frequencies is `prod_d (1 + 2 sum_k cos(k TURN (x_d - y_d)))`, here divided by its
    value at zero. The leave-one-out error of a kernel ridge regression is `(A^-1 y)_i / (A^-1)_ii`.
    """
    apart = unit()[:, None] - unit()[settings][None]
    waves = 1 + 2 * sum(np.cos(k * TURN * apart) for k in range(1, BLOCKS + 1))
    kernel = np.asarray(waves / (1 + 2 * BLOCKS)).prod(axis=-1)
    target, known = standardised(losses), kernel[settings]
    best, found = np.inf, np.zeros(len(target))
    for alpha in ALPHAS:
        inverse = np.linalg.inv(known + alpha * np.eye(len(target)))
        error = float(np.square(inverse @ target / np.diag(inverse)).mean())
        if error < best:
            best, found = error, inverse @ target
    return np.argsort(kernel @ found, kind="stable")


def rank_by_circuit(
    settings: NDArray[np.int64], losses: Floats, bench: Bench, *, exact: bool = False
) -> NDArray[np.int64]:
    """Return all settings, the lowest prediction of the trained circuit first.

    The circuit is trained in simulation (exact gradients) and predicts from measurements: one circuit for each
    setting, all in one job.

    Args:
        settings: evaluated settings.
        losses: their losses.
        bench: gives the sampler and the initial weights.
        exact: predict with exact expectations instead of measurements.
    """
    points = torch.from_numpy(2 * unit() - 1).float()
    target = torch.from_numpy(standardised(losses)).float()
    generator = torch.Generator().manual_seed(int(bench.rng.integers(2**31)))
    layer = CircuitLayer(len(SPACE), BLOCKS, TURN / 2, generator)  # the inputs go from -1 to 1
    layer.scales.requires_grad_(False)
    readout = torch.zeros(len(SPACE) + 1, requires_grad=True)
    known = points[torch.from_numpy(settings)]
    groups = [
        {"params": [layer.turns, layer.phases], "weight_decay": 0.0},
        {"params": [readout], "weight_decay": DECAY},
    ]
    adam = torch.optim.AdamW(groups, lr=RATE)
    for _ in range(STEPS):
        adam.zero_grad()
        predicted = layer(known) @ readout[:-1] + readout[-1]
        (predicted - target).square().mean().backward()
        adam.step()
    with torch.no_grad():
        outputs = layer(points) if exact else layer.estimate(points, bench.sampler, SHOTS)
        values = (outputs @ readout[:-1] + readout[-1]).numpy()
    return np.argsort(values, kind="stable")
