"""A device of the IBM platform as a backend, through the vendor's unmodified client and its executor primitives.

All questions (is the device online, is there time left, how does the circuit compile) are asked before the intent is
written down; then the job is posted once. What the answers mean is decided in `infra.runtime.backends.ibm.platform`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from qiskit import QuantumCircuit
from qiskit.providers.exceptions import QiskitBackendNotFoundError
from qiskit.transpiler import Target
from qiskit_ibm_runtime import Batch, IBMBackend, QiskitRuntimeService, RuntimeJobV2
from qiskit_ibm_runtime.exceptions import IBMError
from qiskit_ibm_runtime.executor_estimator import Estimator
from qiskit_ibm_runtime.executor_sampler import Sampler
from requests import ConnectionError as NoConnection
from requests import RequestException, Timeout

from infra.errors import (
    BackendFailed,
    BadAnswer,
    BadInput,
    BudgetExceeded,
    RuntimeQueueError,
    SubmissionUnclear,
    TurnedAway,
)
from infra.runtime.backends.contract import Executed, JobState, Status, Task, nothing_left
from infra.runtime.backends.ibm.account import connect, redact
from infra.runtime.backends.ibm.options import check_options, primitive_options
from infra.runtime.backends.ibm.platform import RAN_TOO_LONG, Platform, status_code
from infra.runtime.backends.ibm.pubs import Pub, add_note, make_pubs, read_outcomes
from infra.runtime.backends.isa import IsaCache
from infra.runtime.backends.usage import MAX_EXECUTIONS, REP_DELAY_S, usage_s
from infra.runtime.limits import Limits
from infra.settings import Settings

log = logging.getLogger("ketcycle.queue")

REFRESH_S = 3600.0
REHEARSAL_S = 60.0
STEP_S = 1.0  # the service takes time limits in whole seconds
PEC_OVERHEAD, ZNE_FACTORS = 100, 3  # circuits for each one, by the client's defaults

STATES = {
    "QUEUED": JobState.QUEUED,
    "RUNNING": JobState.RUNNING,
    "COMPLETED": JobState.DONE,
    "FAILED": JobState.FAILED,
    "CANCELLED": JobState.CANCELLED,
}
# Reasons for which the same job fails again: its time limit, and input that the service refuses.
PERMANENT = (range(RAN_TOO_LONG, RAN_TOO_LONG + 1), range(1500, 1800), range(6000, 9000))


class IBMDevice:
    """A device of the platform."""

    local = False
    priced = True
    finds = True
    usd_per_s: float | None = None
    linger_s = 0.25
    poll_s = 1.0

    def __init__(self, device: str, settings: Settings | None = None) -> None:
        self.name = f"ibm:{device}"
        self.limits = Limits(executions=MAX_EXECUTIONS, parts=256, sets=512, alike=True, step_s=STEP_S)
        self._settings = Settings() if settings is None else settings
        self.listing_delay_s = self._settings.ibm_listing_delay_s
        self._defaults = check_options(self._settings.ibm_options)
        self._lock = threading.RLock()
        self._batch: Batch | None = None
        service, self._device, target = _open(device, self._settings)
        self._platform = Platform(service, self._device)
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
        """Return 0, or refuse a circuit that the device cannot run, before the call is recorded.

        Raises:
            BadInput: too many qubits, or an exact expectation value.
        """
        del circuits
        self._isa.check(circuit, shots)
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

    def submit(
        self,
        tag: str,
        tasks: Sequence[Task],
        *,
        max_qpu_s: float | None = None,
        leaving: Callable[[], None] = nothing_left,
    ) -> str:
        """Send a batch under a tag, once, and return the job's id."""
        self._refresh()
        self._ask_operational()
        options = dict(tasks[0].options)
        pubs, refused = self._pubs(tasks, options)
        if not pubs:
            raise BadInput(next(iter(refused.values())))
        add_note(pubs, refused=refused, tag=tag)
        limit = None if max_qpu_s is None else int(self.limits.reserve_s(max_qpu_s))
        if options.get("dry_run"):
            add_note(pubs, service_estimate_s=self._rehearse(tag, tasks, pubs, limit))
        try:
            mode = self._mode()
            return self._platform.post(lambda: self._run(mode, tag, tasks, pubs, limit), leaving)
        except (SubmissionUnclear, TurnedAway):
            self._batch = None  # perhaps it is closed
            raise
        except RuntimeQueueError:
            raise
        except Exception as error:  # noqa: BLE001  (whatever the client raises before anything is sent)
            self._batch = None
            raise BackendFailed(f"{self.name} was sent nothing: {_meaning(error)}{redact(error)}") from None

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
            deadline, found = time.monotonic() + REHEARSAL_S, None
            while found is None and time.monotonic() < deadline:
                answer = self._platform.job(str(job.job_id()))
                found = answer.estimated_running_time_seconds if answer else None
                time.sleep(0.0 if found is not None else self.poll_s)
        except Exception as error:  # noqa: BLE001  (not every plan may ask; the formula does)
            log.warning("%s gives no estimate of its own: %s", self.name, redact(error))
            return None
        if found is not None and limit is not None and found > limit:
            raise BudgetExceeded(
                f"{self.name} itself estimates {found:.1f} QPU seconds for the job, {limit} are reserved for it"
            )
        return None if found is None else float(found)

    def status(self, job_id: str) -> Status:
        """Return what the service reports about a job."""
        found = self._platform.job(job_id)
        if found is None:
            return Status(JobState.LOST)
        code, tags = found.state.reason_code, None if found.tags is None else tuple(found.tags)
        reason = redact(found.state.reason or "")
        if code is not None:
            reason = f"{reason} (code {code})".strip()
        name = found.state.status.upper().partition(" - ")[0]
        if name not in STATES:
            raise BadAnswer(
                f"{self.name} reports job {job_id} as {redact(found.state.status)[:60]!r}, which is no state"
            )
        state = JobState.FAILED if code == RAN_TOO_LONG else STATES[name]
        return Status(state, reason, any(code in codes for codes in PERMANENT), tags)

    def results(self, job_id: str) -> Iterator[tuple[int, Executed | Exception]]:
        """Yield what came back for each task, with its share of the job's executions."""
        result = self._platform.result(job_id)
        try:
            found = list(read_outcomes(job_id, result))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            kind = type(error).__name__
            raise BadAnswer(f"the result of job {job_id} lacks what was sent with it ({kind}: {error})") from None
        yield from found

    def billed(self, job_id: str) -> float | None:
        """Return the QPU seconds that a job was billed, or None while the service has not settled them."""
        usage = self._platform.usage(job_id)
        if usage is None or usage.status in (None, "pending"):
            return None
        return usage.qpu_charge_time_seconds

    def cancel(self, job_id: str) -> None:
        """Cancel a job if it is not over."""
        self._platform.cancel(job_id)

    def find(self, tag: str) -> tuple[str, ...]:
        """Return the jobs that were made under a tag, oldest first."""
        return tuple(job.id for job in self._platform.jobs(tag))

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
        except (IBMError, RequestException) as error:
            text = f"{self.name} does not answer, nothing was sent: {_meaning(error)}{redact(error)}"
            refused = 400 <= status_code(error) < 500 and status_code(error) not in (408, 429)
            raise (BackendFailed if refused else TurnedAway)(text) from None
        except Exception as error:  # noqa: BLE001  (the client's models raise whatever a wrong field makes of them)
            raise TurnedAway(f"{self.name} does not say whether it takes jobs: {redact(error)[:300]}") from None
        if not status.operational:
            raise TurnedAway(f"{self.name} takes no jobs now: {status.status_msg}")

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
    service = None
    try:
        service = connect(settings)
        opened = service.backend(device)
        return service, opened, opened.target  # which asks for its properties
    except BadInput:
        raise
    except QiskitBackendNotFoundError:
        text = _why_no_device(service, device)
    except Exception as error:  # noqa: BLE001  (the client's own text may hold the token)
        text = f"ibm:{device} cannot be opened: {_meaning(error)}{redact(error)}"
        if _no_connection(error):  # which the client calls an invalid token
            text = f"ibm:{device} cannot be opened: the quantum platform does not answer; is there a network?"
    raise BadInput(f"{text}; `ketcycle doctor --backend ibm:{device}` says what is missing")


def _why_no_device(service: QiskitRuntimeService | None, device: str) -> str:
    """Return why a device was not found: the client takes a refused list of devices for an empty one."""
    try:
        if service is not None:
            service._get_api_client().list_backends()  # noqa: SLF001  (the client swallows the error elsewhere)
    except (IBMError, RequestException) as error:
        return f"the devices of the account's instance cannot be listed: {_meaning(error)}{redact(error)[:300]}"
    return f"the account's instance has no device {device}"


def _meaning(error: BaseException) -> str:
    """Return what a refusal means, before the client's own words."""
    return {
        401: "the API key or its access token is refused (401): ",
        402: "the plan of the instance does not pay for this (402): ",
        403: "the account has no right to this (403), check the instance and the account's access policy: ",
    }.get(status_code(error), "")


def _no_connection(error: BaseException | None) -> bool:
    """Return whether an error of the client was caused by a connection without an answer."""
    if error is None or isinstance(error, NoConnection | Timeout):
        return error is not None
    return _no_connection(error.__cause__ or error.__context__)
