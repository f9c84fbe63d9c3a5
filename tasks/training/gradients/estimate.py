"""Measures the outputs of the circuit with shots, within a budget, or computes them exactly for the twins."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector

from tasks.quantum.layer import estimate_expectations, reuploading_circuit, ring
from tasks.training.gradients.problem import Texts, Trained, bindings, outputs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tasks.contract import Bench


class Spent(Exception):
    """The next step does not fit the budget."""


class Training:
    """The state of one training: weights, executions so far, the path of the weights.

    Args:
        problem: what is trained.
        bench: gives the sampler and the random numbers.
        exact: compute instead of measure; the executions that measuring would have taken are counted all the same.
    """

    def __init__(self, problem: Texts, bench: Bench, *, exact: bool = False) -> None:
        self.problem, self.bench, self.exact = problem, bench, exact
        self.weights = problem.start()
        self.executions = 0
        self.path: list[tuple[int, tuple[float, ...]]] = []
        self._circuit = reuploading_circuit(problem.qubits, problem.layers)

    @property
    def limit(self) -> int:
        """Executions of the budget."""
        return self.problem.budget.executions or 0

    def rows(self, count: int) -> NDArray[np.int64]:
        """Draw the training texts of a step."""
        n = len(self.problem.labels)
        return np.asarray(self.bench.rng.permutation(n)[: min(count, n)])

    def outputs(self, weights: NDArray[np.float64], rows: NDArray[np.int64], shots: int) -> NDArray[np.float64]:
        """Estimate the outputs for weights (r, size) and some training texts, all in one job; (r, len(rows)).

        Raises:
            Spent: that many executions are not left.
        """
        inputs = self.problem.inputs[rows]
        self.pay(len(weights) * len(inputs) * shots)
        if self.exact:
            return outputs(self.problem, weights, inputs)
        table = bindings(self.problem, weights, inputs).reshape(-1, self.problem.size)
        means: NDArray[np.float64] = estimate_expectations(self._circuit, table, self.bench.sampler, shots).mean(
            axis=-1
        )
        return means.reshape(len(weights), len(inputs))

    def pay(self, executions: int) -> None:
        """Count executions before they are made."""
        if self.executions + executions > self.limit:
            raise Spent
        self.executions += executions

    def step(self, change: NDArray[np.float64]) -> None:
        """Change the weights and note them."""
        self.weights = self.weights + change
        self.path.append((self.executions, tuple(self.weights.tolist())))

    def result(self) -> Trained:
        """Return the weights and their path."""
        return Trained(tuple(self.weights.tolist()), tuple(self.path))

    def overlaps(self, pairs: NDArray[np.float64], row: int, shots: int) -> NDArray[np.float64]:
        """Estimate the overlaps of the states of pairs of weights (r, 2, size) for one training text; (r,)."""
        self.pay(len(pairs) * shots)
        inputs = self.problem.inputs[[row]]
        first, second = (bindings(self.problem, pairs[:, side], inputs)[:, 0] for side in (0, 1))
        circuit = overlap_circuit(self.problem.qubits, self.problem.layers)
        found = self.bench.sampler.run([(circuit, np.hstack([first, second]))], shots=shots).result()[0].data.meas
        return np.asarray(1.0 - found.array.any(axis=-1).mean(axis=-1))

    def metric(self, row: int, shots: int) -> NDArray[np.float64]:
        """Estimate the block-diagonal Fubini-Study metric for one training text: a circuit for each block of gates.

        The metric of a block is a quarter of the covariance of its generators in the state before it (Stokes et al.,
        Quantum 4, 269, 2020): Y of every qubit for a block of RY, Z for a block of RZ.

        Returns:
            (size, size).
        """
        n, layers = self.problem.qubits, self.problem.layers
        table = bindings(self.problem, self.weights[None], self.problem.inputs[[row]])[0, 0]
        circuits = block_circuits(table, n, layers)
        self.pay(len(circuits) * shots)
        results = self.bench.sampler.run(circuits, shots=shots).result()
        found = np.zeros((self.problem.size, self.problem.size))
        for block, result in enumerate(results):
            signs = 1.0 - 2.0 * result.data.meas.to_bool_array(order="little").astype(np.float64)
            here = slice(block * n, (block + 1) * n)
            found[here, here] = np.cov(signs, rowvar=False, bias=True) / 4
        return found


@cache
def overlap_circuit(qubits: int, layers: int) -> QuantumCircuit:
    """Return the measured circuit whose probability of all zeros is the overlap of the states of two parameter sets."""
    first, second = reuploading_circuit(qubits, layers), reuploading_circuit(qubits, layers)
    for circuit in (first, second):
        circuit.remove_final_measurements()
    size = first.num_parameters
    a, b = ParameterVector("a", size), ParameterVector("b", size)
    made = first.assign_parameters(a).compose(second.assign_parameters(b).inverse())
    made.measure_all()
    return made


def block_circuits(table: NDArray[np.float64], n: int, layers: int) -> list[QuantumCircuit]:
    """Return the circuit before each block of gates, RY blocks first, measured in the basis of its generators."""
    turns, phases = table[: (layers + 1) * n].reshape(layers + 1, n), table[(layers + 1) * n :].reshape(layers, n)
    before_y: list[QuantumCircuit] = []
    before_z: list[QuantumCircuit] = []
    circuit = QuantumCircuit(n)
    for layer in range(layers + 1):
        measured = circuit.copy()
        measured.sdg(range(n))
        measured.h(range(n))
        measured.measure_all()
        before_y.append(measured)
        if layer == layers:
            break
        for qubit in range(n):
            circuit.ry(float(turns[layer, qubit]), qubit)
        measured = circuit.copy()
        measured.measure_all()
        before_z.append(measured)
        for qubit in range(n):
            circuit.rz(float(phases[layer, qubit]), qubit)
        for pair in ring(n):
            circuit.cz(*pair)
    return before_y + before_z
