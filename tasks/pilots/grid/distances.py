"""Two further circuits for distances: a swap test of angle-encoded days, and overlaps side by side on one wide device.

The other forms are in `tasks.quantum.kmeans`.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from qiskit.primitives import BaseSamplerV2

from tasks.quantum.encodings import amplitude_angles, overlap_angles, overlap_circuit, qubits_for
from tasks.quantum.kmeans import FloatArray


def day_angles(rows: FloatArray) -> FloatArray:
    """Return the polar and azimuth angles (m, 2 q) of values in [-1, 1], two values a qubit: `(value + 1) pi / 2`."""
    padded = np.hstack([rows, np.zeros((len(rows), rows.shape[1] % 2))])
    return np.asarray((np.clip(padded, -1, 1) + 1) * np.pi / 2)


def bloch_vectors(angles: FloatArray) -> FloatArray:
    """Return the Bloch vectors (m, q, 3) of the qubits."""
    polar, azimuth = angles[:, 0::2], angles[:, 1::2]
    parts = (np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar))
    return np.stack(parts, axis=-1)


def exact_angle_fidelities(points: FloatArray, centroids: FloatArray) -> FloatArray:
    """Return the fidelities (n, k) of product states: of each qubit `(1 + u v) / 2` for Bloch vectors u and v."""
    left, right = (bloch_vectors(day_angles(rows)) for rows in (points, centroids))
    return np.asarray(np.prod((1 + np.einsum("nqx,kqx->nkq", left, right)) / 2, axis=2))


@cache
def angle_swap_circuit(qubits: int) -> QuantumCircuit:
    """Return the measured swap test of two product states: outcome 1 with probability `(1 - fidelity) / 2`."""
    circuit = QuantumCircuit(2 * qubits + 1, 1, name=f"angle-swap{qubits}")
    angles = ParameterVector("a", 4 * qubits)
    for register in range(2):
        for qubit in range(qubits):
            at = register * qubits + qubit
            circuit.ry(angles[2 * at], at)
            circuit.rz(angles[2 * at + 1], at)
    control = 2 * qubits
    circuit.h(control)
    for qubit in range(qubits):
        circuit.cswap(control, qubit, qubits + qubit)
    circuit.h(control)
    circuit.measure(control, 0)
    return circuit


def swap_angle_fidelities(points: FloatArray, centroids: FloatArray, sampler: BaseSamplerV2, shots: int) -> FloatArray:
    """Estimate the fidelities (n, k) by the swap test: n k circuits, one job."""
    left, right = day_angles(points), day_angles(centroids)
    both = np.hstack([np.repeat(left, len(right), axis=0), np.tile(right, (len(left), 1))])
    circuit = angle_swap_circuit(left.shape[1] // 2)
    ones = sampler.run([(circuit, both)], shots=shots).result()[0].data.c.array[..., 0].mean(axis=-1)
    return np.asarray((1 - 2 * ones).reshape(len(left), len(right)))


@cache
def side_by_side_circuit(qubits: int, copies: int) -> QuantumCircuit:
    """Return the measured compute-uncompute circuit `copies` times on disjoint qubits, each with its own parameters."""
    one = overlap_circuit(qubits).copy()
    one.remove_final_measurements()
    names = list(one.parameters)
    angles = ParameterVector("a", copies * len(names))
    circuit = QuantumCircuit(copies * qubits, name=f"overlap{qubits}x{copies}")
    for copy in range(copies):
        own = dict(zip(names, angles[copy * len(names) : (copy + 1) * len(names)], strict=True))
        circuit.compose(one.assign_parameters(own), range(copy * qubits, (copy + 1) * qubits), inplace=True)
    circuit.measure_all()
    return circuit


def side_by_side_inner_products(
    points: FloatArray, centroids: FloatArray, sampler: BaseSamplerV2, shots: int, copies: int
) -> FloatArray:
    """Estimate inner products by compute-uncompute, `copies` pairs in one circuit; n k / copies circuits, one job."""
    n, k, qubits = len(points), len(centroids), qubits_for(points.shape[1])
    left, right = amplitude_angles(points), amplitude_angles(centroids)
    pairs = overlap_angles(np.repeat(left, k, axis=0), np.tile(right, (n, 1)))
    rows = -(-n * k // copies)
    padded = np.vstack([pairs, np.repeat(pairs[-1:], rows * copies - n * k, axis=0)])
    circuit = side_by_side_circuit(qubits, copies)
    found = sampler.run([(circuit, padded.reshape(rows, -1))], shots=shots).result()[0].data.meas.array
    bits = np.unpackbits(found, axis=-1, bitorder="big")[..., ::-1][..., : copies * qubits]
    zero = ~bits.reshape(rows, shots, copies, qubits).any(axis=-1)
    return np.asarray(np.sqrt(zero.mean(axis=1)).reshape(-1)[: n * k].reshape(n, k))
