"""Kernels of IQP states: fidelity, Hamming-weighted outcomes of the same circuits, and the projected kernel.

Features x become phases `c x_i` of single qubits and `c^2 x_i x_j` of pairs; c is the bandwidth (Shaydulin and Wild,
arXiv 2111.05451). One layer of phases D between Hadamards makes the state `D H |0>` (Shepherd and Bremner, arXiv
0809.0847; as a feature map Havlicek et al., arXiv 1804.11326, with two layers). Undoing the preparation of y after that
of x leaves the phases' difference between Hadamards, one layer for both, and outcomes whose distribution is the same
for (x, y) and (y, x). From them follow

* the fidelity, the share of shots without a one;
* the Hamming kernel, shots weighted by their number of ones. That all outcomes are used is the idea of arXiv
  2605.31449; the weights here, `share^ones`, are ours. Share 0 is the fidelity, share 1 is constant.

The projected kernel (Huang et al., arXiv 2011.01938) measures the qubits of a state of two layers one by one in three
bases and takes a Gaussian of their Bloch vectors: circuits grow with the number of texts, not of pairs.

Everything here is also computed without circuits, by sums over 2^n amplitudes: the twins of the quantum arms.
"""

from __future__ import annotations

from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from qiskit.primitives import BaseSamplerV2

FloatArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]
BASES = "XYZ"
LARGEST = 12  # qubits of the exact sums


def iqp_phases(features: NDArray[np.floating[Any]], bandwidth: float) -> FloatArray:
    """Return the phases (m, n + n (n - 1) / 2) of the rows of features (m, n): single qubits, then pairs."""
    scaled = bandwidth * np.asarray(features, np.float64)
    first, second = _pairs(scaled.shape[1])
    return np.hstack([scaled, scaled[:, first] * scaled[:, second]])


def estimate_weights(
    phases: FloatArray, pairs: NDArray[np.integer[Any]], sampler: BaseSamplerV2, shots: int
) -> FloatArray:
    """Estimate for each pair (p, 2) of rows of `phases` how often k of n qubits are one: (p, n + 1), one job.

    Raises:
        ValueError: no shots.
    """
    if shots < 1:
        raise ValueError(f"an estimate needs at least 1 shot, not {shots}")
    n = _qubits(phases)
    if not len(pairs):
        return np.zeros((0, n + 1))
    values = phases[pairs[:, 0]] - phases[pairs[:, 1]]
    outcomes = sampler.run([(overlap_circuit(n), values)], shots=shots).result()[0].data.meas.array
    ones = np.bitwise_count(outcomes).sum(axis=-1)
    return np.stack([(ones == k).mean(axis=-1) for k in range(n + 1)], axis=-1)


def exact_weights(phases: FloatArray, pairs: NDArray[np.integer[Any]]) -> FloatArray:
    """Return what `estimate_weights` estimates, without shot noise."""
    n = _qubits(phases)
    ones = np.bitwise_count(np.arange(1 << n))
    by_weight = (ones[:, None] == np.arange(n + 1)).astype(np.float64)
    found = [np.zeros((0, n + 1))]
    for part in np.array_split(pairs, max(1, len(pairs) >> 10)):  # a part of the pairs in memory at a time
        amplitudes = _hadamards(_diagonal(phases[part[:, 0]] - phases[part[:, 1]])) / 2**n
        found.append(np.square(np.abs(amplitudes)) @ by_weight)
    return np.vstack(found)


def hamming_kernel(weights: FloatArray, share: float) -> FloatArray:
    """Return the kernel value of each row of weights (p, n + 1): the mean of `share^ones`, at share 0 the fidelity."""
    return np.asarray(weights @ np.power(share, np.arange(weights.shape[1], dtype=np.float64)))


def estimate_bloch(phases: FloatArray, sampler: BaseSamplerV2, shots: int) -> FloatArray:
    """Estimate the Bloch vectors of the qubits of the state of two layers: (m, 3 n), three circuits a row, one job."""
    if shots < 1:
        raise ValueError(f"an estimate needs at least 1 shot, not {shots}")
    n = _qubits(phases)
    found = []
    for result in sampler.run([(bloch_circuit(n, basis), phases) for basis in BASES], shots=shots).result():
        bits = np.unpackbits(result.data.meas.array, axis=-1, bitorder="big")[..., ::-1][..., :n]
        found.append(1 - 2 * bits.mean(axis=-2))
    return np.hstack(found)


