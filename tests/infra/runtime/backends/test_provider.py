"""Devices of other providers: through Aer's own provider, and one that retrieves jobs and bills shots."""

from __future__ import annotations

import copy
import math
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from flips import flips  # type: ignore[import-not-found]
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.exceptions import QiskitError
from qiskit.primitives import StatevectorEstimator
from qiskit.quantum_info import SparsePauliOp
from qiskit_aer import AerProvider, AerSimulator
from qiskit_aer.jobs import AerJob

from infra.energy.model import Coefficients
from infra.errors import BackendFailed, BadInput
from infra.runtime import billing, dispatcher
from infra.runtime.backends import registry
from infra.runtime.backends.contract import JobState
from infra.runtime.backends.provider import Price, ProviderDevice, find_provider, read_price
from infra.runtime.backends.registry import canonical_name
from infra.runtime.figures.attention import list_unsettled
from infra.runtime.figures.inspect import list_parked, show_call
from infra.runtime.figures.summary import summarise
from infra.runtime.ledger.budget import set_limit, spending
from infra.runtime.queue import Runtime, Scope

PRICES = """
qiskit_aer:aer_simulator: {}
rented:machine: {usd_per_job: 0.3, usd_per_shot: 0.01}
"""


class Rented:
    """A provider whose jobs live at the provider: they are retrieved by their id; answers may be lost."""

    jobs: dict[str, Any] = {}  # noqa: RUF012
    lose = False
    moody: random.Random | None = None
    headless = False  # as Amazon Braket's provider, whose results do not name their circuits


class MachineProvider:
    def get_backend(self, name: str) -> Any:
        if name != "machine":
            raise LookupError(name)
        machine = AerSimulator(seed_simulator=1)

        def run(circuits: Any, shots: int) -> Any:
            job = AerSimulator.run(machine, circuits, shots=shots)
            if Rented.headless:
                result = job.result()
                for entry in result.results:
                    entry.header = None
                job.result = lambda: result
            if Rented.moody is not None:
                job = Moody(job, Rented.moody)
            Rented.jobs[job.job_id()] = job
            if Rented.lose:
                raise ConnectionError("the answer was lost")
            return job

        machine.run = run
        machine.retrieve_job = lambda job_id: Rented.jobs[job_id]
        return machine


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text(PRICES)
    monkeypatch.setenv("KETCYCLE_PROVIDER_PRICES", str(prices))
    module = ModuleType("rented")
    module.MachineProvider = MachineProvider  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rented", module)
    monkeypatch.setattr(registry, "_open", {})
    monkeypatch.setattr(Rented, "jobs", {})
    monkeypatch.setattr(Rented, "lose", False)
    monkeypatch.setattr(Rented, "headless", False)
    monkeypatch.setattr(Rented, "moody", None)


def runtime(tmp_path: Path, backend: str) -> Runtime:
    return Runtime(tmp_path / "ledger.db", backend, projection="fake_manila", linger_s=0.0)


def scope(arm: str = "a") -> Scope:
    return Scope("r", "s", "t", "p", arm)


@pytest.mark.parametrize("backend", ["provider:qiskit_aer:aer_simulator", "provider:rented:machine"])
def test_circuits_run_on_a_providers_device(tmp_path: Path, backend: str) -> None:
    result = runtime(tmp_path, backend).sampler(scope()).run([(flips(), [[0.0], [math.pi]]), flips_bound()], shots=25)
    first, second = (pub.data for pub in result.result())
    assert [first.low[i].get_counts() for i in range(2)] == [{"0": 25}, {"1": 25}]
    assert first.high[0].get_counts() == second.high.get_counts() == {"10": 25}


def flips_bound() -> QuantumCircuit:
    return flips().assign_parameters([0.0])


def test_what_is_billed_is_the_price_of_the_file(tmp_path: Path) -> None:
    rented = runtime(tmp_path, "provider:rented:machine")
    set_limit(rented.open(), "day", "usd", 1.0)
    job = rented.sampler(scope()).run([flips_bound()], shots=25)
    job.result()
    spent = spending(rented.open())
    assert (spent.billed_usd, spent.reserved_usd) == (pytest.approx(0.3 + 25 * 0.01), 0)
    (entry,) = summarise(rented.ledger, tmp_path, "r")["backends"]
    assert (entry["billed"], entry["cost_usd"]) == (True, [pytest.approx(0.3 + 25 * 0.01)] * 3), "not projected"
    assert entry["qpu_s_billed"] == job.usage.qpu_s_billed == 0, "dollars are no time of a QPU"
    assert job.usage.usd_billed == pytest.approx(0.3 + 25 * 0.01), "what evidence and router count"
    assert entry["qpu_energy_j"][1] == pytest.approx(Coefficients.load().qpu_energy_j(job.usage).p50)
    with pytest.raises(Exception, match="usd are needed"):
        rented.sampler(scope("b")).run([flips_bound()], shots=25).result()
    assert len(Rented.jobs) == 1


