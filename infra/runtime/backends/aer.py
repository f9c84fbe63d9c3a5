"""Aer as a backend: circuits run without transpilation, each PUB is one call, and Aer binds the parameters.

Measured on one thread: transpiling a circuit for Aer takes 16-19 times its simulation, so only gates that Aer lacks are
decomposed; one parametric PUB takes a third of the time of as many single circuits.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit import ClassicalRegister, QuantumCircuit
from qiskit.circuit import ControlFlowOp, ControlledGate, Gate, Instruction
from qiskit.primitives import BitArray
from qiskit.quantum_info import Pauli
from qiskit_aer import AerSimulator

from infra.errors import BackendFailed, BadInput
from infra.runtime.backends.contract import SEED_STEP, Executed, JobState, Status, Task, nothing_left
from infra.runtime.backends.snapshots import simulator_calibration
from infra.runtime.backends.templates import Template, make_template
from infra.runtime.limits import Limits
from infra.runtime.overhead import resident_gb

CACHED = 256


@dataclass(frozen=True)
class Prepared:
    """A circuit ready for the simulator.

    Attributes:
        template: the circuit with bare parameters.
        simulator: simulator configured for the circuit.
        facts: values recorded about the circuit.
        branches: whether the circuit has control flow.
        cpu_s: CPU seconds of its preparation.
    """

    template: Template
    simulator: AerSimulator
    facts: Mapping[str, Any]
    branches: bool = False
    cpu_s: float = 0.0


class Clock:
    """CPU and elapsed time of one task in this thread; the preparation of its circuits is counted separately."""

    def __init__(self) -> None:
        self.prepare_cpu_s: dict[str, float] = {}
        self.facts: dict[str, Any] = {}
        self._cpu, self._wall = time.thread_time(), time.perf_counter()

    def prepared(self, key: tuple[Any, ...], ready: Prepared, cpu: float, wall: float) -> None:
        """Record a prepared circuit and subtract the time since (cpu, wall) from that of the task."""
        self.prepare_cpu_s["|".join(map(str, key))] = ready.cpu_s
        self.facts.update(ready.facts)
        self._cpu += time.thread_time() - cpu
        self._wall += time.perf_counter() - wall

    def read(self, arrays: dict[str, NDArray[Any]]) -> Executed:
        """Return the result with the measured time."""
        cpu, wall = time.thread_time() - self._cpu, time.perf_counter() - self._wall
        return Executed(arrays, cpu, wall, resident_gb() * wall, self.prepare_cpu_s, facts=self.facts)


class Simulator:
    """Base class of simulators: jobs are kept in memory and run when their results are fetched."""

    local = True
    priced = False
    listing_delay_s = 0.0
    finds = True
    usd_per_s: float | None = None
    linger_s = 0.0005
    poll_s = 0.0

    def __init__(self, name: str, limits: Limits) -> None:
        self.name, self.limits = name, limits
        self.calibration = simulator_calibration(name.partition(":")[2])
        self._jobs: dict[str, Sequence[Task]] = {}
        self._prepared: OrderedDict[tuple[Any, ...], Prepared] = OrderedDict()
        self._lock = threading.Lock()

    def effective(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options that have an effect on this backend."""
        del options
        return {}

    def expected_cpu_s(self, circuit: QuantumCircuit, circuits: int, shots: int) -> float:  # noqa: ARG002
        """Return 0: the time of an ideal simulation is not estimated."""
        return 0.0

    def estimate_qpu_s(self, circuit: QuantumCircuit, digest: str, executions: int) -> float:  # noqa: ARG002
        """Return 0: a simulator bills nothing."""
        return 0.0

    def submit(
        self,
        tag: str,
        tasks: Sequence[Task],
        *,
        max_qpu_s: float | None = None,
        leaving: Callable[[], None] = nothing_left,
    ) -> str:
        """Keep the batch until its results are requested; its tag is the job id."""
        del max_qpu_s, leaving
        with self._lock:
            self._jobs[tag] = tasks
        return tag

    def status(self, job_id: str) -> Status:
        """Return the status: a job of this process can be fetched; any other was lost with its process."""
        return Status(JobState.DONE if job_id in self._jobs else JobState.LOST)

    def results(self, job_id: str) -> Iterator[tuple[int, Executed | Exception]]:
        """Simulate task after task."""
        with self._lock:
            tasks = self._jobs.pop(job_id)
        for index, task in enumerate(tasks):
            try:
                yield index, self._execute(task)
            except Exception as error:  # noqa: BLE001  (one caller's circuit must not fail the others in its job)
                yield index, error

    def billed(self, job_id: str) -> float | None:
        """Return 0: a simulator bills nothing."""
        del job_id
        return 0.0

    def cancel(self, job_id: str) -> None:
        """Forget the job."""
        with self._lock:
            self._jobs.pop(job_id, None)

    def find(self, tag: str) -> tuple[str, ...]:
        """Return the jobs of this process under a tag."""
        with self._lock:
            return (tag,) if tag in self._jobs else ()

    def _prepare(self, task: Task) -> Prepared:
        raise NotImplementedError

    def _key(self, task: Task) -> tuple[Any, ...]:
        return task.primitive, task.digest

    def _ready(self, task: Task, clock: Clock) -> Prepared:
        """Return the prepared circuit from a cache of recent structures, or prepare it."""
        key, cpu, wall = self._key(task), time.thread_time(), time.perf_counter()
        if key not in self._prepared:
            prepared = self._prepare(task)
            self._prepared[key] = replace(prepared, cpu_s=time.thread_time() - cpu)
            if len(self._prepared) > CACHED:
                self._prepared.popitem(last=False)
        self._prepared.move_to_end(key)
        clock.prepared(key, self._prepared[key], cpu, wall)
        return self._prepared[key]

    def _method(self, qubits: int, shots: int) -> str:
        del qubits, shots
        return "automatic"

    def _execute(self, task: Task) -> Executed:
        clock = Clock()
        return clock.read(self._sample(task, clock) if task.primitive == "sampler" else self._estimate(task, clock))

    def _sample(self, task: Task, clock: Clock) -> dict[str, NDArray[Any]]:
        if not task.circuit.cregs:
            raise BadInput("a circuit without classical bits has nothing to sample; add measurements")
        ready = self._ready(task, clock)
        method = self._method(task.circuit.num_qubits, task.shots)
        clock.facts["method"] = method
        out = run_aer(ready, ready.template.circuit, task.sets, task.shots, task.seed, method)
        return unpack(ready.template.circuit, out, task.shots)

    def _estimate(self, task: Task, clock: Clock) -> dict[str, NDArray[Any]]:
        """Exact expectation values, with Gaussian noise of the target precision if one is set."""
        ready = self._ready(task, clock)
        circuit = ready.template.circuit.copy()
        for label in sorted({label for _, observable in task.pairs for label in observable}):
            circuit.save_expectation_value(Pauli(label), qubits=range(circuit.num_qubits), label=label)
        out = run_aer(ready, circuit, task.sets, 1, task.seed)
        exact = [sum(w * out[i]["data"][label] for label, w in observable.items()) for i, observable in task.pairs]
        return {"evs": add_noise(np.asarray(exact, np.float64), task), "stds": np.full(len(exact), task.precision)}


