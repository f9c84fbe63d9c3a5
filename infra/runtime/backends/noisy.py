"""A device snapshot as a backend: its basis gates, its coupling map, and Aer's noise from its calibration.

Before compilation the device is reduced to a region with small errors, little larger than the circuit: a noise model of
all 133 qubits takes nine seconds to build, one of nine qubits a fifth of a second; circuits of the same size share it.

The noise model does not include crosstalk, leakage, drift, and the decoherence of idle qubits.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit
from qiskit.circuit import CircuitInstruction
from qiskit.providers import BackendV2, Options
from qiskit.transpiler import Target, generate_preset_pass_manager
from qiskit_aer import AerSimulator
from qiskit_aer.noise import NoiseModel

from infra.errors import BadInput
from infra.runtime.backends.aer import Clock, Prepared, Simulator, branches, run_aer, unpack
from infra.runtime.backends.contract import SEED_STEP, Task, derive_seed
from infra.runtime.backends.templates import make_template
from infra.runtime.backends.usage import LEVEL, SEED_TRANSPILER, shannon_gates
from infra.runtime.circuits.observables import Measurements, measured_in, shots_for
from infra.runtime.limits import Limits

DENSITY_QUBITS = 12  # a density matrix of 12 qubits holds 268 MB
ROUTING = 5  # two-qubit gates of the device for each one of the algorithm
DENSITY_FACTOR = 4  # measured: one density matrix takes as long as about 2^n / 4 trajectories


@dataclass(frozen=True)
class Region:
    """Part of a device with its noise."""

    qubits: tuple[int, ...]
    target: Target
    noise: NoiseModel
    cpu_s: float


class NoisySimulator(Simulator):
    """Simulation with the noise, coupling map and basis gates of a device snapshot."""

    def __init__(self, name: str, device: BackendV2) -> None:
        super().__init__(f"noisy:{name}", Limits(parts=64, sets=256, samples=500_000))
        self._device = device
        self._regions: dict[int, Region] = {}

    def effective(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of the transpiler; error suppression has no effect on a simulator."""
        return {name: options[name] for name in ("optimization_level", "seed_transpiler") if name in options}

    def expected_cpu_s(self, circuit: QuantumCircuit, circuits: int, shots: int) -> float:
        """Return the approximate time of the noisy simulation: the order of magnitude, to refuse infeasible ones.

        A rough fit: one trajectory takes 40 us + 2^n x 30 ns for each two-qubit gate of the device, of which there
        are about five for each one of the algorithm.
        """
        qubits = circuit.num_qubits
        gates = ROUTING * sum(_two_qubit_gates(item) for item in circuit.data)
        trajectories = min(shots, 2**qubits / DENSITY_FACTOR) if qubits <= DENSITY_QUBITS else shots
        return float(circuits * trajectories * gates * (40e-6 + 30e-9 * 2**qubits))

    def region(self, qubits: int) -> Region:
        """Return the region for circuits of this many qubits; it is computed once.

        Raises:
            BadInput: the device is too small.
        """
        available = self._device.target.num_qubits
        if qubits > available:
            raise BadInput(f"the circuit has {qubits} qubits, {self.name} has {available}; use a larger device or aer")
        size = min(available, qubits + 1 + qubits // 8)
        if size not in self._regions:
            start = time.thread_time()
            chosen = choose_region(self._device.target, size)
            target = cut_target(self._device.target, chosen)
            noise = NoiseModel.from_backend(_Cut(target))
            self._regions[size] = Region(chosen, target, noise, time.thread_time() - start)
        return self._regions[size]

    def _key(self, task: Task) -> tuple[Any, ...]:
        level, seed = (
            task.options.get("optimization_level", LEVEL),
            task.options.get("seed_transpiler", SEED_TRANSPILER),
        )
        return task.primitive, task.digest, level, seed

    def _method(self, qubits: int, shots: int) -> str:
        """Choose the cheaper simulation; both sample the same distribution."""
        dense = qubits <= DENSITY_QUBITS and 2**qubits <= DENSITY_FACTOR * shots
        return "density_matrix" if dense else "statevector"

    def _prepare(self, task: Task) -> Prepared:
        _, _, level, seed = self._key(task)
        region = self.region(task.circuit.num_qubits)
        compiler = generate_preset_pass_manager(level, target=region.target, seed_transpiler=seed)
        isa: QuantumCircuit = compiler.run(task.circuit)
        facts = {
            "qubits": [region.qubits[q] for q in sorted(_active(isa))],
            "compiled_two_qubit_gates": isa.num_nonlocal_gates(),
            "noise_model_cpu_s": round(region.cpu_s, 4),
        }
        simulator = AerSimulator(noise_model=region.noise, max_parallel_threads=1)
        template = make_template(isa, tuple(task.circuit.parameters))
        return Prepared(template, simulator, facts, branches(isa))

    def _estimate(self, task: Task, clock: Clock) -> dict[str, NDArray[Any]]:
        """Expectation values from shots, readout error included: one circuit for each qubit-wise commuting group.

        Each circuit gets `1 / precision^2` shots, as Qiskit's `BackendEstimatorV2` does.
        """
        if task.precision <= 0:
            raise BadInput(f"{self.name} estimates from shots; set a precision above 0, such as 0.02")
        plan = Measurements.plan(task.pairs)
        bits: dict[tuple[str, int], NDArray[np.uint8]] = {}
        for basis, indices in plan.sets.items():
            found = self._measure(task, basis, indices, shots_for(task.precision), clock)
            bits |= {(basis, index): measured for index, measured in found.items()}
        return plan.values(bits)

    def _measure(
        self, task: Task, basis: str, indices: Sequence[int], shots: int, clock: Clock
    ) -> dict[int, NDArray[np.uint8]]:
        """Measure the circuit in a Pauli basis: for each parameter set the bits (shots, n), qubit 0 first."""
        circuit = measured_in(task.circuit, basis)
        seed = derive_seed(task.seed, basis)
        sub = replace(task, primitive="sampler", circuit=circuit, digest=f"{task.digest}:{basis}", shots=shots)
        ready, result = self._ready(sub, clock), {}
        method = clock.facts["method"] = self._method(task.circuit.num_qubits, shots)
        for first, count in _runs(indices):
            sets = task.sets[first : first + count]
            start = seed + SEED_STEP * first
            out = run_aer(ready, ready.template.circuit, sets, shots, start, method)
            for index, packed in enumerate(unpack(ready.template.circuit, out, shots)["meas"], first):
                result[index] = np.unpackbits(packed, axis=-1)[:, ::-1][:, : task.circuit.num_qubits]
        return result


def _runs(indices: Sequence[int]) -> list[tuple[int, int]]:
    """Return stretches of consecutive numbers as (first, count)."""
    runs: list[tuple[int, int]] = []
    for index in sorted(indices):
        if runs and index == sum(runs[-1]):
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((index, 1))
    return runs


class _Cut(BackendV2):  # type: ignore[misc]  # the library is not typed
    """A backend that only has a target, for building the noise model."""

    def __init__(self, target: Target) -> None:
        super().__init__(name="cut")
        self._target = target

    @property
    def target(self) -> Target:
        return self._target

    @property
    def max_circuits(self) -> None:
        return None

    @classmethod
    def _default_options(cls) -> Options:
        return Options()

    def run(self, run_input: Any, **options: Any) -> Any:
        raise NotImplementedError("only its target is used")


def _two_qubit_gates(item: CircuitInstruction) -> int:
    qubits = len(item.qubits)
    return shannon_gates(qubits) if item.name == "unitary" else max(0, qubits - 1)


def _active(circuit: QuantumCircuit) -> set[int]:
    gates = [item for item in circuit.data if item.name not in ("barrier", "delay")]
    return {circuit.find_bit(bit).index for item in gates for bit in item.qubits}


def choose_region(target: Target, size: int) -> tuple[int, ...]:
    """Return a connected set of qubits with small errors, grown from each qubit by the best neighbour."""
    edges = _edge_errors(target)
    readout = {q: _error(target, "measure", (q,)) for q in range(target.num_qubits)}
    neighbours: dict[int, dict[int, float]] = {q: {} for q in readout}
    for (a, b), error in edges.items():
        neighbours[a][b] = neighbours[b][a] = min(error, neighbours[a].get(b, 1.0))
    best: tuple[float, tuple[int, ...]] | None = None
    for start in neighbours:
        region, cost = [start], readout[start]
        while len(region) < size:
            reach = {q: e for member in region for q, e in neighbours[member].items() if q not in region}
            if not reach:
                break
            # A qubit with several edges into the region saves swaps, so its best edge counts less.
            links = {q: sum(1 for other in neighbours[q] if other in region) for q in reach}
            chosen = min(reach, key=lambda q: (reach[q] / links[q] + readout[q], q))
            cost += reach[chosen] + readout[chosen]
            region.append(chosen)
        if len(region) == size and (best is None or cost < best[0]):
            best = (cost, tuple(sorted(region)))
    if best is None:
        raise BadInput(f"the device has no connected region of {size} qubits")
    return best[1]


def _edge_errors(target: Target) -> dict[tuple[int, int], float]:
    edges: dict[tuple[int, int], float] = {}
    for name in target.operation_names:
        for qargs in target.qargs_for_operation_name(name) or ():
            if qargs is not None and len(qargs) == 2:
                edges[qargs] = min(_error(target, name, qargs), edges.get(qargs, 1.0))
    return edges


def _error(target: Target, name: str, qargs: tuple[int, ...]) -> float:
    properties = target[name].get(qargs) if name in target.operation_names and target[name] else None
    error = getattr(properties, "error", None)
    return 1.0 if error is None else float(error)


def cut_target(target: Target, keep: tuple[int, ...]) -> Target:
    """Return the target of some qubits of a device, renumbered from zero."""
    place = {qubit: index for index, qubit in enumerate(keep)}
    properties = target.qubit_properties
    small = Target(
        num_qubits=len(keep), dt=target.dt, qubit_properties=[properties[q] for q in keep] if properties else None
    )
    for name in target.operation_names:
        operation = target.operation_from_name(name)
        if isinstance(operation, type):  # control flow applies to all qubits
            small.add_instruction(operation, name=name)
            continue
        inside = {
            tuple(place[q] for q in qargs): value
            for qargs, value in target[name].items()
            if qargs is not None and all(q in place for q in qargs)
        }
        if inside:
            small.add_instruction(operation, inside, name=name)
    return small