def exact_bloch(phases: FloatArray) -> FloatArray:
    """Return what `estimate_bloch` estimates, without shot noise."""
    n = _qubits(phases)
    diagonal = _diagonal(phases)
    state = _hadamards(diagonal) * diagonal / 2**n
    found: list[FloatArray] = [np.zeros((len(state), n)) for _ in BASES]
    for qubit in range(n):
        parts = state.reshape(len(state), -1, 2, 1 << qubit)
        zero, one = parts[:, :, 0], parts[:, :, 1]
        coherence = 2 * (zero.conj() * one).sum(axis=(1, 2))
        found[0][:, qubit], found[1][:, qubit] = coherence.real, coherence.imag
        found[2][:, qubit] = (np.square(np.abs(zero)) - np.square(np.abs(one))).sum(axis=(1, 2))
    return np.hstack(found)


def exact_fidelity_gram(phases: FloatArray) -> FloatArray:
    """Return the fidelities (m, m) of all states of one layer by one matrix product."""
    states = _diagonal(phases) / 2 ** (_qubits(phases) / 2)
    return np.asarray(np.square(np.abs(states @ states.conj().T)))


@cache
def overlap_circuit(qubits: int) -> QuantumCircuit:
    """Return the measured template whose parameters are the difference of two rows of `iqp_phases`."""
    circuit = QuantumCircuit(qubits, name=f"iqp{qubits}")
    angles = ParameterVector("p", _phases(qubits))
    circuit.h(range(qubits))
    _append_phases(circuit, angles)
    circuit.h(range(qubits))
    circuit.measure_all()
    return circuit


@cache
def bloch_circuit(qubits: int, basis: str) -> QuantumCircuit:
    """Return the measured template of the state of two layers in a basis, X, Y or Z, of every qubit."""
    circuit = QuantumCircuit(qubits, name=f"projected{qubits}{basis}")
    angles = ParameterVector("p", _phases(qubits))
    for _ in range(2):
        circuit.h(range(qubits))
        _append_phases(circuit, angles)
    if basis == "Y":
        circuit.sdg(range(qubits))
    if basis in "XY":
        circuit.h(range(qubits))
    circuit.measure_all()
    return circuit


def _append_phases(circuit: QuantumCircuit, angles: ParameterVector) -> None:
    n = circuit.num_qubits
    for qubit in range(n):
        circuit.rz(angles[qubit], qubit)
    for position, (first, second) in enumerate(combinations(range(n), 2), n):
        circuit.rzz(angles[position], first, second)


def _phases(qubits: int) -> int:
    return qubits * (qubits + 1) // 2


def _qubits(phases: FloatArray) -> int:
    n = int((np.sqrt(8 * phases.shape[1] + 1) - 1) // 2)
    if not 1 <= n <= LARGEST or _phases(n) != phases.shape[1]:
        raise ValueError(f"{phases.shape[1]} phases belong to no number of qubits from 1 to {LARGEST}")
    return n


def _pairs(qubits: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    first, second = np.triu_indices(qubits, 1)
    return first, second


def _diagonal(phases: FloatArray) -> ComplexArray:
    """Return the entries (m, 2^n) of the layer of phases; bit k of the index is qubit k."""
    n = _qubits(phases)
    signs = 1.0 - 2.0 * ((np.arange(1 << n) >> np.arange(n)[:, None]) & 1)
    first, second = _pairs(n)
    table = np.vstack([signs, signs[first] * signs[second]])
    return np.asarray(np.exp(-0.5j * (phases @ table)))


def _hadamards(rows: ComplexArray) -> ComplexArray:
    """Return the rows (m, 2^n) after a Hadamard without its factor on every qubit: the Walsh-Hadamard transform."""
    m, size = rows.shape
    result, half = rows, 1
    while half < size:
        parts = result.reshape(m, -1, 2, half)
        zero, one = parts[:, :, 0], parts[:, :, 1]
        result = np.stack([zero + one, zero - one], axis=2).reshape(m, size)
        half *= 2
    return result
