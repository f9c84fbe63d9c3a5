"""A quantum autoencoder: a circuit that is trained to compress normal states into fewer qubits.

Romero, Olson, Aspuru-Guzik, arXiv 1612.02806: after the encoder the `trash` qubits should be in |0>. The loss is the
rate at which they are not; for a single state that rate is its anomaly score. Real amplitudes suffice, so the encoder
consists of layers of RY and CZ. Training uses SPSA (Spall, IEEE TAC 37 (1992)): two evaluations per step, independent
of the number of angles, in one job.

The smallest possible loss follows from linear algebra: the best encoder maps the leading `2^(n - trash)` eigenvectors
of the mean state to the kept qubits, and its loss is the weight of the other eigenvectors.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit
from qiskit.circuit import ClassicalRegister, ParameterVector
from qiskit.primitives import BaseSamplerV2

from tasks.quantum.encodings import amplitude_angles, amplitude_circuit, qubits_for

FloatArray = NDArray[np.float64]


@cache
def autoencoder_circuit(qubits: int, trash: int, layers: int) -> QuantumCircuit:
    """Return loading, encoder and the measurement of the trash qubits; the loading's angles come first.

    Raises:
        ValueError: there is no trash qubit, or no kept qubit.
    """
    if not 0 < trash < qubits:
        raise ValueError(f"between 1 and {qubits - 1} of {qubits} qubits can be trash, not {trash}")
    circuit = QuantumCircuit(qubits)
    circuit.add_register(ClassicalRegister(trash, "meas"))
    circuit.compose(amplitude_circuit(qubits), inplace=True)
    angles = iter(ParameterVector("e", angles_for(qubits, layers)))
    for _ in range(layers):
        for qubit in range(qubits):
            circuit.ry(next(angles), qubit)
        for qubit in range(qubits if qubits > 2 else 1):  # with two qubits the ring is one edge
            circuit.cz(qubit, (qubit + 1) % qubits)
    for qubit in range(qubits):
        circuit.ry(next(angles), qubit)
    circuit.measure(range(trash), range(trash))
    return circuit


def angles_for(qubits: int, layers: int) -> int:
    """Return the number of angles of the encoder."""
    return qubits * (layers + 1)


def trash_rates(
    states: NDArray[np.floating[Any]], angles: FloatArray, trash: int, layers: int, sampler: BaseSamplerV2, shots: int
) -> FloatArray:
    """Estimate how often the trash is not |0>: (k, m) for k sets of angles (k, a) and m states, one job."""
    loading = amplitude_angles(states)
    qubits = int(loading.shape[1] + 1).bit_length() - 1
    circuit = autoencoder_circuit(qubits, trash, layers)
    names = [parameter.name for parameter in circuit.parameters]
    encoder = [i for i, name in enumerate(names) if name.startswith("e[")]
    values = np.empty((len(angles), len(states), len(names)))
    values[..., encoder] = angles[:, None, :]
    values[..., [i for i in range(len(names)) if i not in encoder]] = loading
    outcomes = sampler.run([(circuit, values)], shots=shots).result()[0].data.meas.array
    return np.asarray((outcomes != 0).any(axis=-1).mean(axis=-1), np.float64)


def exact_trash_rates(states: NDArray[np.floating[Any]], angles: FloatArray, trash: int, layers: int) -> FloatArray:
    """Return what `trash_rates` estimates at infinitely many shots: (k, m), from all amplitudes, without circuits."""
    unit = np.asarray(states, np.float64) / np.linalg.norm(states, axis=1, keepdims=True)
    qubits = qubits_for(unit.shape[1])
    index = np.arange(1 << qubits)
    signs = np.ones(1 << qubits)
    for qubit in range(qubits if qubits > 2 else 1):
        signs *= 1.0 - 2.0 * ((index >> qubit & 1) & (index >> (qubit + 1) % qubits & 1))
    clean = index & ((1 << trash) - 1) == 0
    found = []
    for row in angles:
        encoded = np.zeros((len(unit), 1 << qubits))
        encoded[:, : unit.shape[1]] = unit
        for layer in range(layers + 1):
            for qubit in range(qubits):
                encoded = _turned(encoded, qubit, row[layer * qubits + qubit])
            encoded = encoded * signs if layer < layers else encoded
        found.append(1 - np.square(encoded[:, clean]).sum(axis=1))
    return np.asarray(np.clip(np.stack(found), 0.0, 1.0))


def _turned(states: FloatArray, qubit: int, angle: float) -> FloatArray:
    """Return the states (m, 2^n) after RY on a qubit."""
    parts = states.reshape(len(states), -1, 2, 1 << qubit)
    zero, one = parts[:, :, 0], parts[:, :, 1]
    cosine, sine = np.cos(angle / 2), np.sin(angle / 2)
    turned = np.stack([cosine * zero - sine * one, sine * zero + cosine * one], axis=2)
    return np.asarray(turned.reshape(states.shape))


def train_autoencoder(
    states: FloatArray,
    layers: int,
    rates: Callable[[FloatArray, FloatArray], FloatArray],
    rng: np.random.Generator,
    *,
    steps: int,
    batch: int,
) -> FloatArray:
    """Return angles (a,) trained by SPSA on batches of the states.

    Args:
        states: (m, d).
        layers: layers of the encoder.
        rates: estimates the rates (k, m) of k sets of angles and m states; `2 * batch` of them are asked for in a step.
        rng: source of batches and directions.
        steps: number of steps.
        batch: states of a step.
    """
    qubits = qubits_for(states.shape[1])
    angles = rng.uniform(-0.1, 0.1, angles_for(qubits, layers))
    for step in range(steps):
        chosen = states[rng.permutation(len(states))[:batch]]
        width, rate = 0.25 / (step + 1) ** 0.101, 0.6 / (step + 1 + steps / 10) ** 0.602
        direction = rng.choice((-1.0, 1.0), len(angles))
        both = np.stack([angles + width * direction, angles - width * direction])
        up, down = rates(chosen, both).mean(axis=1)
        angles = angles - rate * (up - down) / (2 * width) * direction
    return angles


def best_loss(states: NDArray[np.floating[Any]], kept: int) -> tuple[FloatArray, float]:
    """Return the leading eigenvectors (d, 2^kept) of the mean state and the weight of the others: the least loss."""
    unit = states / np.linalg.norm(states, axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(unit.T @ unit / len(unit))
    leading = vectors[:, ::-1][:, : 1 << kept]
    return leading, float(values[::-1][1 << kept :].sum())
