"""Where circuits run: the contract of a backend, and the factory that makes one from its name.

    aer                     ideal simulation on this machine
    noisy:<fake device>     simulation with the noise, coupling map and basis gates of a device snapshot
    ibm:<device>            a device of the IBM platform; its prefix `ibm_` may be left out

The contract is that of a remote queue, so that hardware fits in: a batch is submitted under a tag and becomes a job
with an id, which can be polled, fetched, cancelled, and found again by the tag after a crash. For a simulator in the
leader's own process the job dies with the process, which is what `local` says.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol

from infra.errors import BadInput
from infra.runtime.lane import Limits
from infra.settings import hand_on

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from qiskit import QuantumCircuit
    from qiskit.providers import BackendV2


_DEVICE = re.compile(r"[a-z][a-z0-9_]*")
SEED_STEP = 2113  # Aer gives the parameter sets of one call the seeds s, s + 2113, s + 4226, ...


def derive_seed(*parts: object) -> int:
    """Hash values to a simulator seed below 2^62, which leaves room for a step for each parameter set."""
    text = "|".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 2


class JobState(StrEnum):
    """What a backend says of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"  # no such job, and there never will be


@dataclass(frozen=True)
class Task:
    """One PUB, or a range of its parameter sets, as a backend sees it.

    Attributes:
        primitive: `sampler` or `estimator`.
        circuit: the circuit, parametric or not.
        digest: what compiled forms of the circuit are cached by.
        sets: parameter sets (m, p) in the order of `circuit.parameters`.
        shots: shots for each set; for an estimator unused.
        seed: seed of the first set; a simulator gives set i the seed `seed + 2113 i`, so a range gives what the whole
            gives.
        precision: target standard error of an estimator, 0 = exact.
        pairs: of an estimator, the values asked for: index of the set, observable (Pauli label to coefficient).
        options: what was asked of the backend.
    """

    primitive: str
    circuit: QuantumCircuit
    digest: str
    sets: NDArray[np.float64]
    shots: int
    seed: int
    precision: float = 0.0
    pairs: Sequence[tuple[int, Mapping[str, float]]] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Executed:
    """What came back for one task.

    Attributes:
        arrays: of a sampler one packed bit array (m, shots, bytes) for each register; of an estimator `evs`, `stds`.
        cpu_s: CPU seconds of the simulation, without what was prepared before.
        wall_s: elapsed seconds of the same.
        rss_gb_s: resident memory over that time.
        prepare_cpu_s: CPU seconds that the compiled form of the circuit cost when it was made, by its key.
        qpu_s_billed: QPU seconds billed.
        facts: what is worth keeping: method, qubits, layout.
    """

    arrays: Mapping[str, NDArray[Any]]
    cpu_s: float
    wall_s: float
    rss_gb_s: float = 0.0
    prepare_cpu_s: Mapping[str, float] = field(default_factory=dict)
    qpu_s_billed: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)


