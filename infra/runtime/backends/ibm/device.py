"""A device of the IBM platform as a backend, through the vendor's unmodified client and its executor primitives.

Sending is done once. What the client's errors mean for a job that was to be sent is decided in `_unclear`: the service
said no, or nothing left this machine (there is no job), or it is not known. The client itself posts again when it is
answered with 5xx, so one submission can make several jobs; all bear the batch's tag.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qiskit import QuantumCircuit
from qiskit.primitives import PrimitiveResult
from qiskit.providers.exceptions import QiskitBackendNotFoundError
from qiskit.transpiler import Target
from qiskit_ibm_runtime import Batch, IBMBackend, QiskitRuntimeService, RuntimeJobV2
from qiskit_ibm_runtime.exceptions import (
    IBMError,
    IBMInputValueError,
    IBMNotAuthorizedError,
    IBMRuntimeError,
    RuntimeInvalidStateError,
    RuntimeJobNotFound,
    RuntimeProgramNotFound,
)
from qiskit_ibm_runtime.executor_estimator import Estimator
from qiskit_ibm_runtime.executor_sampler import Sampler
from requests import ConnectionError as NoConnection
from requests import RequestException, Timeout

from infra.errors import BackendFailed, BadInput, BudgetExceeded, NoAnswer, SubmissionUnclear
from infra.runtime.backends.contract import Executed, JobState, Task
from infra.runtime.backends.ibm.account import connect, redact
from infra.runtime.backends.ibm.options import check_options, primitive_options
from infra.runtime.backends.ibm.pubs import Pub, add_note, make_pubs, read_outcomes
from infra.runtime.backends.isa import IsaCache
from infra.runtime.backends.usage import MAX_EXECUTIONS, REP_DELAY_S, usage_s
from infra.runtime.limits import Limits
from infra.settings import Settings

log = logging.getLogger("ketcycle.queue")

REFRESH_S = 3600.0
LISTING_DELAY_S = 60.0  # the service states none; jobs were seen in the list within seconds
UNREADABLE = 3  # times that a result is asked for before it is given up
REHEARSAL_S = 60.0
PEC_OVERHEAD, ZNE_FACTORS = 100, 3  # circuits for each one, by the client's defaults
LISTED = 100

STATES = {
    "INITIALIZING": JobState.QUEUED,
    "QUEUED": JobState.QUEUED,
    "RUNNING": JobState.RUNNING,
    "DONE": JobState.DONE,
    "ERROR": JobState.FAILED,
    "CANCELLED": JobState.CANCELLED,
}


class IBMDevice:
    """A device of the platform."""

    local = False
    priced = True
    listing_delay_s = LISTING_DELAY_S
    linger_s = 0.25
    poll_s = 1.0

    def __init__(self, device: str, settings: Settings | None = None) -> None:
        self.name = f"ibm:{device}"
        self.limits = Limits(executions=MAX_EXECUTIONS, parts=256, sets=512, alike=True)
        self._settings = Settings() if settings is None else settings
        self._defaults = check_options(self._settings.ibm_options)
        self._lock = threading.RLock()
        self._jobs: dict[str, RuntimeJobV2] = {}
        self._sent: dict[str, float] = {}
        self._unreadable: dict[str, int] = {}
        self._batch: Batch | None = None
        self._service, self._device, target = _open(device, self._settings)
        self._refreshed = time.monotonic()
        self._isa = IsaCache(self.name, target)

    @property
    def calibration(self) -> str:
        """Device, version and time of its last calibration; asked for again once an hour."""
        self._refresh()
        found = self._properties()
        updated = found.last_update_date.isoformat() if found else "unknown"
        return f"{self._device.name}-{self._device.backend_version} {updated}"

    def effective(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options by which jobs are run: those given over those of the settings.

        Raises:
            BadInput: an unknown name or value.
        """
        return {**self._defaults, **check_options(options)}

    def expected_cpu_s(self, circuit: QuantumCircuit, circuits: int, shots: int) -> float:
        """Return 0, or refuse what the device cannot run, before it is written down.

        Raises:
            BadInput: too many qubits, or an expectation value that is to be exact.
        """
        del circuits
        self._isa.check_size(circuit)
        if shots == 0:
            raise BadInput(f"{self.name} estimates from shots; set a precision above 0, such as 0.02")
        return 0.0

    def estimate_qpu_s(self, circuit: QuantumCircuit, digest: str, executions: int) -> float:
        """Return the billed seconds by the vendor's formula, from the circuit compiled for the device.

        Raises:
            BadInput: the device cannot run the circuit.
        """
        if executions == 0:
            return 0.0
        isa = self._isa.get(circuit, digest, self._defaults)
        return usage_s(executions * self._mitigation(circuit), isa.duration_s, self._rep_delay_s())

    def _mitigation(self, circuit: QuantumCircuit) -> int:
        """Return how many circuits mitigation runs for one: of expectation values, whose circuits do not measure."""
        if circuit.count_ops().get("measure"):
            return 1
        zne = self._defaults.get("zne_mitigation") or self._defaults.get("resilience_level") == 2
        return PEC_OVERHEAD if self._defaults.get("pec_mitigation") else ZNE_FACTORS if zne else 1

    def submit(self, tag: str, tasks: Sequence[Task], *, max_qpu_s: float | None = None) -> str:
        """Send a batch under a tag and return the job's id."""
        self._refresh()
        self._ask_operational()
        options = dict(tasks[0].options)
        pubs, refused = self._pubs(tasks, options)
        if not pubs:
            raise BadInput(next(iter(refused.values())))
        add_note(pubs, refused=refused)
        # Whole seconds, none above what is reserved.
        limit = None if max_qpu_s is None else max(1, math.floor(max_qpu_s))
        if options.get("dry_run"):
            add_note(pubs, service_estimate_s=self._rehearse(tag, tasks, pubs, limit))
        try:
            job = self._run(self._mode(), tag, tasks, pubs, limit)
        except Exception as error:  # noqa: BLE001  (whatever the client raises, it is decided whether there may be a job)
            self._batch = None  # perhaps it is closed
            text = redact(error)
            if _unclear(error):
                raise SubmissionUnclear(f"{self.name}: {text}") from None
            raise BackendFailed(f"{self.name} refused the job: {text}") from None
        self._jobs[job.job_id()], self._sent[job.job_id()] = job, time.monotonic()
        return str(job.job_id())

    def _run(
        self,
        mode: IBMBackend | Batch,
        tag: str,
        tasks: Sequence[Task],
        pubs: list[Pub],
        limit: int | None,
        *,
        dry_run: bool = False,
    ) -> RuntimeJobV2:
        made = primitive_options(tasks[0].options, tasks[0].primitive, tag=tag, max_s=limit)
        if tasks[0].primitive == "sampler":
            return Sampler(mode=mode, options=made).run(pubs, shots=tasks[0].shots, dry_run=dry_run)
        precision = min(task.precision for task in tasks)
        return Estimator(mode=mode, options=made).run(pubs, precision=precision, dry_run=dry_run)

    def _rehearse(self, tag: str, tasks: Sequence[Task], pubs: list[Pub], limit: int | None) -> float | None:
        """Return the service's own estimate of a job, which it makes without a device; None where it makes none.

        Raises:
            BudgetExceeded: it is more than the job may take; nothing was sent to a device.
        """
        try:
            job = self._run(self._device, f"{tag}-dry", tasks, pubs, limit, dry_run=True)
            deadline = time.monotonic() + REHEARSAL_S
            while (found := job.usage_estimation["quantum_seconds"]) is None and time.monotonic() < deadline:
                time.sleep(self.poll_s)
        except Exception as error:  # noqa: BLE001  (not every plan may ask; the formula does)
            log.warning("%s gives no estimate of its own: %s", self.name, redact(error))
            return None
        if found is not None and limit is not None and found > limit:
            raise BudgetExceeded(
                f"{self.name} itself estimates {found:.1f} QPU seconds for the job, {limit} are reserved for it"
            )
        return None if found is None else float(found)

    def status(self, job_id: str) -> JobState:
        """Say how a job is."""
        try:
            return STATES[self._job(job_id).status()]
        except Exception as error:  # noqa: BLE001  (a question that can be asked again)
            young = time.monotonic() - self._sent.get(job_id, -math.inf) < LISTING_DELAY_S
            if (isinstance(error, RuntimeJobNotFound) or _status_code(error) == 404) and not young:
                return JobState.LOST
            raise NoAnswer(f"{self.name}: {redact(error)}") from None

    def results(self, job_id: str) -> Iterator[tuple[int, Executed | Exception]]:
        """Yield what came back for each task, the job's bill, as far as it is known, shared by executions."""
        yield from read_outcomes(job_id, self._read(job_id), self.billed(job_id))

    def billed(self, job_id: str) -> float | None:
        """Return the QPU seconds that a job was billed, or None while the service has not settled them."""
        try:
            usage = self._job(job_id).metrics().get("usage", {})
        except RuntimeJobNotFound:
            return None
        except Exception as error:  # noqa: BLE001  (a question that can be asked again)
            raise NoAnswer(f"{self.name}: {redact(error)}") from None
        if usage.get("status", "pending") == "pending":
            return None
        charged = usage.get("qpu_charge_time_seconds")
        return None if charged is None else float(charged)

    def cancel(self, job_id: str) -> None:
        """Cancel a job if it is not over."""
        try:
            self._job(job_id).cancel()
        except (RuntimeInvalidStateError, RuntimeJobNotFound):
            return
        except Exception as error:  # noqa: BLE001  (a question that can be asked again)
            raise NoAnswer(f"{self.name}: {redact(error)}") from None

    def find(self, tag: str) -> tuple[str, ...]:
        """Return the jobs that were made under a tag, oldest first."""
        try:
            found = self._service.jobs(limit=LISTED, job_tags=[tag], descending=False)
        except Exception as error:  # noqa: BLE001  (a question that can be asked again)
            raise NoAnswer(f"{self.name}: {redact(error)}") from None
        self._jobs |= {job.job_id(): job for job in found}
        return tuple(job.job_id() for job in found)

    def _job(self, job_id: str) -> RuntimeJobV2:
        if job_id not in self._jobs:
            self._jobs[job_id] = self._service.job(job_id)
        return self._jobs[job_id]

    def _read(self, job_id: str) -> PrimitiveResult:
        try:
            result = self._job(job_id).result()
            if result is None:
                raise ValueError("it is empty")
        except (IBMError, RequestException) as error:
            raise NoAnswer(f"{self.name}: {redact(error)}") from None
        except Exception as error:  # noqa: BLE001  (a text that ends in the middle fails in whatever way it is read)
            count = self._unreadable[job_id] = self._unreadable.get(job_id, 0) + 1
            said = f"{self.name}: the result of job {job_id} cannot be read: {redact(error)[:200]}"
            if count < UNREADABLE:
                raise NoAnswer(said) from None
            raise BackendFailed(said) from None
        return result

    def _pubs(self, tasks: Sequence[Task], options: Mapping[str, Any]) -> tuple[list[Pub], dict[str, str]]:
        """Return the PUBs of all tasks, and why a task has none; it must not stop the others in its job."""
        pubs: list[Pub] = []
        refused = {}
        for slot, task in enumerate(tasks):
            try:
                if options.get("dynamical_decoupling") and task.circuit.has_control_flow_op():
                    raise BadInput("dynamical decoupling does not go with circuits that branch; leave one of them out")
                pubs += make_pubs(self._isa.get(task.circuit, task.digest, options), task, slot)
            except BadInput as error:
                refused[str(slot)] = str(error)
        return pubs, refused

    def _mode(self) -> IBMBackend | Batch:
        if self._settings.ibm_mode == "job":
            return self._device
        if self._batch is None:
            self._batch = Batch(backend=self._device)
        return self._batch

    def _ask_operational(self) -> None:
        try:
            status = self._device.status()
        except Exception as error:  # noqa: BLE001  (nothing was sent)
            raise BackendFailed(f"{self.name} does not answer, nothing was sent: {redact(error)}") from None
        if not status.operational:
            raise BackendFailed(f"{self.name} takes no jobs now: {status.status_msg}")

    def _rep_delay_s(self) -> float:
        delay = self._defaults.get("rep_delay")
        found = getattr(self._device.configuration(), "default_rep_delay", None)
        return float(delay if delay is not None else REP_DELAY_S if found is None else found)

    def _properties(self) -> Any:
        try:
            return self._device.properties()
        except Exception as error:  # noqa: BLE001  (the client's own text may hold the token)
            raise BackendFailed(f"{self.name} does not tell its properties: {redact(error)}") from None

    def _refresh(self) -> None:
        """Read the device's properties again once an hour; what was compiled for older ones is forgotten."""
        with self._lock:
            if time.monotonic() - self._refreshed < REFRESH_S:
                return
            before = self._properties()
            self._refreshed = time.monotonic()
            try:
                self._device.refresh()
            except Exception:  # noqa: BLE001  (the older properties do)
                return
            after = self._properties()
            if before and after and before.last_update_date != after.last_update_date:
                self._isa = IsaCache(self.name, self._device.target)


