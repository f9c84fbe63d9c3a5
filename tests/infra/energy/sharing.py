"""Two arms in two processes whose circuits travel in one job, metered as `settle` meters them, for a test.

    python sharing.py LEDGER OUT

Imports once, then forks. Each process notes what was booked to its arm and what the kernel says it used meanwhile.
"""

import json
import multiprocessing
import sys
import time
from pathlib import Path

import numpy as np
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter

from infra.energy.arms import measure_arms
from infra.energy.meter import Counters, Meter
from infra.runtime.figures.inspect import list_calls
from infra.runtime.ledger.lane import Lane
from infra.runtime.queue import Runtime, Scope, dispatched_usage

SETS = {"small": 16, "large": 48}
OWN_S = 0.3
QUBITS = 16


def circuit():
    made = QuantumCircuit(QUBITS)
    angle = Parameter("a")
    for _ in range(6):
        for qubit in range(QUBITS):
            made.ry(angle, qubit)
        for qubit in range(QUBITS - 1):
            made.cx(qubit, qubit + 1)
    made.measure_all()
    return made


def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        np.linalg.norm(np.ones(1000))


def call(arm, runtime, out, warmed, ready, over):
    warm = runtime.sampler(Scope("warm", "s", "t", "p", arm))
    warm.run([(circuit(), [[0.1]])], shots=4).result()
    sampler = runtime.sampler(Scope("run", "s", "t", "p", arm))

    def solve():
        burn(OWN_S)
        sampler.run([(circuit(), np.linspace(0, 1, SETS[arm])[:, None])], shots=64).result()

    warmed.release()
    ready.wait()
    used_s, dispatched = time.process_time(), dispatched_usage()
    measured = measure_arms(
        {arm: solve}, np.random.default_rng(0), foreign=dispatched_usage, meter=lambda: Meter(counters=Counters())
    )[arm]
    over.wait()  # whoever leads may still simulate the other's circuits, which would begin again if it ended
    used_s = time.process_time() - used_s
    dispatched_s = (dispatched_usage() - dispatched).cpu_s
    total = measured.total + sampler.usage
    note = {"used_s": used_s, "booked_s": total.cpu_s, "queue_s": sampler.usage.cpu_s}
    (out / f"{arm}.json").write_text(
        json.dumps(note | {"dispatched_s": dispatched_s, "jobs": total.jobs, "circuits": total.circuits})
    )


if __name__ == "__main__":
    ledger, out = Path(sys.argv[1]), Path(sys.argv[2])
    runtime = Runtime(ledger, linger_s=0.0)
    fork = multiprocessing.get_context("fork")
    warmed, ready, over = fork.Semaphore(0), fork.Barrier(3, timeout=60), fork.Barrier(2, timeout=60)
    callers = [fork.Process(target=call, args=(arm, runtime, out, warmed, ready, over)) for arm in SETS]
    for caller in callers:
        caller.start()
        if not warmed.acquire(timeout=60):
            sys.exit("a caller did not get ready")
    while (lane := Lane.acquire(runtime.open(), runtime.backend, 60.0)) is None:
        time.sleep(0.01)
    ready.wait()
    while len(list_calls(ledger, run="run")) < len(SETS):  # nobody leads before both calls are there
        time.sleep(0.01)
    lane.release()
    for caller in callers:
        caller.join()
    sys.exit(max(caller.exitcode or 0 for caller in callers))