class Backend(Protocol):
    """A place where batches of tasks run.

    Attributes:
        name: canonical name.
        limits: what one job may hold.
        linger_s: how long a leader lets further callers join a job.
        poll_s: pause between two questions about a job.
        local: whether jobs live and die with this process.
        priced: whether it bills QPU seconds; then a budget is reserved before anything is sent.
        listing_delay_s: how long after its creation a job may be missing from what `find` returns.
    """

    name: str
    limits: Limits
    linger_s: float
    poll_s: float
    local: bool
    priced: bool
    listing_delay_s: float

    @property
    def calibration(self) -> str:
        """What names the state of the backend that results depend on."""
        ...

    def effective(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return those options that change anything here, with their values."""
        ...

    def expected_cpu_s(self, circuit: QuantumCircuit, circuits: int, shots: int) -> float:
        """Return about how many CPU seconds of this machine parameter sets of a circuit will take; 0 = few."""
        ...

    def estimate_qpu_s(self, circuit: QuantumCircuit, digest: str, executions: int) -> float:
        """Return the QPU seconds that so many executions of a circuit will be billed by formula; 0 = not priced."""
        ...

    def submit(self, tag: str, tasks: Sequence[Task], *, max_qpu_s: float | None = None) -> str:
        """Send a batch under a tag and return the job's id.

        Args:
            tag: what the job can be found by.
            tasks: what is to run.
            max_qpu_s: QPU seconds after which the service shall stop the job.

        Raises:
            SubmissionUnclear: no answer came, the job may exist.
            RuntimeQueueError: the service refused; there is no job.
        """
        ...

    def status(self, job_id: str) -> JobState:
        """Say how a job is.

        Raises:
            NoAnswer: ask again.
        """
        ...

    def results(self, job_id: str) -> Iterator[tuple[int, Executed | Exception]]:
        """Yield what came back for each task, by its index; a task's own failure does not touch the others.

        Raises:
            NoAnswer: ask again.
        """
        ...

    def billed(self, job_id: str) -> float | None:
        """Return the QPU seconds that a job was billed so far, whatever became of it; None = not known yet."""
        ...

    def cancel(self, job_id: str) -> None:
        """Cancel a job if it is not over.

        Raises:
            NoAnswer: ask again.
        """
        ...

    def find(self, tag: str) -> tuple[str, ...]:
        """Return the jobs that were made under a tag.

        Raises:
            NoAnswer: ask again.
        """
        ...


Factory = Callable[[str], Backend]

_lock = threading.Lock()
_open: dict[str, Backend] = {}


def canonical_name(name: str) -> str:
    """Return the one way to write a backend's name.

    Raises:
        BadInput: there is no such backend; the message lists those there are.
    """
    kind, _, device = name.partition(":")
    if kind not in FACTORIES:
        raise BadInput(
            f"there is no backend {name!r}; use aer, noisy:<fake device> such as noisy:fake_torino, or ibm:<device>"
        )
    if kind == "ibm":
        if not _DEVICE.fullmatch(device):
            raise BadInput(f"{name!r} names no device; write ibm:<device> such as ibm:ibm_torino")
        return f"ibm:{device if '_' in device else f'ibm_{device}'}"
    if kind == "noisy":
        return f"noisy:{device_name(device)}"
    return name


def open_backend(name: str) -> Backend:
    """Return the backend of that name, made once per process.

    Raises:
        BadInput: there is no such backend.
    """
    name = canonical_name(name)
    with _lock:
        if name not in _open:
            # The transpiler's own threads would hide its CPU time from the thread that is metered, and gain nothing.
            hand_on(QISKIT_IN_PARALLEL="TRUE")
            kind, _, device = name.partition(":")
            _open[name] = FACTORIES[kind](device)
        return _open[name]


def calibration_of(name: str) -> str:
    """Return what names the state of a backend that its results depend on.

    Only hardware has to be opened for that: nobody else knows when it was calibrated.
    """
    name = canonical_name(name)
    return open_backend(name).calibration if name.startswith("ibm:") else _snapshot_of(name)


@cache
def _snapshot_of(name: str) -> str:
    kind, _, device = name.partition(":")
    aer = f"aer-{version('qiskit-aer')}"
    return f"{device}-{fake_device(device).backend_version} {aer}" if kind == "noisy" else aer


@cache
def _fake_devices() -> dict[str, type[BackendV2]]:
    from qiskit_ibm_runtime import fake_provider

    classes: list[Any] = [value for _, value in inspect.getmembers(fake_provider, inspect.isclass)]
    return {c.backend_name: c for c in classes if isinstance(getattr(c, "backend_name", None), str)}


def device_name(name: str) -> str:
    """Return the full name of a device snapshot; the prefix `fake_` may be left out.

    Raises:
        BadInput: there is no such snapshot.
    """
    wanted = name.lower()
    for candidate in (wanted, f"fake_{wanted}"):
        if candidate in _fake_devices():
            return candidate
    raise BadInput(f"there is no fake device {name!r}; there are {', '.join(sorted(_fake_devices()))}")


@cache
def fake_device(name: str) -> BackendV2:
    """Return a device snapshot shipped with the runtime client."""
    return _fake_devices()[device_name(name)]()


def _ideal(_: str) -> Backend:
    from infra.runtime.simulators import IdealSimulator

    return IdealSimulator()


def _noisy(device: str) -> Backend:
    from infra.runtime.noisy import NoisySimulator

    return NoisySimulator(device, fake_device(device))


def _hardware(device: str) -> Backend:
    from infra.runtime.ibm import IBMDevice

    return IBMDevice(device)


FACTORIES: dict[str, Factory] = {"aer": _ideal, "noisy": _noisy, "ibm": _hardware}
