"""A device of any Qiskit provider as a backend: `provider:<module>:<device>`, through its own `BackendV2`.

Either the device is a class or function of the module that returns a `BackendV2` when it is called without arguments,
or the module names the provider: it holds one class whose name ends in `Provider`, or the class is written after it
(`package.module.Class`) and is made without arguments, so credentials come from the provider's own places. Prices are
read from a file of settings (`provider_prices`), which says what a job and a shot cost.

What a provider can promise differs from the IBM platform: its jobs have no tags, so a submission whose answer is lost
cannot be looked up. Such a batch is parked until a person decides; it is never sent again automatically. Expectation
values are computed here from counts, one circuit for each parameter set and group of Pauli strings that are measured
together.
"""

from __future__ import annotations

import importlib
import inspect
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from qiskit import QuantumCircuit
from qiskit.exceptions import QiskitError
from qiskit.primitives import BitArray
from qiskit.providers import BackendV2
from qiskit.transpiler import PassManager, PassManagerConfig
from qiskit.transpiler.preset_passmanagers.plugin import PassManagerStagePluginManager

from infra.errors import BadAnswer, BadInput, NoAnswer
from infra.runtime.backends.contract import Executed, JobState, Status, Task, nothing_left
from infra.runtime.backends.isa import IsaCache
from infra.runtime.backends.usage import LEVEL
from infra.runtime.circuits.observables import Measurements, measured_in, shots_for
from infra.runtime.limits import Limits
from infra.yaml_text import parse_yaml

_NAME = re.compile(r"([0-9a-zA-Z]+)-(\d+)-([0-9a-zA-Z]+)(?:-([IXYZ]+)-(\d+))?")
KEPT = 256  # jobs whose objects are kept; others are retrieved from the provider
FAILURES = frozenset({"IonQJobFailureError"})  # raised in place of a state by clients whose job has failed

STATES = {
    "INITIALIZING": JobState.QUEUED,
    "VALIDATING": JobState.QUEUED,
    "QUEUED": JobState.QUEUED,
    "RUNNING": JobState.RUNNING,
    "DONE": JobState.DONE,
    "ERROR": JobState.FAILED,
    "CANCELLED": JobState.CANCELLED,
}


class Price(BaseModel):
    """What a device costs: `usd_per_job + usd_per_shot x shots`, as many billing seconds as dollars by `usd_per_s`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    usd_per_job: float = Field(0.0, ge=0, allow_inf_nan=False)
    usd_per_shot: float = Field(0.0, ge=0, allow_inf_nan=False)
    usd_per_s: float = Field(1.0, gt=0, allow_inf_nan=False)

    @property
    def free(self) -> bool:
        """Whether nothing is billed."""
        return self.usd_per_job == self.usd_per_shot == 0

    def seconds(self, executions: int) -> float:
        """Return the billing seconds of a job with so many shots over all circuits."""
        return (self.usd_per_job + self.usd_per_shot * executions) / self.usd_per_s

    def shares(self, executions: Sequence[int]) -> list[float]:
        """Return the shares of a job's price of tasks with so many shots: the price of the job is shared equally."""
        total = self.usd_per_job + self.usd_per_shot * sum(executions)
        if not total:
            return [0.0 for _ in executions]
        return [(self.usd_per_job / len(executions) + self.usd_per_shot * shots) / total for shots in executions]


def read_price(path: Path | None, name: str) -> Price:
    """Return the price of a device from a YAML file: `<module>:<device>` to the fields of `Price`.

    Raises:
        BadInput: there is no file, no such device in it, or a field that is not a price.
    """
    advice = f"write the price of {name!r} into it, e.g. `{name}: {{usd_per_job: 0.3, usd_per_shot: 0.001}}`"
    if path is None:
        raise BadInput(f"what a provider bills is read from a file: set provider_prices to one and {advice}")
    try:
        found = TypeAdapter(dict[str, Price]).validate_python(parse_yaml(path.read_text()) or {})
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise BadInput(f"the prices in {path} cannot be read ({error}); {advice}") from None
    if name not in found:
        raise BadInput(f"{path} says nothing about {name}; {advice}")
    return found[name]