def test_the_price_of_a_shared_job_is_divided_among_its_calls(tmp_path: Path) -> None:
    rented = runtime(tmp_path, "provider:rented:machine")
    pubs = [(flips(), [[0.0], [1.0], [2.0]])], [(flips_bound(),)]
    jobs = [rented.sampler(scope(arm)).run(asked, shots=20) for arm, asked in zip("ab", pubs, strict=True)]
    rented.drain()
    for job in jobs:
        job.result()
    assert len(Rented.jobs) == 1
    assert [job.usage.usd_billed for job in jobs] == [pytest.approx(0.15 + 0.6), pytest.approx(0.15 + 0.2)]
    (batch,) = {part["batch"] for job in jobs for part in show_call(rented.ledger, job.job_id())["parts"]}
    rented.open().settle(batch, 2.2)  # the provider's page says so
    again = [rented.sampler(scope(arm)).run(asked, shots=20) for arm, asked in zip("ab", pubs, strict=True)]
    for job in again:
        job.result()
    assert [job.usage.usd_billed for job in again] == [pytest.approx(1.5), pytest.approx(0.7)]
    assert spending(rented.open()).billed_usd == pytest.approx(2.2)


def test_what_leaves_for_a_provider_waits_for_the_disk(tmp_path: Path) -> None:
    with runtime(tmp_path, "provider:rented:machine").open().database.write() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2, "a lost write could pay twice"
    with Runtime(tmp_path / "simulated.db").open().database.write() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1


def test_a_job_of_a_process_that_ended_is_retrieved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rented = runtime(tmp_path, "provider:rented:machine")
    device = registry.open_backend(rented.backend)
    job = rented.sampler(scope(), deadline=0.0).run([flips_bound()], shots=25)
    with monkeypatch.context() as patch:
        patch.setattr(type(device), "results", lambda *_: (_ for _ in ()).throw(RuntimeError("killed here")))
        with pytest.raises(Exception, match="outcome"):
            job.result(timeout=60)
    monkeypatch.setattr(registry, "_open", {})  # as in another process: nothing is remembered
    (parked,) = list_parked(rented.ledger)
    rented.open().resolve(parked["tag"], next(iter(Rented.jobs)))
    assert job.result(timeout=60)[0].data.high.get_counts() == {"10": 25}
    assert len(Rented.jobs) == 1


def test_a_lost_answer_is_left_to_a_person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rented, "lose", True)
    rented = runtime(tmp_path, "provider:rented:machine")
    with pytest.raises(BackendFailed, match="unknown outcome"):
        rented.sampler(scope()).run([flips_bound()], shots=25).result()
    assert len(Rented.jobs) == 1
    assert spending(rented.open()).reserved_s > 0


OBSERVABLES = SparsePauliOp.from_list([("ZZ", 0.5), ("XX", 0.25), ("IZ", 1.0), ("YY", 2.0)])


@pytest.mark.parametrize("backend", ["provider:qiskit_aer:aer_simulator", "provider:rented:machine"])
@pytest.mark.parametrize("headless", [False, True])
def test_expectation_values_are_computed_from_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, headless: bool
) -> None:
    monkeypatch.setattr(Rented, "headless", headless)
    circuit = QuantumCircuit(2)
    circuit.ry(Parameter("a"), 0)
    circuit.cx(0, 1)
    sets = np.array([[0.3], [2.1]])
    pub = (circuit, [[OBSERVABLES], [SparsePauliOp("ZI")]], sets)
    exact = StatevectorEstimator().run([pub]).result()[0].data.evs
    queued = runtime(tmp_path, backend)
    found = queued.estimator(scope()).run([pub], precision=0.02).result()[0].data
    assert found.evs.shape == exact.shape == (2, 2)
    assert np.all(np.abs(found.evs - exact) < 5 * found.stds + 1e-9)
    if backend.startswith("provider:rented"):  # the bases ZZ, XX, YY and ZI, for each of two sets
        assert spending(queued.open()).billed_usd == pytest.approx(0.3 + 8 * 2500 * 0.01)
    with pytest.raises(BadInput, match="precision above 0"):
        queued.estimator(scope("b")).run([pub], precision=0).result()


