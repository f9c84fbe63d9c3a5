"""A data re-uploading circuit as a torch layer, and the same circuit as a Qiskit template for a sampler.

The circuit (Perez-Salinas et al., Quantum 4, 226, 2020) repeats an input block `layers` times, each RY of every qubit
by an angle that depends on the input, RZ of every qubit by a weight, CZ around the ring, and ends with RY of every
qubit by a weight, because RZ and CZ directly before a measurement of Z change nothing. The outputs are the
expectations of Z of every qubit.

The layer simulates a batch of states in single precision and has a closed-form gradient: all RY of an input block are
one real matrix for each half of the qubits, RZ and CZ are one diagonal. One output gradient therefore costs about
three forward passes, whatever the number of parameters (adjoint differentiation, Jones and Gacon, arXiv 2009.02823,
with the states of all blocks kept).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from qiskit.primitives import BaseSamplerV2

LARGEST = 16  # qubits; the matrix of half of them has 2^16 entries for each input


@dataclass(frozen=True)
class _Patterns:
    """Constants of a number of qubits, by which the sums over basis states become matrix products.

    Attributes:
        halves: number of qubits in the upper and in the lower half; the upper half may be empty.
        signs: (n, 2^n), eigenvalue of Z of each qubit in each basis state.
        ring: (2^n,), phase of the CZ ring of each basis state, 0 or pi.
        turns: for each half, (4^h, h): derivative of the matrix of the half for the angle of each of its qubits.
    """

    halves: tuple[int, int]
    signs: torch.Tensor
    ring: torch.Tensor
    turns: tuple[torch.Tensor, torch.Tensor]


class _Expectations(torch.autograd.Function):
    """Expectations (batch, n) from angles of RY (batch, layers + 1, n) and of RZ (layers, n)."""

    @staticmethod
    def forward(ctx: Any, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        batch, blocks, n = y.shape
        patterns = _patterns(n, y.dtype)
        upper, lower = patterns.halves
        high, low = _matrices(y[..., lower:], upper), _matrices(y[..., :lower], lower)
        phases = patterns.ring - z @ patterns.signs / 2
        cosines, sines = (f(phases).view(-1, 1 << upper, 1 << lower) for f in (torch.cos, torch.sin))
        states = y.new_empty(blocks, batch, 1 << upper, 2, 1 << lower)
        states[0, :, :, 0] = high[:, 0, :, 0, None] * low[:, 0, None, :, 0]
        states[0, :, :, 1] = 0.0
        for block in range(1, blocks):
            turned = _turn_phases(states[block - 1], cosines[block - 1], sines[block - 1])
            _multiply(high[:, block], turned, low[:, block].mT, states[block])
        ctx.save_for_backward(high, low, cosines, sines, states)
        return (states[-1] ** 2).sum(2).flatten(1) @ patterns.signs.T

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        high, low, cosines, sines, states = ctx.saved_tensors
        blocks, batch, rows, _, columns = states.shape
        n = (rows * columns).bit_length() - 1
        patterns = _patterns(n, states.dtype)
        upward = 2 * states[-1] * (gradients[0] @ patterns.signs).view(batch, rows, 1, columns)
        crossed = (states.new_empty(batch, blocks, rows, rows), states.new_empty(batch, blocks, columns, columns))
        turned = states.new_empty(blocks - 1, rows, columns)
        for block in reversed(range(blocks)):
            state = states[block]
            torch.bmm(upward.flatten(2), state.flatten(2).mT, out=crossed[0][:, block])
            torch.bmm(upward.flatten(1, 2).mT, state.flatten(1, 2), out=crossed[1][:, block])
            if block == 0:
                break
            upward = _multiply(high[:, block].mT, upward, low[:, block], torch.empty_like(state))
            upward = _turn_phases(upward, cosines[block - 1], -sines[block - 1])
            before = states[block - 1]
            turned[block - 1] = (upward[:, :, 1] * before[:, :, 0] - upward[:, :, 0] * before[:, :, 1]).sum(0)
        parts = [pairs.flatten(2) @ turns for pairs, turns in zip(crossed, patterns.turns, strict=True)]
        return torch.cat(parts[::-1], dim=-1), turned.flatten(1) @ patterns.signs.T / -2


class CircuitLayer(torch.nn.Module):
    """The circuit as a layer from n inputs to n expectations in [-1, 1].

    Args:
        qubits: number of qubits, of inputs and of outputs, 1 to 16.
        layers: number of input blocks.
        scale: initial factor of the inputs before they become angles; it sets the bandwidth and matters more than the
            number of layers.
        generator: source of the initial weights, uniform in [-pi, pi] for RY and RZ.

    Raises:
        ValueError: no qubit, more than 16, or no layer.
    """

    def __init__(self, qubits: int, layers: int, scale: float = 0.5, generator: torch.Generator | None = None) -> None:
        super().__init__()
        _check(qubits, layers)
        self.qubits, self.layers = qubits, layers
        # Vectors, not matrices: an optimiser that makes updates of matrices orthogonal must leave angles alone.
        angles = (2 * torch.rand((2 * layers + 1) * qubits, generator=generator) - 1) * torch.pi
        self.scales = torch.nn.Parameter(torch.full((layers * qubits,), scale))
        self.turns = torch.nn.Parameter(angles[: (layers + 1) * qubits].clone())
        self.phases = torch.nn.Parameter(angles[(layers + 1) * qubits :].clone())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the expectations (..., n) of inputs (..., n)."""
        rows = inputs.reshape(-1, self.qubits)
        return expectations(self.angles(rows), self.phases.view(self.layers, -1)).view(inputs.shape)

    def angles(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the angles of RY (batch, layers + 1, n) for inputs (batch, n)."""
        turns = self.turns.view(self.layers + 1, -1)
        loaded = rows[:, None] * self.scales.view(self.layers, -1) + turns[:-1]
        return torch.cat([loaded, turns[-1].expand(len(rows), 1, -1)], dim=1)

    @torch.no_grad()
    def bindings(self, rows: torch.Tensor) -> NDArray[np.float64]:
        """Return the parameters (batch, (2 layers + 1) n) of `reuploading_circuit` for inputs (batch, n)."""
        y = self.angles(rows).flatten(1)
        table = torch.cat([y, self.phases.expand(len(y), -1)], dim=1)
        return np.asarray(table.cpu().numpy(), np.float64)

    def estimate(self, inputs: torch.Tensor, sampler: BaseSamplerV2, shots: int) -> torch.Tensor:
        """Estimate `forward` without gradient from shots: one circuit for each input, one PUB, one job."""
        rows = inputs.reshape(-1, self.qubits)
        circuit = reuploading_circuit(self.qubits, self.layers)
        means = estimate_expectations(circuit, self.bindings(rows), sampler, shots)
        return torch.from_numpy(means).to(inputs).view(inputs.shape)


def expectations(y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Return the expectations of Z (batch, n), differentiable once.

    Args:
        y: angles of RY (batch, layers + 1, n).
        z: angles of RZ (layers, n), the same for all inputs.

    Raises:
        ValueError: the shapes do not fit, or the circuit has no qubit, no layer or more than 16 qubits.
    """
    if y.ndim != 3 or z.ndim != 2 or (y.shape[1], y.shape[2]) != (len(z) + 1, z.shape[1]):
        raise ValueError(
            f"y {tuple(y.shape)} and z {tuple(z.shape)} should be (batch, layers + 1, qubits) and (layers, qubits)"
        )
    _check(z.shape[1], len(z))
    function: Any = _Expectations  # its `apply` is untyped
    found: torch.Tensor = function.apply(y, z)
    return found


def reuploading_circuit(qubits: int, layers: int) -> QuantumCircuit:
    """Return the measured template; its parameters are `y` block by block, then `z`, as `CircuitLayer.bindings` gives.

    Raises:
        ValueError: no qubit, more than 16, or no layer.
    """
    _check(qubits, layers)
    y, z = ParameterVector("y", (layers + 1) * qubits), ParameterVector("z", layers * qubits)
    circuit = QuantumCircuit(qubits, name=f"reuploading{qubits}x{layers}")
    for layer in range(layers):
        for qubit in range(qubits):
            circuit.ry(y[layer * qubits + qubit], qubit)
        for qubit in range(qubits):
            circuit.rz(z[layer * qubits + qubit], qubit)
        for pair in ring(qubits):
            circuit.cz(*pair)
    for qubit in range(qubits):
        circuit.ry(y[layers * qubits + qubit], qubit)
    circuit.measure_all()
    return circuit


def estimate_expectations(
    circuit: QuantumCircuit, bindings: NDArray[np.float64], sampler: BaseSamplerV2, shots: int
) -> NDArray[np.float64]:
    """Return the mean of Z of every qubit (batch, n) over the shots of each row of parameters; one PUB, one job.

    Raises:
        ValueError: `shots` is less than 1.
    """
    if shots < 1:
        raise ValueError(f"an estimate needs at least 1 shot, not {shots}")
    measured = sampler.run([(circuit, bindings)], shots=shots).result()[0].data.meas.array
    bits = np.unpackbits(measured, axis=-1)[..., ::-1][..., : circuit.num_qubits]
    return np.asarray(1.0 - 2.0 * bits.mean(axis=-2))


def ring(qubits: int) -> list[tuple[int, int]]:
    """Return the pairs of the CZ ring; two qubits have one pair, one qubit has none."""
    return [(q, (q + 1) % qubits) for q in range(qubits if qubits > 2 else qubits - 1)]


def _check(qubits: int, layers: int) -> None:
    if not 1 <= qubits <= LARGEST or layers < 1:
        raise ValueError(f"1 to {LARGEST} qubits and at least 1 layer are possible, not {qubits} and {layers}")


@cache
def _patterns(n: int, dtype: torch.dtype) -> _Patterns:
    bits = np.arange(1 << n)[None] >> np.arange(n)[:, None] & 1
    crossings = sum((bits[a] & bits[b] for a, b in ring(n)), np.zeros(1 << n, np.int64))
    halves = (n // 2, n - n // 2)
    return _Patterns(
        halves=halves,
        signs=torch.tensor(1 - 2 * bits, dtype=dtype),
        ring=torch.tensor(np.pi * (crossings & 1), dtype=dtype),
        turns=(_turns(halves[0], dtype), _turns(halves[1], dtype)),
    )


def _turns(h: int, dtype: torch.dtype) -> torch.Tensor:
    """Return, for each of h qubits, the real matrix of `-i Y / 2` on it as a column (4^h, h)."""
    columns = np.zeros((1 << h, 1 << h, h))
    states = np.arange(1 << h)
    for qubit in range(h):
        columns[states ^ 1 << qubit, states, qubit] = 0.5 - (states >> qubit & 1)
    return torch.tensor(columns.reshape(4**h, h), dtype=dtype)


def _matrices(angles: torch.Tensor, h: int) -> torch.Tensor:
    """Return the product of the RY of h qubits (batch, blocks, 2^h, 2^h); the first qubit is the lowest bit."""
    c, s = torch.cos(angles / 2), torch.sin(angles / 2)
    single = torch.stack([torch.stack([c, -s], dim=-1), torch.stack([s, c], dim=-1)], dim=-2)
    product = angles.new_ones(*angles.shape[:2], 1, 1)
    for qubit in range(h):
        product = (single[:, :, qubit, :, None, :, None] * product[:, :, None, :, None, :]).flatten(4, 5).flatten(2, 3)
    return product


def _multiply(left: torch.Tensor, state: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Write `left state right` for states (batch, rows, 2, columns) into `out` and return it."""
    half = torch.bmm(left, state.flatten(2)).view(state.shape[0], -1, state.shape[3])
    torch.bmm(half, right, out=out.view(half.shape))
    return out


def _turn_phases(state: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Multiply states (batch, rows, 2, columns) by `cosine + i sine`."""
    real, imaginary = state[:, :, 0], state[:, :, 1]
    return torch.stack([real * cosine - imaginary * sine, real * sine + imaginary * cosine], dim=2)
