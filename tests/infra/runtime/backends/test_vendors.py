"""IonQ, IQM and AQT through their own packages: fake devices, offline simulators, a loopback double of IonQ's service.

The packages are no dependencies; each test is skipped where its package is absent. `docs/queue.md` says how to install
them, and which of them want another Qiskit than this package.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.primitives import StatevectorEstimator
from qiskit.quantum_info import SparsePauliOp

sys.path.insert(0, str(Path(__file__).parents[3] / "doubles"))

from flips import flips  # type: ignore[import-not-found]
from ionq import Service, serve  # type: ignore[import-not-found]

from infra.errors import BackendFailed, BadInput
from infra.runtime import dispatcher
from infra.runtime.backends import registry
from infra.runtime.backends.provider import ProviderDevice
from infra.runtime.figures.inspect import list_parked
from infra.runtime.ledger.budget import spending
from infra.runtime.queue import Runtime, Scope

PRICES = """
qiskit_ionq:simulator: {}
qiskit_ionq:qpu.forte-1: {usd_per_job: 0.3, usd_per_shot: 0.03}
iqm.qiskit_iqm:IQMFakeAdonis: {usd_per_shot: 0.0015}
laboratory:ions: {usd_per_shot: 0.02}
"""
OBSERVABLE = SparsePauliOp.from_list([("ZZ", 0.5), ("XX", 0.25), ("YI", 0.5)])


@pytest.fixture(autouse=True)
def prices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text(PRICES)
    monkeypatch.setenv("KETCYCLE_PROVIDER_PRICES", str(file))
    monkeypatch.setattr(registry, "_open", {})
    monkeypatch.setattr(ProviderDevice, "poll_s", 0.01)
    monkeypatch.setattr(dispatcher, "LONGEST_PAUSE_S", 0.05)


def runtime(tmp_path: Path, backend: str) -> Runtime:
    return Runtime(tmp_path / "ledger.db", backend, projection="fake_manila", linger_s=0.0)


def ask(queue: Runtime, arm: str = "a", shots: int = 40) -> Any:
    circuit = flips()
    pubs = [(circuit, [[0.0], [math.pi]]), circuit.assign_parameters([0.0])]
    return queue.sampler(Scope("r", "s", "t", "p", arm)).run(pubs, shots=shots)


def check_bits(job: Any, share: float = 1.0) -> None:
    """At least this share of the shots is right."""
    first, second = (pub.data for pub in job.result(timeout=60))
    for counts, right in [(first.low[0].get_counts(), "0"), (first.low[1].get_counts(), "1"),
                          (first.high[0].get_counts(), "10"), (second.high.get_counts(), "10")]:  # fmt: skip
        assert sum(counts.values()) == 40
        assert counts[right] >= share * 40


def check_values(queue: Runtime, off: float) -> None:
    circuit = QuantumCircuit(2)
    circuit.ry(Parameter("a"), 0)
    circuit.cx(0, 1)
    circuit.rzz(-3.0, 0, 1)
    pub = (circuit, [[OBSERVABLE]], np.array([[0.3], [2.1]]))
    exact = StatevectorEstimator().run([pub]).result()[0].data.evs
    found = queue.estimator(Scope("r", "s", "t", "p", "e")).run([pub], precision=0.03).result()[0].data.evs
    assert np.abs(found - exact).max() < off


def test_iqm_s_fake_device(tmp_path: Path) -> None:
    pytest.importorskip("iqm.qiskit_iqm", reason="iqm-client[qiskit] is not installed")
    adonis = runtime(tmp_path, "provider:iqm.qiskit_iqm:IQMFakeAdonis")
    job = ask(adonis)
    check_bits(job, 0.7)
    assert (spending(adonis.open()).billed_usd, job.usage.usd_billed) == (pytest.approx(0.18), pytest.approx(0.18))
    check_values(adonis, 0.25)


def test_aqt_s_offline_simulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aqt = pytest.importorskip("qiskit_aqt_provider", reason="qiskit-aqt-provider is not installed")
    device = aqt.AQTProvider().offline.ideal()
    run, sent = device.run, []

    def kept(circuits: list[QuantumCircuit], **options: Any) -> Any:
        sent.extend(circuits)
        return run(circuits, **options)

    monkeypatch.setattr(device, "run", kept)
    laboratory = ModuleType("laboratory")  # as docs/queue.md: a module of one's own that makes the device
    laboratory.ions = lambda: device  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "laboratory", laboratory)
    ions = runtime(tmp_path, "provider:laboratory:ions")
    job = ask(ions)
    check_bits(job)
    assert (spending(ions.open()).billed_usd, job.usage.usd_billed) == (pytest.approx(2.4), pytest.approx(2.4))
    check_values(ions, 0.15)
    asked = pytest.importorskip("qiskit_aqt_provider._transformers").circuits_to_aqt_job
    assert len(asked(sent, 40).payload.circuits) == len(sent) == 9, "angles as AQT's service wants them"
    with pytest.raises(BadInput, match="at most 2000 shots"):
        ask(ions, "b", shots=2001).result(timeout=60)


@pytest.fixture
def ionq(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    pytest.importorskip("qiskit_ionq", reason="qiskit-ionq is not installed")
    with serve() as (service, address), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        monkeypatch.setenv("IONQ_API_KEY", "any")
        monkeypatch.setenv("IONQ_API_URL", address)
        yield service


@pytest.mark.parametrize("device", ["simulator", "qpu.forte-1"])
def test_ionq_s_client(tmp_path: Path, ionq: Service, device: str) -> None:
    ions = runtime(tmp_path, f"provider:qiskit_ionq:{device}")
    job = ask(ions)
    check_bits(job)
    assert job.usage.usd_billed == pytest.approx(0.3 + 3 * 40 * 0.03 if "qpu" in device else 0)
    if device == "simulator":
        check_values(ions, 0.15)
    assert len(ionq.jobs) == (2 if device == "simulator" else 1)


def test_ionq_s_client_sends_once(tmp_path: Path, ionq: Service) -> None:
    ionq.faults = [503]
    ions = runtime(tmp_path, "provider:qiskit_ionq:qpu.forte-1")
    with pytest.raises(BackendFailed, match="unknown outcome"):
        ask(ions).result(timeout=60)
    assert len(ionq.jobs) == 1, "the client would have sent it again"
    (parked,) = list_parked(ions.ledger)
    ions.open().resolve(parked["tag"], "job-0")
    check_bits(ask(ions))
    assert len(ionq.jobs) == 1


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_failed_job_of_ionq_ends_the_call_with_its_reason(tmp_path: Path, ionq: Service, elsewhere: bool) -> None:
    ionq.ending = "failed"
    ions = runtime(tmp_path, "provider:qiskit_ionq:qpu.forte-1")
    if elsewhere:  # another process finds the job by its id
        ionq.faults = [503]
        with pytest.raises(BackendFailed, match="unknown outcome"):
            ask(ions).result(timeout=60)
        (parked,) = list_parked(ions.ledger)
        ions.open().resolve(parked["tag"], "job-0")
    with pytest.raises(BackendFailed, match="NotEnoughQubits: too large"):
        ask(ions).result(timeout=60)
    assert (spending(ions.open()).billed_usd, spending(ions.open()).reserved_usd) == (0, 0)


def test_a_job_of_ionq_is_cancelled(tmp_path: Path, ionq: Service) -> None:
    ionq.ending = "started"
    ions = runtime(tmp_path, "provider:qiskit_ionq:qpu.forte-1")
    job = ask(ions)
    job.cancel()
    ions.drain()
    assert [made["status"] for made in ionq.jobs.values()] in ([], ["canceled"])
    assert spending(ions.open()).reserved_usd == 0