def find_provider(module: str) -> Any:
    """Return the provider that a module names.

    Raises:
        BadInput: no such module, or it does not hold exactly one provider.
    """
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        package, _, name = module.rpartition(".")
        try:
            return getattr(importlib.import_module(package), name)()
        except (ImportError, AttributeError, ValueError):
            raise BadInput(f"there is no module {module} ({error}); install the provider's package") from None
    classes = {
        cls
        for name, cls in inspect.getmembers(found, inspect.isclass)
        if name.endswith("Provider") and hasattr(cls, "get_backend")
    }
    if len(classes) != 1:
        names = ", ".join(sorted(cls.__name__ for cls in classes)) or "none"
        raise BadInput(f"{module} holds {names} for providers; write provider:{module}.<Class>:<device>")
    return classes.pop()()


def find_device(module: str, device: str) -> tuple[BackendV2, Callable[[str], Any] | None]:
    """Return a device, and the function that retrieves its jobs by their ids where there is one.

    Raises:
        BadInput: there is no such module, provider or device.
    """
    try:
        make = getattr(importlib.import_module(module), device, None)
    except ImportError:
        make = None
    owner: Any = None if callable(make) else find_provider(module)
    try:
        found = make() if callable(make) else owner.get_backend(device)
        _send_once(found)
    except Exception as error:  # noqa: BLE001  (every provider raises its own kind for a device that it lacks)
        raise BadInput(f"{module} has no device {device!r}: {error}") from None
    if not isinstance(found, BackendV2):
        raise BadInput(f"{module}:{device} is a {type(found).__name__}, no BackendV2 of Qiskit")
    return found, getattr(found, "retrieve_job", getattr(owner, "retrieve_job", None))


def _send_once(device: Any) -> None:
    """Switch off that IonQ's client repeats a submission after 429, 502 to 504 and 52x, which could pay twice."""
    client: Any = getattr(device, "client", None)
    once = getattr(getattr(type(client), "submit_job", None), "__wrapped__", None)
    if once is not None:
        client.submit_job = once.__get__(client)


def _last_stage(device: BackendV2) -> PassManager | None:
    """Return the passes by which a provider prepares compiled circuits; some need values in place of parameters."""
    plugin = getattr(device, "get_scheduling_stage_plugin", None)
    if plugin is None:
        return None
    config = PassManagerConfig.from_backend(device)
    return PassManagerStagePluginManager().get_passmanager_stage("scheduling", plugin(), config, LEVEL)


class JobFailed(BadAnswer):
    """A provider's client says by an exception that a job has failed."""


@dataclass(frozen=True)
class Place:
    """Where the counts of a circuit belong.

    Attributes:
        tag: of the batch.
        slot: of the task.
        digest: of the circuit.
        basis: of a measurement for expectation values; else empty.
        number: of the parameter set of that measurement.
        registers: names and sizes of the classical registers.
    """

    tag: str
    slot: int
    digest: str
    basis: str
    number: int
    registers: tuple[tuple[str, int], ...]

    @classmethod
    def read(cls, name: str, registers: Iterable[tuple[Any, Any]]) -> Place | None:
        """Read the name that a circuit was sent under; None if it is none of ours."""
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        sizes = tuple((str(register), int(size)) for register, size in registers)
        return cls(found[1], int(found[2]), found[3], found[4] or "", int(found[5] or 0), sizes)


def _places(circuits: Iterable[QuantumCircuit]) -> list[Place]:
    found = (Place.read(each.name, [(register.name, register.size) for register in each.cregs]) for each in circuits)
    return [place for place in found if place is not None]


