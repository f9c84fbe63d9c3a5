"""The queue as a library: what a script needs, and nothing of stages, problems or arms."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.primitives import BaseEstimatorV2, BaseSamplerV2
from qiskit.quantum_info import SparsePauliOp

from infra.errors import BadInput, StillQueued
from infra.runtime.client import CountsReplayed, Queue
from infra.runtime.figures.inspect import show_call
from infra.runtime.ledger.lane import Lane

ROOT = Path(__file__).parents[3]


@pytest.fixture
def queue(location: str) -> Queue:
    return Queue(location, run="mine", send=False)


def bell() -> QuantumCircuit:
    circuit = QuantumCircuit(2, metadata={"about": "a pair"})
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    return circuit


def turned() -> QuantumCircuit:
    circuit = QuantumCircuit(1)
    circuit.ry(Parameter("a"), 0)
    return circuit


def test_a_call_is_submitted_here_and_fetched_in_another_process(queue: Queue) -> None:
    job_id = queue.submit([bell()], shots=200)
    script = (
        "from infra.runtime.client import Queue; "
        f"pub = Queue({str(queue.runtime.ledger)!r}).attach({job_id!r}).result(timeout=60)[0]; "
        "counts = pub.data.meas.get_counts(); "
        "print(sorted(counts), sum(counts.values()), pub.metadata['circuit_metadata'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "['00', '11'] 200 {'about': 'a pair'}", done.stderr
    here = queue.attach(job_id[:12])
    assert here.done()
    assert here.result()[0].data.meas.num_shots == 200


def test_values_come_back_in_their_shape_in_another_object(queue: Queue, location: str) -> None:
    angles = np.array([[0.0], [np.pi / 2], [np.pi]])
    observables = [[SparsePauliOp("Z")], [SparsePauliOp("X")]]
    job_id = queue.submit([(turned(), observables, angles)], precision=0.0)
    values = Queue(location).attach(job_id).result()[0].data.evs
    np.testing.assert_allclose(values, [[1, 0, -1], [0, 1, 0]], atol=1e-9)


def test_a_timeout_leaves_the_call_and_waiting_does_not_block_the_loop(queue: Queue) -> None:
    lane = Lane.acquire(queue.runtime.open(), "aer", 60)  # a process that leads and does nothing
    job = queue.attach(queue.submit([bell()], shots=10))
    with pytest.raises(StillQueued):
        job.result(timeout=0.05)
    assert lane is not None
    lane.release()

    async def both() -> tuple[int, int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        ticking = asyncio.ensure_future(tick())
        shots = (await job)[0].data.meas.num_shots
        ticking.cancel()
        return shots, ticks

    shots, ticks = asyncio.run(both())
    assert shots == 10
    assert ticks > 0


def test_a_repeated_script_is_told_that_its_counts_are_replayed(queue: Queue, location: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = queue.submit([bell()], shots=50)
        counts = queue.attach(first).result()[0].data.meas.get_counts()
    again = Queue(location, run="mine", send=False)
    with pytest.warns(CountsReplayed, match="of run 'mine' was made before"):
        assert again.submit([bell()], shots=50) == first
    assert again.attach(first).result()[0].data.meas.get_counts() == counts
    fresh = Queue(location, run="another", send=False)
    assert fresh.submit([bell()], shots=50) != first


def test_a_batch_travels_in_one_job(queue: Queue) -> None:
    with queue.batch():
        made = [queue.submit([bell()], shots=10) for _ in range(5)]
    jobs = {
        queue.attach(job_id).result() and show_call(queue.runtime.ledger, job_id)["jobs"][0]["tag"] for job_id in made
    }
    assert len(jobs) == 1


def test_a_call_is_sent_without_being_waited_for(location: str) -> None:
    queue = Queue(location)
    job = queue.attach(queue.submit([bell()], shots=10))
    give_up = time.monotonic() + 60
    while not job.done():
        assert time.monotonic() < give_up, "nobody sends it"
        time.sleep(0.01)


def test_the_price_is_known_before_anything_is_sent(queue: Queue) -> None:
    found = queue.estimate([bell(), bell()], shots=1000)
    assert (found.executions, found.billed, found.usd) == (2000, False, 0.0)
    assert 2.0 < found.qpu_s < 3.0, "2 s for a job, and .25 ms for each execution, projected"
    assert queue.estimate([(turned(), "Z", [0.1])], precision=0.1).executions == 100


def test_drop_ins_are_qiskit_primitives(queue: Queue) -> None:
    assert isinstance(queue.sampler(), BaseSamplerV2)
    assert isinstance(queue.estimator(), BaseEstimatorV2)
    assert queue.sampler("one").run([bell()], shots=7).result()[0].data.meas.num_shots == 7


def test_what_cannot_be_meant_is_refused(queue: Queue) -> None:
    with pytest.raises(BadInput, match="give one of them"):
        queue.submit([bell()], shots=10, precision=0.1)
    with pytest.raises(BadInput, match="no call begins"):
        queue.attach("nothing")
