"""What every backend offers, and the values that go in and out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from infra.runtime.limits import Limits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from qiskit import QuantumCircuit


SEED_STEP = 2113  # Aer gives the parameter sets of one call the seeds s, s + 2113, s + 4226, ...


def derive_seed(*parts: object) -> int:
    """Hash values to a simulator seed below 2^62, which leaves room for a step for each parameter set."""
    text = "|".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 2


class JobState(StrEnum):
    """State of a job at its backend."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"  # no such job, and there never will be


@dataclass(frozen=True)
class Status:
    """What a backend reports about a job.

    Attributes:
        state: where it is.
        reason: why it failed or was cancelled, in the service's words.
        permanent: whether the same job would fail again for that reason.
        tags: tags that the job bears; None where the backend does not report them.
    """

    state: JobState
    reason: str = ""
    permanent: bool = False
    tags: tuple[str, ...] | None = None


def nothing_left() -> None:
    """Do nothing; the default of `submit(leaving=...)`."""


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
        share: share of the job's bill.
        facts: what is worth keeping: method, qubits, layout.
        measured: of an estimator, in place of `arrays`: by basis and parameter set the bits (shots, n), qubit 0 first.
        origin: tag and circuit digest that came back with the result; None where the job never left this process.
    """

    arrays: Mapping[str, NDArray[Any]]
    cpu_s: float
    wall_s: float
    rss_gb_s: float = 0.0
    prepare_cpu_s: Mapping[str, float] = field(default_factory=dict)
    share: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[tuple[str, int], NDArray[np.uint8]] = field(default_factory=dict)
    origin: tuple[str, str] | None = None


class Backend(Protocol):
    """A place where batches of tasks run.

    Attributes:
        name: canonical name.
        limits: what one job may hold.
        linger_s: how long a leader lets further callers join a job.
        poll_s: pause between two questions about a job.
        local: whether jobs live and die with this process; then a job's id is its tag.
        priced: whether it bills QPU seconds; then a budget is reserved before anything is sent.
        listing_delay_s: how long after its creation a job may be missing from what `find` returns.
        finds: whether `find` returns jobs that another process made; without, a lost answer needs a person.
        usd_per_s: of a backend that bills dollars by a known price, the dollars of a billing second, and its
            estimates are exact; None = it bills QPU seconds, estimates are corrected by earlier bills, and their price
            is that of the energy model.
    """

    name: str
    limits: Limits
    linger_s: float
    poll_s: float
    local: bool
    priced: bool
    listing_delay_s: float
    finds: bool
    usd_per_s: float | None

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

    def submit(
        self,
        tag: str,
        tasks: Sequence[Task],
        *,
        max_qpu_s: float | None = None,
        leaving: Callable[[], None] = nothing_left,
    ) -> str:
        """Send a batch under a tag, once, and return the job's id.

        Args:
            tag: what the job can be found by.
            tasks: what is to run.
            max_qpu_s: QPU seconds after which the service shall stop the job.
            leaving: called when all that comes before is done, right before the first byte of the request leaves.

        Raises:
            TurnedAway: nothing was sent, and it may be tried again later.
            SubmissionUnclear: the request has left and no job id came back, whatever the answer was.
            RuntimeQueueError: nothing was sent, and it would fail again.
        """
        ...

    def status(self, job_id: str) -> Status:
        """Return what is known of a job.

        Raises:
            NoAnswer: ask again.
        """
        ...

    def results(self, job_id: str) -> Iterator[tuple[int, Executed | Exception]]:
        """Yield what came back for each task, by its index; a task's own failure does not touch the others.

        Raises:
            NoAnswer: the result cannot be read now; ask again.
            BadAnswer: it can be read, and is not what was asked.
        """
        ...

    def billed(self, job_id: str) -> float | None:
        """Return the QPU seconds that a finished job was billed, whatever became of it; None = not known yet.

        Raises:
            NoAnswer: ask again.
            BadAnswer: what the service reports is no number of seconds.
        """
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


@runtime_checkable
class Forgetful(Protocol):
    """A backend whose results may not say of which circuits they are."""

    def remind(self, job_id: str, tag: str, tasks: Mapping[int, Task]) -> None:
        """Learn before `results` what was sent in a job, by place in it."""
        ...
