"""What the runtime queue costs and saves, each beside its peer in one run: `python -m benchmarks queue`.

Every queue figure here waits for the disk at each write. Intervals are 95 % bootstrap intervals of the median.
"""

from __future__ import annotations

import multiprocessing as mp
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.transpiler import generate_preset_pass_manager
from qiskit_aer.primitives import SamplerV2
from qiskit_ibm_runtime import fake_provider  # noqa: F401  (imported once, not by each forked caller)

from infra.runtime.backends import registry as backends
from infra.runtime.backends.projection import project
from infra.runtime.circuits.payload import circuit_digest
from infra.runtime.leader import Leader
from infra.runtime.limits import Limits
from infra.runtime.queue import Runtime, Scope

SHOTS = 64
CALLS, WARM = 200, 20
CALLERS, HERD, DISTINCT = 8, 1000, 50
ROUNDS = 3
SUBPROBLEMS, TASK_SHOTS = 64, 1000

Times = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Figure:
    """A median with its interval."""

    value: float
    low: float
    high: float

    def text(self, scale: float = 1.0, unit: str = "") -> str:
        """Return the figure in a unit."""
        return f"{scale * self.value:.3g} [{scale * self.low:.3g}, {scale * self.high:.3g}]{unit}"


def interval(values: Sequence[float] | Times, seed: int = 0, draws: int = 2000) -> Figure:
    """Return the median of values with its bootstrap interval."""
    sample = np.asarray(values, dtype=float)
    rng = np.random.default_rng(seed)
    medians = np.median(rng.choice(sample, size=(draws, len(sample))), axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return Figure(float(np.median(sample)), float(low), float(high))


def ansatz(number: int = 0) -> QuantumCircuit:
    """A small variational circuit: 4 qubits, 2 layers."""
    circuit = QuantumCircuit(4)
    for layer in range(2):
        for qubit in range(4):
            circuit.ry(Parameter(f"a{layer}{qubit}"), qubit)
        for qubit in range(3):
            circuit.cx(qubit, qubit + 1)
    circuit.rz(0.001 * number, 0)
    circuit.measure_all()
    return circuit


def durable(folder: Path) -> Runtime:
    """Return a runtime on Aer whose ledger waits for the disk."""
    return Runtime(folder / "ledger.db", durable=True)


def scope(problem: object) -> Scope:
    """Return the scope of one call: each is the first of its arm, so none is a replay."""
    return Scope("bench", "inference", "pruning", str(problem), "qaoa")


def timed(function: Callable[[], object]) -> float:
    """Return the elapsed seconds of a call."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def overhead(runtime: Runtime, *, name: str) -> Figure:
    """Time calls through the queue and the same on Aer's sampler in turns; print the differences."""
    circuit, rng, peer = ansatz(), np.random.default_rng(0), SamplerV2()
    ours_s, peer_s = [], []
    for number in range(WARM + CALLS):
        pub = (circuit, rng.uniform(0, np.pi, size=(1, 8)))
        one = timed(lambda pub=pub: peer.run([pub], shots=SHOTS).result())  # type: ignore[misc]
        sampler = runtime.sampler(scope(f"{name} {number}"))
        two = timed(lambda pub=pub, s=sampler: s.run([pub], shots=SHOTS).result())  # type: ignore[misc]
        if number >= WARM:
            peer_s.append(one)
            ours_s.append(two)
    difference = interval(np.array(ours_s) - np.array(peer_s))
    say(
        f"overhead per call, {name}: {difference.text(1e3, ' ms')} over Aer's sampler "
        f"({1e3 * median(peer_s):.3g} ms; ratio {interval(np.array(ours_s) / np.array(peer_s)).text()})"
    )
    return difference


def leads_itself() -> Figure:
    """Overhead per call where the caller itself leads; the aim is 5 ms."""
    with tempfile.TemporaryDirectory() as folder:
        return overhead(durable(Path(folder)), name="caller leads")


def across_processes() -> Figure:
    """Overhead per call that a process elsewhere leads; the aim is 50 ms."""
    with tempfile.TemporaryDirectory() as folder:
        context = mp.get_context("fork")
        runtime = durable(Path(folder))
        runtime.open()
        stop = context.Event()
        other = context.Process(target=_lead_until, args=(runtime, stop), daemon=True)
        other.start()
        never: Any = classmethod(lambda *_, **__: None)
        original = Leader.__dict__["start_if_free"]
        Leader.start_if_free = never  # type: ignore[method-assign]  # this process only waits
        try:
            return overhead(runtime, name="another process leads")
        finally:
            Leader.start_if_free = original  # type: ignore[method-assign]
            stop.set()
            other.join()


def _lead_until(runtime: Runtime, stop: Any) -> None:
    while not stop.is_set():
        runtime.drain()
        time.sleep(0.001)


def group_commit() -> Figure:
    """1,000 small circuits from 8 processes: shared jobs against one durable job for each call."""
    shared_s, single_s, plain_s, jobs = [], [], [], []
    for number in range(ROUNDS):
        for times, limits in ((shared_s, None), (single_s, Limits(parts=1))):
            with tempfile.TemporaryDirectory() as folder:
                times.append(_herd(_through_queue, Path(folder), number, limits))
                if limits is None:
                    jobs.append(_jobs(Path(folder) / "ledger.db"))
        with tempfile.TemporaryDirectory() as folder:
            plain_s.append(_herd(_alone, Path(folder), number, None))
    ratio = interval(np.array(shared_s) / np.array(single_s))
    say(
        f"{HERD:,} circuits from {CALLERS} processes: {interval(shared_s).text(unit=' s')} in {median(jobs):.0f} jobs; "
        f"one durable job for each call {interval(single_s).text(unit=' s')}, ratio {ratio.text()}; "
        f"Aer's sampler and a durable write in each process {interval(plain_s).text(unit=' s')}, "
        f"ratio {interval(np.array(shared_s) / np.array(plain_s)).text()}"
    )
    return ratio


def _herd(work: Callable[..., None], folder: Path, number: int, limits: Limits | None) -> float:
    context = mp.get_context("fork")
    go = context.Barrier(CALLERS + 1)
    callers = [context.Process(target=work, args=(folder, number, caller, limits, go)) for caller in range(CALLERS)]
    for caller in callers:
        caller.start()
    go.wait()
    began = time.perf_counter()
    for caller in callers:
        caller.join()
        assert caller.exitcode == 0
    return time.perf_counter() - began


def _through_queue(folder: Path, number: int, caller: int, limits: Limits | None, go: Any) -> None:
    runtime = durable(folder)
    if limits is not None:
        backends.open_backend("aer").limits = limits
    runtime.open()
    circuit, rng = ansatz(caller), np.random.default_rng((number, caller))
    go.wait()
    for call in range(HERD // CALLERS):
        pub = (circuit, rng.uniform(0, np.pi, size=(1, 8)))
        runtime.sampler(scope(f"{caller} {call}")).run([pub], shots=SHOTS).result()


def _alone(folder: Path, number: int, caller: int, _: Limits | None, go: Any) -> None:
    circuit, rng, sampler = ansatz(caller), np.random.default_rng((number, caller)), SamplerV2()
    with sqlite3.connect(folder / "results.db", timeout=60, isolation_level=None) as results:
        results.execute("PRAGMA journal_mode=WAL")
        results.execute("PRAGMA synchronous=FULL")
        results.execute("create table if not exists results (caller, call, data)")
        go.wait()
        for call in range(HERD // CALLERS):
            pub = (circuit, rng.uniform(0, np.pi, size=(1, 8)))
            data = sampler.run([pub], shots=SHOTS).result()[0].data.meas.array.tobytes()
            results.execute("insert into results values (?, ?, ?)", (caller, call, data))


def distinct_circuits() -> Figure:
    """Calls a second of 8 processes with 50 calls each, every one of another circuit; the aim is 30."""
    rates = []
    for number in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            rates.append(CALLERS * DISTINCT / _herd(_each_another, Path(folder), number, None))
    rate = interval(rates)
    say(f"{CALLERS} processes with {DISTINCT} calls each, all of distinct circuits: {rate.text()} calls/s")
    return rate


def _each_another(folder: Path, number: int, caller: int, _: Limits | None, go: Any) -> None:
    runtime = durable(folder)
    runtime.open()
    rng = np.random.default_rng((number, caller))
    go.wait()
    for call in range(DISTINCT):
        pub = (ansatz(1 + 1000 * caller + call), rng.uniform(0, np.pi, size=(1, 8)))
        runtime.sampler(scope(f"{caller} {call}")).run([pub], shots=SHOTS).result()


def _jobs(path: Path) -> int:
    with sqlite3.connect(path) as ledger:
        return int(ledger.execute("select count(*) from batches").fetchone()[0])


def formula_seconds() -> float:
    """QPU seconds by the documented formula: 64 subproblems in one job against 64 jobs; the aim is 1/6."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = durable(Path(folder)).open()
        circuit = ansatz()
        projection = project(circuit, circuit_digest(circuit), "fake_torino", ledger)
    together = SUBPROBLEMS * projection.qpu_s(TASK_SHOTS, SUBPROBLEMS * TASK_SHOTS)
    apart = SUBPROBLEMS * projection.qpu_s(TASK_SHOTS, TASK_SHOTS)
    say(
        f"formula QPU seconds on fake_torino, {SUBPROBLEMS} subproblems of {TASK_SHOTS:,} shots: {together:.3g} s in "
        f"one job, {apart:.3g} s in {SUBPROBLEMS}, ratio {together / apart:.3f} (1/{apart / together:.1f})"
    )
    return together / apart


def binding() -> Figure:
    """Transpiling a circuit for a device against binding the parameters of its transpiled template; the aim is 20."""
    device = backends.fake_device("fake_torino")
    compiler = generate_preset_pass_manager(2, target=device.target, seed_transpiler=11)
    circuit, rng = ansatz(), np.random.default_rng(0)
    isa = compiler.run(circuit)
    compile_s, bind_s = [], []
    for _ in range(30):
        values = rng.uniform(0, np.pi, size=8)
        compile_s.append(timed(lambda: compiler.run(circuit)))
        bind_s.append(timed(lambda values=values: isa.assign_parameters(values)))  # type: ignore[misc]
    ratio = interval(np.array(compile_s) / np.array(bind_s))
    say(
        f"a 4-qubit template for fake_torino: transpiling {interval(compile_s).text(1e3, ' ms')}, "
        f"binding {interval(bind_s).text(1e3, ' ms')}, ratio {ratio.text()}"
    )
    return ratio


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Print all figures."""
    leads_itself()
    across_processes()
    group_commit()
    distinct_circuits()
    formula_seconds()
    binding()


if __name__ == "__main__":
    main()