def add_noise(exact: NDArray[np.float64], task: Task) -> NDArray[np.float64]:
    """Add the shot noise of the target precision; the noise of a value depends on its parameter set and position."""
    if task.precision <= 0:
        return exact
    seen: dict[int, int] = {}
    noise = np.empty(len(exact))
    for row, (index, _) in enumerate(task.pairs):
        place = seen[index] = seen.get(index, -1) + 1
        noise[row] = np.random.default_rng([task.seed + SEED_STEP * index, place]).standard_normal()
    return exact + task.precision * noise


class IdealSimulator(Simulator):
    """Noiseless simulation of a circuit as written."""

    def __init__(self) -> None:
        super().__init__("aer", Limits(parts=256, sets=1024, samples=1_000_000))
        self._simulator = AerSimulator(max_parallel_threads=1)
        self._native = (frozenset(self._simulator.configuration().basis_gates) | _STRUCTURAL) - _MISBOUND

    def _prepare(self, task: Task) -> Prepared:
        circuit = decompose_foreign(task.circuit, self._native)
        template = make_template(circuit, tuple(task.circuit.parameters))
        return Prepared(template, self._simulator, {"qubits": circuit.num_qubits}, branches(circuit))


_STRUCTURAL = frozenset({"measure", "barrier", "reset", "delay", "initialize", "kraus", "superop", "quantum_channel"})
# With many parameter sets bound inside the simulator (Aer 0.18), results of these are wrong or missing.
_MISBOUND = frozenset(
    {"crx", "cry", "crz", "cp", "cu1", "cu3", "mcp", "mcphase", "mcr", "mcrx", "mcry", "mcrz", "mcu", "mcu1", "mcu3"}
)
_GENERIC = (Instruction, Gate, ControlledGate)
_DEPTH = 20


