"""Devices of other providers: through Aer's own provider, and one that retrieves jobs and bills shots."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister
from qiskit.circuit import Parameter
from qiskit_aer import AerProvider, AerSimulator

from infra.errors import BackendFailed, BadInput
from infra.runtime.backends import registry
from infra.runtime.backends.provider import Price, find_provider, read_price
from infra.runtime.backends.registry import canonical_name
from infra.runtime.figures.inspect import list_parked
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


class MachineProvider:
    def get_backend(self, name: str) -> Any:
        if name != "machine":
            raise LookupError(name)
        machine = AerSimulator(seed_simulator=1)

        def run(circuits: Any, shots: int) -> Any:
            job = AerSimulator.run(machine, circuits, shots=shots)
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


def runtime(tmp_path: Path, backend: str) -> Runtime:
    return Runtime(tmp_path / "ledger.db", backend, projection="fake_manila", linger_s=0.0)


def scope(arm: str = "a") -> Scope:
    return Scope("r", "s", "t", "p", arm)


def flips() -> QuantumCircuit:
    low, high = ClassicalRegister(1, "low"), ClassicalRegister(2, "high")
    circuit = QuantumCircuit(QuantumRegister(3, "q"), low, high)
    circuit.ry(Parameter("a"), 0)
    circuit.x(2)
    circuit.measure(0, low[0])
    circuit.measure([1, 2], [high[0], high[1]])
    return circuit


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
    rented.sampler(scope()).run([flips_bound()], shots=25).result()
    spent = spending(rented.open())
    assert (spent.billed_usd, spent.reserved_usd) == (pytest.approx(0.3 + 25 * 0.01), 0)
    with pytest.raises(Exception, match="usd are needed"):
        rented.sampler(scope("b")).run([flips_bound()], shots=25).result()
    assert len(Rented.jobs) == 1


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


def test_expectation_values_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="measure the circuit"):
        runtime(tmp_path, "provider:qiskit_aer:aer_simulator").estimator(scope()).run(
            [(QuantumCircuit(1), "Z")], precision=0.1
        )


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