def test_results_without_headers_are_read_by_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rented, "headless", True)
    rented = runtime(tmp_path, "provider:rented:machine")
    device = registry.open_backend(rented.backend)
    job = rented.sampler(scope()).run([(flips(), [[0.0], [math.pi]]), flips_bound()], shots=25)
    with monkeypatch.context() as patch:
        patch.setattr(type(device), "results", lambda *_: (_ for _ in ()).throw(RuntimeError("killed here")))
        with pytest.raises(Exception, match="outcome"):
            job.result(timeout=60)
    monkeypatch.setattr(registry, "_open", {})  # as in another process: nothing is remembered
    (parked,) = list_parked(rented.ledger)
    rented.open().resolve(parked["tag"], next(iter(Rented.jobs)))
    first, second = (pub.data for pub in job.result(timeout=60))
    assert [first.low[i].get_counts() for i in range(2)] == [{"0": 25}, {"1": 25}]
    assert first.high[0].get_counts() == second.high.get_counts() == {"10": 25}


class Moody:
    """A provider's job that answers some questions with anything."""

    def __init__(self, job: Any, rng: random.Random) -> None:
        self._job, self._rng, self._bad = job, rng, rng.randrange(6)

    def _mood(self, *others: Any) -> Any:
        """Raise, or return one of these, as long as the bad mood lasts; then return None."""
        if self._bad <= 0 or self._rng.random() < 0.3:
            return None
        self._bad -= 1
        if self._rng.random() < 0.5:
            raise self._rng.choice((ConnectionError, KeyError, ValueError, QiskitError, TimeoutError))("a bad mood")
        return self._rng.choice(others)

    def job_id(self) -> str:
        return str(self._job.job_id())

    def status(self) -> Any:
        return self._mood("HELD", None, 7) or self._job.status()

    def result(self) -> Any:
        less = copy.deepcopy(self._job.result())
        less.results = less.results[:-1]
        return self._mood(less, None, "a page") or self._job.result()

    def cancel(self) -> None:
        self._mood(None)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_a_provider_answers_ends_one_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(Rented, "moody", rng)
    monkeypatch.setattr(Rented, "headless", rng.random() < 0.5)
    monkeypatch.setattr(ProviderDevice, "poll_s", 0.001)
    monkeypatch.setattr(ProviderDevice, "linger_s", 0.0)
    monkeypatch.setattr(dispatcher, "LONGEST_PAUSE_S", 0.01)
    monkeypatch.setattr(billing, "BILL_PATIENCE_S", 0.05)
    rented = runtime(tmp_path, "provider:rented:machine")
    jobs = [rented.sampler(scope(name)).run([flips_bound()], shots=10 * (k + 1)) for k, name in enumerate("abc")]
    for _ in range(3):
        rented.drain()
    states = [job.status() for job in jobs]
    assert set(states) <= {"DONE", "FAILED", "UNKNOWN"}, states
    for k, job in enumerate(jobs):
        if states[k] == "DONE":
            assert job.result()[0].data.high.get_counts() == {"10": 10 * (k + 1)}
        else:
            with pytest.raises(BackendFailed):
                job.result()
    assert len(Rented.jobs) == 3, "each was sent once"
    for row in list_unsettled(rented.ledger):  # a person settles what is flagged or parked, by the provider's page
        assert row["billed_s"] is None or row["billed_s"] <= row["max_qpu_s"]
        counts = Rented.jobs[row["job_id"]]._job.result().get_counts()
        rented.open().settle(row["tag"], 0.3 + 0.01 * sum(counts.values()))
    spent = spending(rented.open())
    assert spent.billed_usd == pytest.approx(sum(0.3 + 10 * (k + 1) * 0.01 for k in range(3)))
    assert spent.reserved_usd == 0


def test_a_module_may_make_the_device_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    laboratory = ModuleType("laboratory")
    laboratory.machine = lambda: MachineProvider().get_backend("machine")  # type: ignore[attr-defined]
    laboratory.number = lambda: 7  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "laboratory", laboratory)
    (tmp_path / "prices.yaml").write_text("laboratory:machine: {usd_per_shot: 0.01}\nlaboratory:number: {}")
    made = runtime(tmp_path, "provider:laboratory:machine")
    assert made.sampler(scope()).run([flips_bound()], shots=25).result()[0].data.high.get_counts() == {"10": 25}
    with pytest.raises(BadInput, match="number is a int, no BackendV2"):
        registry.open_backend("provider:laboratory:number")