def _open(device: str, settings: Settings) -> tuple[QiskitRuntimeService, IBMBackend, Target]:
    try:
        service = connect(settings)
        opened = service.backend(device)
        return service, opened, opened.target  # which asks for its properties
    except BadInput:
        raise
    except QiskitBackendNotFoundError:
        text = f"the account's instance has no device {device}"
    except Exception as error:  # noqa: BLE001  (the client's own text may hold the token)
        text = f"ibm:{device} cannot be opened: {redact(error)}"
        if _no_connection(error):  # which the client calls an invalid token
            text = f"ibm:{device} cannot be opened: the quantum platform does not answer; is there a network?"
    raise BadInput(f"{text}; `ketcycle doctor --backend ibm:{device}` says what is missing")


def _no_connection(error: BaseException | None) -> bool:
    """Say whether what lies behind an error of the client is that nothing answered."""
    if error is None or isinstance(error, NoConnection | Timeout):
        return error is not None
    return _no_connection(error.__cause__ or error.__context__)


def _status_code(error: Exception) -> int:
    """Return the HTTP status behind an error of the client, -1 where there was none."""
    return int(getattr(error, "status_code", getattr(error.__context__, "status_code", -1)))


def _unclear(error: Exception) -> bool:
    """Say whether a job may exist after this error of a submission.

    No job: the service refused the token or the request (4xx), or the input was refused on this machine. Anything
    else, the connection's end and 5xx to every try above all, leaves it open.
    """
    if isinstance(error, IBMNotAuthorizedError | RuntimeProgramNotFound | IBMInputValueError):
        return False
    if isinstance(error, IBMRuntimeError):
        return not 400 <= _status_code(error) < 500
    if isinstance(error, RequestException):
        return True
    # Raised outside the post itself: the questions before it, or the preparation.
    return type(error).__name__ != "RequestsApiError" and not isinstance(error, ValueError)