def decompose_foreign(circuit: QuantumCircuit, native: frozenset[str]) -> QuantumCircuit:
    """Replace the gates that the simulator does not run by their definitions, and nothing else.

    Raises:
        BadInput: a gate has no definition in gates that the simulator runs.
    """
    for _ in range(_DEPTH):
        foreign = sorted({item.name for item in circuit.data if not _runs(item, native)})
        if not foreign:
            return circuit
        smaller = circuit.decompose(gates_to_decompose=foreign)
        if smaller == circuit:
            raise BadInput(f"the simulator cannot run {', '.join(foreign)}, and there is no definition of them")
        circuit = smaller
    raise BadInput(f"gates are nested deeper than {_DEPTH} definitions; decompose the circuit first")


def _runs(item: Any, native: frozenset[str]) -> bool:
    if item.is_control_flow() or isinstance(item.operation, ControlFlowOp):
        return True
    # A user-defined gate may have the name of a standard gate; the class identifies it.
    known = item.operation.base_class
    return item.name in native and known not in _GENERIC and known.__module__.startswith(("qiskit.", "qiskit_aer."))


def branches(circuit: QuantumCircuit) -> bool:
    """Return whether a circuit has control flow."""
    return any(item.is_control_flow() for item in circuit.data)


def run_aer(
    ready: Prepared,
    circuit: QuantumCircuit,
    sets: NDArray[np.float64],
    shots: int,
    seed: int,
    method: str = "automatic",
) -> list[dict[str, Any]]:
    """Run all parameter sets of one circuit in this thread and return the simulator's raw results.

    `AerSimulator.run` would work in another thread, whose CPU time cannot be separated from that of other work, and
    would rewrite every shot twice; so the function below it is called.

    Raises:
        BackendFailed: the simulator reports an error.
    """
    binds = ready.template.binds(sets)
    constant = not circuit.parameters
    repeats = range(len(sets)) if constant else range(1)
    # Binding inside the simulator needs no copy of the circuit for each set: half the time, a tenth of the memory, the
    # same counts. Noisy trajectories are slower with it.
    inside = not (constant or ready.branches or method == "statevector")
    options = {"shots": shots, "memory": True, "method": method, "runtime_parameter_bind_enable": inside}
    results: list[dict[str, Any]] = []
    for repeat in repeats:
        output = ready.simulator._execute_circuits_job(  # noqa: SLF001
            [circuit],
            None if constant else [binds],
            {**options, "seed_simulator": seed + SEED_STEP * repeat},
            format_result=False,
        )
        failed = next((r["status"] for r in output["results"] if not r.get("success", True)), None)
        if failed is not None or not output.get("success"):
            raise BackendFailed(f"the simulator stopped: {failed or output.get('status')}")
        results.extend(output["results"])
    return results


def unpack(circuit: QuantumCircuit, results: Sequence[Mapping[str, Any]], shots: int) -> dict[str, NDArray[np.uint8]]:
    """Turn the simulator's hexadecimal shots into one packed bit array (m, shots, bytes) for each register."""
    width = circuit.num_clbits
    words = [word for result in results for word in result["data"].get("memory", ["0x0"] * shots)]
    if width <= 64:
        whole = np.fromiter((int(word, 16) for word in words), np.uint64, len(words))
        return {r.name: _register_words(circuit, r, whole).reshape(len(results), shots, -1) for r in circuit.cregs}
    bits = BitArray.from_samples(words, width)
    return {
        register.name: bits.slice_bits(_positions(circuit, register)).array.reshape(len(results), shots, -1)
        for register in circuit.cregs
    }


def _positions(circuit: QuantumCircuit, register: ClassicalRegister) -> list[int]:
    return [circuit.find_bit(bit).index for bit in register]


def _register_words(
    circuit: QuantumCircuit, register: ClassicalRegister, whole: NDArray[np.uint64]
) -> NDArray[np.uint8]:
    positions = _positions(circuit, register)
    first, size = positions[0], len(positions)
    if positions == list(range(first, first + size)):
        value = whole >> np.uint64(first)
        if size < 64:
            value &= np.uint64((1 << size) - 1)
    else:
        value = np.zeros_like(whole)
        for target, source in enumerate(positions):
            value |= ((whole >> np.uint64(source)) & np.uint64(1)) << np.uint64(target)
    wide: NDArray[np.uint8] = value.astype(">u8").view(np.uint8).reshape(-1, 8)
    return wide[:, 8 - ceil(size / 8) :]