def test_more_shots_than_the_device_runs_are_refused_before_anything_is_sent(tmp_path: Path) -> None:
    rented = runtime(tmp_path, "provider:rented:machine")
    registry.open_backend(rented.backend)._most_shots = 100  # type: ignore[attr-defined]
    with pytest.raises(BadInput, match="at most 100 shots"):
        rented.sampler(scope()).run([flips_bound()], shots=101).result()
    assert not Rented.jobs


@pytest.mark.parametrize("registers", ["named", "missing"])
def test_a_header_may_name_the_circuit_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registers: str) -> None:
    """As IQM's results, which leave out a register that nothing is measured into."""
    results = AerJob.result

    def result(job: Any) -> Any:
        found = copy.deepcopy(results(job))
        for entry in found.results:
            kept = 3 if registers == "named" else 2
            words = {format(int(word, 0), "03b")[:kept]: n for word, n in entry.data.counts.items()}
            entry.data.counts, entry.header = words, {"name": entry.header["name"]}
        return found

    monkeypatch.setattr(AerJob, "result", result)
    job = runtime(tmp_path, "provider:rented:machine").sampler(scope()).run([flips_bound()], shots=25)
    if registers == "named":
        assert job.result()[0].data.high.get_counts() == {"10": 25}
        return
    with pytest.raises(BackendFailed, match=r"not of the registers low\[1\], high\[2\]"):
        job.result()


def test_what_a_job_costs_beyond_its_reservation_is_charged_and_flagged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = AerJob.result

    def result(job: Any) -> Any:
        found = copy.deepcopy(results(job))
        for entry in found.results:
            entry.data.counts = {word: 5 * n for word, n in entry.data.counts.items()}
        return found

    monkeypatch.setattr(AerJob, "result", result)
    rented = runtime(tmp_path, "provider:rented:machine")
    with pytest.raises(BackendFailed, match="shots were asked"):
        rented.sampler(scope()).run([flips_bound()], shots=25).result()
    spent = spending(rented.open())  # .55 USD were expected, up to 1.1 reserved, and 125 shots cost 1.55
    assert (spent.billed_usd, spent.reserved_usd) == (pytest.approx(1.55), 0)
    (unsettled,) = list_unsettled(rented.ledger)
    rented.open().settle(unsettled["tag"], 0.55)
    spent = spending(rented.open())
    assert (spent.billed_usd, spent.reserved_usd) == (pytest.approx(0.55), 0)


class IonQJobFailureError(Exception):
    """As the class of that name in qiskit-ionq."""


def test_a_client_that_raises_instead_of_a_failed_state_ends_the_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def status(_: Any) -> Any:
        raise IonQJobFailureError("too large")

    monkeypatch.setattr(AerJob, "status", status)
    rented = runtime(tmp_path, "provider:rented:machine")
    with pytest.raises(BackendFailed, match="failed: too large"):
        rented.sampler(scope()).run([flips_bound()], shots=25).result(timeout=30)
    spent = spending(rented.open())
    assert (spent.billed_usd, spent.reserved_usd) == (0, 0)


def test_a_job_that_cannot_be_cancelled_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cancel(_: Any) -> Any:
        raise NotImplementedError

    monkeypatch.setattr(AerJob, "cancel", cancel)
    rented = runtime(tmp_path, "provider:rented:machine")
    job = rented.sampler(scope()).run([flips_bound()], shots=25)
    job.result()
    device, number = registry.open_backend(rented.backend), next(iter(Rented.jobs))
    device.cancel(number)
    assert device.status(number).state is JobState.DONE


def test_names_and_prices_that_are_wrong_say_what_to_write(tmp_path: Path) -> None:
    assert canonical_name("provider:a.b:c:d") == "provider:a.b:c:d"
    assert isinstance(find_provider("qiskit_aer"), AerProvider)
    assert isinstance(find_provider("qiskit_aer.AerProvider"), AerProvider)
    for name, words in {"provider:qiskit_aer": "names no device", "provider:nowhere:x": "provider_prices"}.items():
        with pytest.raises(BadInput, match=words if "names" in words else "says nothing"):
            registry.open_backend(name)
    with pytest.raises(BadInput, match="no module nowhere"):
        find_provider("nowhere")
    with pytest.raises(BadInput, match="holds none"):
        find_provider("json")
    with pytest.raises(BadInput, match="set provider_prices"):
        read_price(None, "a:b")
    (tmp_path / "bad.yaml").write_text("a:b: {usd_per_shot: -1}")
    with pytest.raises(BadInput, match="cannot be read"):
        read_price(tmp_path / "bad.yaml", "a:b")
    assert Price(usd_per_job=1.0, usd_per_shot=0.5, usd_per_s=2.0).seconds(4) == 1.5
