"""Callers in processes of their own, for tests: each runs variational loops through the queue and keeps the traces.

    python callers.py '{"ledger": ..., "out": ..., "workers": 8, "arms": 16, "steps": 3, "run": ..., "kills": 6}'

Imports once, then forks, so that eight callers cost one import. With `kills`, workers are killed by SIGKILL at random
moments and started again with what they have left. Every execution is noted in `out/log` before it starts.
"""

import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from unittest import mock

import numpy as np
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter

from infra.runtime import leader, submission
from infra.runtime.backends import registry as backends
from infra.runtime.backends.snapshots import fake_device
from infra.runtime.ledger.database import Database
from infra.runtime.ledger.lane import Lane
from infra.runtime.ledger.schema import meta
from infra.runtime.limits import Limits
from infra.runtime.parcels import task_of
from infra.runtime.queue import Runtime, Scope


def build(arm):
    """A circuit of its own for each arm."""
    circuit = QuantumCircuit(2)
    circuit.ry(Parameter("a"), 0)
    circuit.rz(0.1 * arm, 0)
    circuit.cx(0, 1)
    circuit.measure_all()
    return circuit


def loop(sampler, arm, steps):
    angle, trace = 0.3 + 0.05 * arm, []
    for _ in range(steps):
        data = sampler.run([(build(arm), [[angle], [angle + 0.5]])], shots=64).result()[0].data.meas
        ones = data.bitcount().mean(axis=-1) / 2
        trace.append(ones.tolist())
        angle += float(ones[1] - ones[0]) + 0.1
    return trace


def scope(run, arm):
    return Scope(run, "inference", "pruning", "problem", f"arm{arm}", seed=7)


def work(spec, arms, order):
    """Run the arms in a shuffled order and write each trace when it is complete."""
    runtime = Runtime(spec["ledger"])
    random.Random(order).shuffle(arms)
    for arm in arms:
        target = Path(spec["out"]) / f"arm{arm}.json"
        if target.exists():
            continue
        trace = loop(runtime.sampler(scope(spec["run"], arm)), arm, spec["steps"])
        draft = target.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(trace))
        draft.rename(target)


def note_executions(folder):
    """Write call and time of every execution to a log before it starts."""

    def noted(item, circuit):
        with (folder / "log").open("a") as log:
            log.write(f"{item.part.call} {time.time()}\n")
        return task_of(item, circuit)

    mock.patch.object(submission, "task_of", noted).start()


def fork(function, *arguments):
    child = os.fork()
    if child == 0:
        try:
            function(*arguments)
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    return child


def herd(spec):
    """Keep the workers running until every arm is done, killing some of them."""
    folder, rng = Path(spec["out"]), random.Random(spec.get("chaos", 1))
    shares = {w: [a for a in range(spec["arms"]) if a % spec["workers"] == w] for w in range(spec["workers"])}
    running = {fork(work, spec, list(arms), worker): worker for worker, arms in shares.items()}
    kills = spec.get("kills", 0)
    deadline = time.monotonic() + 100
    while running:
        assert time.monotonic() < deadline, "the workers do not finish"
        if kills:
            time.sleep(rng.uniform(0.02, 0.1))
            victim = rng.choice(sorted(running))
            os.kill(victim, signal.SIGKILL)
            kills -= 1
        pid, status = os.waitpid(-1, 0 if not kills else os.WNOHANG)
        if pid == 0:
            continue
        worker = running.pop(pid)
        if os.WIFSIGNALED(status):
            running[fork(work, spec, list(shares[worker]), rng.random())] = worker
        else:
            assert os.WEXITSTATUS(status) == 0, f"worker {worker} failed"
    assert len(list(folder.glob("arm*.json"))) == spec["arms"]


def hang(spec):
    """Take the lease, claim what waits, and never come back."""
    runtime = Runtime(spec["ledger"])
    ledger = runtime.open()
    lane = Lane.acquire(ledger, "aer", 3600)
    (batch,) = lane.claim("aer", Limits())
    if spec.get("submitted"):
        lane.submitted(batch.tag, "a job of this process")
    print("claimed", flush=True)
    time.sleep(3600)


def fork_while_leading(spec):
    """Fork as if this process were leading; the child's call is answered all the same."""
    runtime = Runtime(spec["ledger"])
    loop(runtime.sampler(scope("r", 1)), 1, 1)
    leader.Leader._leading.add((runtime.open().database.url, "aer"))
    child = fork(lambda: loop(runtime.sampler(scope("r", 2)), 2, 1))
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def fork_amid_writes(spec):
    """Fork again and again while a thread writes without a pause; every child writes once."""
    database, over = Database(spec["ledger"], durable=False), threading.Event()

    def note(name):
        with database.write() as connection:
            connection.execute(meta.insert().values(name=name, value="x"))

    def write():
        number = 0
        while not over.is_set():
            note(f"thread {number}")
            number += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        children = []
        for number in range(20):
            children.append(fork(lambda number=number: note(f"child {number}")))
            time.sleep(0.005)
        ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    finally:
        over.set()
        thread.join()
    assert ended == [0] * 20, ended


def main():
    spec = json.loads(sys.argv[1])
    if "mode" in spec:
        {"hang": hang, "fork": fork_while_leading, "fork amid writes": fork_amid_writes}[spec["mode"]](spec)
        return
    fake_device("fake_torino").target  # noqa: B018  (what every leader needs, loaded once before the fork)
    backends.open_backend("aer")
    Path(spec["out"]).mkdir(exist_ok=True)
    note_executions(Path(spec["out"]))
    np.random.default_rng(0)
    herd(spec)


if __name__ == "__main__":
    main()