def _said(entry: Any, sent: Place | None) -> Place | None:
    """Return what a result says of its circuit; not every provider returns the header that Qiskit's results have.

    Args:
        entry: one of the results of a job.
        sent: what was sent at its position, whose registers count where the header names the circuit alone.
    """
    header = getattr(entry, "header", None)
    facts = header if isinstance(header, Mapping) else getattr(header, "__dict__", {})
    try:
        return Place.read(str(facts["name"]), facts.get("creg_sizes") or (sent.registers if sent else ()))
    except (KeyError, TypeError, ValueError):
        return None


class ProviderDevice:
    """A device of a provider.

    Args:
        module: of the provider.
        device: name that the provider knows it by.
        prices: file with what it costs.
    """

    linger_s = 0.25
    poll_s = 1.0
    listing_delay_s = 0.0
    finds = False

    def __init__(self, module: str, device: str, prices: Path | None) -> None:
        self.name = f"provider:{module}:{device}"
        self.price = read_price(prices, f"{module}:{device}")
        self.usd_per_s: float | None = self.price.usd_per_s
        self._device, self._retrieve = find_device(module, device)
        self._most_shots = getattr(self._device, "max_shots", None) or getattr(self._device, "MAX_SHOTS", None)
        self.priced = not self.price.free
        # A job that cannot be retrieved dies with this process; where it is free, it is simply run again.
        self.local = self._retrieve is None and self.price.free
        self.limits = Limits(parts=getattr(self._device, "max_circuits", None) or 100, sets=100, alike=True)
        self._isa, self._last_stage = IsaCache(self.name, self._device.target), _last_stage(self._device)
        self._jobs: OrderedDict[str, Any] = OrderedDict()
        self._places: OrderedDict[str, list[Place]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def calibration(self) -> str:
        """Name of the device, and its version where it has one."""
        return "-".join(filter(None, (self._device.name, self._device.backend_version)))

    def effective(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of the transpiler."""
        return {name: options[name] for name in ("optimization_level", "seed_transpiler") if name in options}

    def expected_cpu_s(self, circuit: QuantumCircuit, circuits: int, shots: int) -> float:  # noqa: ARG002
        """Return 0, or refuse a circuit that the device cannot run, before the call is recorded.

        Raises:
            BadInput: too many qubits, or an exact expectation value.
        """
        self._isa.check(circuit, shots)
        return 0.0

    def estimate_qpu_s(self, circuit: QuantumCircuit, digest: str, executions: int) -> float:
        """Return the billing seconds of so many shots, by the price."""
        del circuit, digest
        return self.price.seconds(executions) if executions else 0.0

    def submit(
        self,
        tag: str,
        tasks: Sequence[Task],
        *,
        max_qpu_s: float | None = None,
        leaving: Callable[[], None] = nothing_left,
    ) -> str:
        """Send a batch as one job and return the job's id.

        Raises:
            BadInput: the device does not run that many shots; nothing was sent.
        """
        del max_qpu_s
        circuits = [circuit for slot, task in enumerate(tasks) for circuit in self._bound(tag, task, slot)]
        estimates = tasks[0].primitive == "estimator"
        shots = max(shots_for(task.precision) for task in tasks) if estimates else tasks[0].shots
        if self._most_shots and shots > self._most_shots:
            raise BadInput(f"{self.name} runs at most {self._most_shots} shots of a circuit, not {shots}")
        leaving()
        job = self._device.run(circuits, shots=shots)
        with self._lock:
            job_id = tag if self.local else str(job.job_id())
            self._jobs[job_id] = (job, tag)
            self._places[job_id] = _places(circuits)
            for kept in (self._jobs, self._places):
                if len(kept) > KEPT:
                    kept.popitem(last=False)
        return job_id

    def _bound(self, tag: str, task: Task, slot: int) -> Iterator[QuantumCircuit]:
        """Yield the compiled circuit of each parameter set and basis; its name says where its counts belong."""
        name = f"{tag}-{slot}-{task.digest}"
        if task.primitive == "sampler":
            yield from self._compiled(task, task.circuit, task.digest, [(name, i) for i in range(len(task.sets))])
            return
        for basis, indices in Measurements.plan(task.pairs).sets.items():
            names = [(f"{name}-{basis}-{index}", index) for index in indices]
            yield from self._compiled(task, measured_in(task.circuit, basis), f"{task.digest}:{basis}", names)

    def _compiled(
        self, task: Task, circuit: QuantumCircuit, digest: str, names: Sequence[tuple[str, int]]
    ) -> Iterator[QuantumCircuit]:
        """Yield a circuit with the parameter sets of these indices, under these names."""
        isa = self._isa.get(circuit, digest, task.options)
        binds = isa.template.binds(task.sets)
        for name, index in names:
            bound = isa.template.circuit.assign_parameters({p: float(values[index]) for p, values in binds.items()})
            bound = self._last_stage.run(bound) if self._last_stage else bound
            bound.name, bound.metadata = name, {}
            yield bound

    def status(self, job_id: str) -> Status:
        """Return what the provider reports about a job."""
        try:
            job = self._job(job_id)
            if job is None:
                return Status(JobState.LOST)
            found = self._ask(job.status, "status")
        except JobFailed as error:
            return Status(JobState.FAILED, str(error))
        state = str(getattr(found, "name", found)).upper()
        if state not in STATES:
            raise BadAnswer(f"{self.name} reports job {job_id} as {found!r}")
        reason = getattr(job, "error_message", None) if STATES[state] is JobState.FAILED else None
        return Status(STATES[state], str(self._ask(reason, "reason") or "") if callable(reason) else "")

    def results(self, job_id: str) -> Iterator[tuple[int, Executed | Exception]]:
        """Yield the bits of each task."""
        result, counts = self._counts(job_id)
        numbers = [all(str(key).startswith("0x") for key in entry.data.counts) for entry in result.results]
        sent = self._places.get(job_id, [])
        at = sent if len(sent) == len(counts) else [None] * len(counts)
        said = [_said(entry, place) for entry, place in zip(result.results, at, strict=True)]
        named = all(said)
        places = [place for place in said if place] if named else sent
        if len(places) != len(counts):
            raise BadAnswer(f"job {job_id} brought {len(counts)} results that do not say of which circuits they are")
        tasks: dict[tuple[str, int, str], list[int]] = {}
        for index, place in enumerate(places):
            tasks.setdefault((place.tag, place.slot, place.digest), []).append(index)
        shares = self.price.shares([sum(sum(counts[index].values()) for index in its) for its in tasks.values()])
        for ((tag, slot, digest), indices), share in zip(tasks.items(), shares, strict=True):
            arrays = [_bits(counts[index], places[index].registers, padded=numbers[index]) for index in indices]
            facts, origin = {"job": job_id}, (tag, digest) if named else None
            outcome = Executed({}, 0.0, 0.0, share=share, facts=facts, origin=origin)
            if places[indices[0]].basis:
                its = [(places[index], each) for index, each in zip(indices, arrays, strict=True)]
                bits = {(place.basis, place.number): _unpacked(each, place) for place, each in its}
                yield slot, replace(outcome, measured=bits)
                continue
            try:
                stacked = {register: np.stack([each[register] for each in arrays]) for register in arrays[0]}
            except ValueError as error:  # other numbers of shots
                raise BadAnswer(f"the result of job {job_id} is not of one shape: {error}") from None
            yield slot, replace(outcome, arrays=stacked)

    def _counts(self, job_id: str) -> tuple[Any, list[dict[str, int]]]:
        """Return the result of a job, and the counts in it."""
        result = self._ask(self._known(job_id).result, "result")
        try:
            return result, [dict(result.get_counts(index)) for index in range(len(result.results))]
        except (AttributeError, KeyError, TypeError, ValueError, QiskitError) as error:
            raise BadAnswer(f"the result of job {job_id} holds no counts: {type(error).__name__}: {error}") from None

    def remind(self, job_id: str, tag: str, tasks: Mapping[int, Task]) -> None:
        """Work out which circuits a job of another process holds; some providers' results do not say."""
        if job_id not in self._places:
            circuits = [circuit for slot, task in sorted(tasks.items()) for circuit in self._bound(tag, task, slot)]
            self._places[job_id] = _places(circuits)

    def billed(self, job_id: str) -> float | None:
        """Return the billing seconds of a finished job, by the price and the shots that came back."""
        try:
            if self.status(job_id).state is not JobState.DONE:
                return 0.0
        except BadAnswer as error:  # no bill is wrong, the question has no answer yet
            raise NoAnswer(str(error)) from None
        sent, (_, counts) = self._places.get(job_id), self._counts(job_id)
        if sent is not None and len(counts) != len(sent):
            raise BadAnswer(f"job {job_id} brought {len(counts)} results for {len(sent)} circuits")
        return self.price.seconds(sum(sum(each.values()) for each in counts))

    def cancel(self, job_id: str) -> None:
        """Cancel a job if the provider can."""
        with suppress(JobFailed):
            job = self._job(job_id)
            if job is not None:
                self._ask(job.cancel, "cancellation")

    def find(self, tag: str) -> tuple[str, ...]:
        """Return the jobs that this process made under a tag; a provider's jobs bear none."""
        with self._lock:
            return tuple(job_id for job_id, (_, its) in self._jobs.items() if its == tag)

    def _known(self, job_id: str) -> Any:
        job = self._job(job_id)
        if job is None:
            raise NoAnswer(f"{self.name} does not know job {job_id} any more")
        return job

    def _job(self, job_id: str) -> Any:
        with self._lock:
            if job_id in self._jobs:
                return self._jobs[job_id][0]
        if self._retrieve is None:
            return None
        job = self._ask(lambda: self._retrieve(job_id), "job")  # type: ignore[misc]
        with self._lock:
            self._jobs[job_id] = (job, "")
        return job

    def _ask(self, question: Callable[[], Any], what: str) -> Any:
        try:
            return question()
        except NotImplementedError:
            return None  # as Qiskit's own class of jobs where the provider cannot cancel
        except Exception as error:  # noqa: BLE001  (every provider raises its own kind; a question is asked again)
            if type(error).__name__ in FAILURES:
                raise JobFailed(str(error)) from None
            raise NoAnswer(f"{self.name}: no answer to the question for the {what}: {error}") from None


def _unpacked(arrays: Mapping[str, NDArray[Any]], place: Place) -> NDArray[np.uint8]:
    """Return the bits (shots, n) of the only register, qubit 0 first."""
    ((name, size),) = place.registers
    return np.unpackbits(arrays[name], axis=-1)[:, ::-1][:, :size]


def _bits(counts: Mapping[str, int], registers: Sequence[tuple[str, int]], *, padded: bool) -> dict[str, NDArray[Any]]:
    """Return counts as one packed bit array (shots, bytes) for each register, the first register in the low bits.

    Args:
        counts: by bits, the last bit first.
        registers: names and sizes.
        padded: whether zeros may be missing in front, as of numbers.

    Raises:
        BadAnswer: the bits are of other registers.
    """
    width = sum(size for _, size in registers)
    sizes = {len(word.replace(" ", "")) for word in counts}
    if max(sizes, default=width) > width or (sizes - {width} and not padded):
        raise BadAnswer(
            f"the counts are not of the registers {', '.join(f'{name}[{size}]' for name, size in registers)}"
        )
    samples = [word.replace(" ", "") for word, count in sorted(counts.items()) for _ in range(count)]
    whole = BitArray.from_samples(samples, width)
    found, first = {}, 0
    for name, size in registers:
        found[name] = whole.slice_bits(range(first, first + size)).array.reshape(len(samples), ceil(size / 8))
        first += size
    return found
