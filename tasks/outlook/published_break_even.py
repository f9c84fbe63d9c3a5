"""The published break-even of a quantum head against its simulation, and the column that it left out.

arXiv 2605.02798 measured a trapped-ion system: its energy grows about linearly with the qubits, that of simulating the
same circuits doubles with each, and both meet at about 34 qubits. The paper's joules, shots and kilowatts could not be
read, so two things are computed: what the published crossing implies by itself, and the crossing by our coefficients.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

QUBITS = 34  # the published break-even
SHOTS = 1000  # assumed; the paper's number could not be read
GATES_A_QUBIT = 3  # of a shallow circuit, assumed
LOGISTIC_FLOPS = 1e10  # fitting a logistic regression on a few hundred embeddings of 768 numbers, assumed


def simulation_over_device(qubits: float, crossing: float = QUBITS) -> float:
    """Return joules of simulation over joules of the device, from the published shape alone: 2^(n - n*) n* / n."""
    return float(2.0 ** (qubits - crossing) * crossing / qubits)


def device_j(power: Array, job_s: Array, shot_s: Array) -> Array:
    """Return draws of the joules of one circuit on the device."""
    return np.asarray(power * (job_s + SHOTS * shot_s))


def simulation_j(qubits: float, joules_a_cpu_s: Array, updates_a_cpu_s: Array) -> Array:
    """Return draws of the joules of one statevector simulation: 2^n amplitudes updated by each gate."""
    return np.asarray(2.0**qubits * GATES_A_QUBIT * qubits / updates_a_cpu_s * joules_a_cpu_s)


def crossing_qubits(device: Array, joules_a_cpu_s: Array, updates_a_cpu_s: Array, largest: int = 80) -> Array:
    """Return draws of the number of qubits from which simulation takes more than the device."""
    found = np.full(len(device), np.inf)
    for qubits in range(largest, 0, -1):
        found = np.where(simulation_j(qubits, joules_a_cpu_s, updates_a_cpu_s) >= device, float(qubits), found)
    return found
