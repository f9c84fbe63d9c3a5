"""One case of the matrix: callers in forked children, one of which is killed; then what must hold is looked at.

The parent has imported everything, so a child costs milliseconds. Callers that were killed or got an error run their
algorithm again, as a resumed run does, until each has its own right result.
"""

import json
import os
import select
import signal
import sys
import time
import traceback
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import edges
import pytest
import sqlalchemy as sa
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter

from infra.errors import KetcycleError, SubmissionUnclear
from infra.runtime import dispatcher, queue
from infra.runtime.figures.inspect import list_open, list_parked
from infra.runtime.ledger import database, lease
from infra.runtime.ledger.budget import overview, set_limit
from infra.runtime.ledger.ledger import FINAL, Ledger
from infra.runtime.ledger.schema import batches, parts
from infra.runtime.queue import Runtime, Scope

PROJECTION = "fake_manila"
STEPS, SHOTS = 2, 16
PATIENCE_S = 240.0  # longer than anything takes on a busy machine: only what hangs reaches it
ROUNDS = 6
LIMIT_S = 100.0  # holds the whole case, but not if reservations are left hanging


@dataclass(frozen=True)
class Case:
    """What is combined."""

    edge: str
    fault: str
    dispatchers: int = 1
    polls: int = 1  # of a job before it is over
    parts: int = 8  # that one job may hold

    def __str__(self):
        return f"{self.edge} | {self.fault} | {self.dispatchers} dispatchers | {self.polls} polls | {self.parts} parts"


@dataclass
class Outcome:
    """What happened to a caller: its trace, or the error it got, or that it was killed."""

    trace: list | None = None
    error: str | None = None
    text: str = ""
    killed: bool = False


@dataclass(frozen=True)
class Job:
    """A job at the service, as the assertions see it."""

    id: str
    tag: str
    state: str  # done, failed, cancelled, open
    billed_s: float
    ended: float | None


@dataclass
class Story:
    """What a case did."""

    killed: bool = False
    errors: list = field(default_factory=list)
    declared: list = field(default_factory=list)  # tags of batches of which a person said that they never ran
    rounds: int = 0


@cache
def circuit(name):
    made = QuantumCircuit(2, name="template")
    made.ry(Parameter("a"), 0)
    made.rz(0.1 * ord(name), 0)
    made.cx(0, 1)
    made.measure_all()
    return made


def scope(name):
    return Scope("run", "inference", "pruning", "problem", f"arm {name}", seed=7)


def loop(sampler, name):
    """A variational loop: what is asked next depends on the result."""
    angle, trace = 0.3 + 0.01 * ord(name), []
    for _ in range(STEPS):
        pubs = [(circuit(name), [[angle], [angle + 0.5]]), (circuit(name), [[angle + 1.0]])]
        result = sampler.run(pubs, shots=SHOTS).result()
        ones = [pub.data.meas.array.sum(axis=(-1, -2)).tolist() for pub in result]
        trace.append(ones)
        angle += 0.01 * (sum(ones[0]) - sum(ones[1])) + 0.1
    return trace


def runtime(folder, world):
    return Runtime(Path(folder) / "ledger.db", world.backend, projection=PROJECTION)


def fork(function):
    """Run a function in a child; return its process id and where its outcome can be read, which ends with it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        return child, open(reader)  # noqa: PTH123  (not a path)
    try:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123  (until the child ends)
        os.write(writer, json.dumps(vars(function())).encode())
    finally:
        os._exit(0)


def call(case, world, folder, name, patience_s=PATIENCE_S):
    """Be a caller: run the loop through the queue, and die at the edge of the case."""
    backend = world.install(folder)
    dispatcher.FLUSH_S = 0.0
    note_posts(folder, backend, runtime(folder, world).open())
    edges.arm(case.edge, Path(folder) / "killed", backend)
    try:
        sampler = runtime(folder, world).sampler(scope(name), deadline=time.time() + patience_s)
        return Outcome(trace=loop(sampler, name))
    except KetcycleError as error:
        return Outcome(error=type(error).__name__, text=str(error))
    except BaseException as error:
        return Outcome(error=type(error).__name__, text="".join(traceback.format_exception(error))[-1500:])


def on_a_worker(case, world, folder, name):
    """Be a caller in a Dask worker."""
    return vars(call(case, world, folder, name))


def note_posts(folder, backend, ledger):
    """Write down each post before it leaves, and what was answered."""
    original = backend.submit

    def note(**facts):
        with (Path(folder) / "posts").open("a") as log:
            log.write(json.dumps(facts) + "\n")

    def noted(tag, tasks, **named):
        note(tag=tag, at=time.time(), intents=intents(ledger, tag))
        try:
            job_id = original(tag, tasks, **named)
        except SubmissionUnclear:
            raise
        except Exception:
            note(tag=tag, came="refused")
            raise
        note(tag=tag, came=job_id)
        return job_id

    backend.submit = noted


def intents(ledger, tag):
    """Return what travels under a tag: call, PUB, part."""
    query = sa.select(parts.c.call, parts.c.position, parts.c.part).where(parts.c.batch == tag)
    with ledger.database.read() as connection:
        return [tuple(row) for row in connection.execute(query)]


def gather(children, limit_s):
    """Wait for children and return their outcomes; one that does not end is a finding."""
    outcomes, give_up = {}, time.monotonic() + limit_s
    waiting = {answer: (name, pid) for name, (pid, answer) in children.items()}
    while waiting:
        ended, _, _ = select.select(waiting, [], [], max(0.0, give_up - time.monotonic()))
        if not ended:
            for _, pid in waiting.values():
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            raise AssertionError(f"{sorted(waiting.values())} did not end within {limit_s} s")
        for answer in ended:
            name, pid = waiting.pop(answer)
            with answer:
                text = answer.read()
            killed = os.WIFSIGNALED(os.waitpid(pid, 0)[1])
            outcomes[name] = Outcome(killed=True) if killed else Outcome(**json.loads(text))
    return outcomes


def play(case, world, folder, right):
    """Play a case and assert what must hold at its end.

    Args:
        case: what is combined.
        world: the service.
        folder: holds a new ledger with limits; notes come beside it.
        right: what each caller gets where nothing goes wrong.
    """
    folder = Path(folder)
    world.start(folder, case)
    ledger = Ledger(folder / "ledger.db", create=False)
    story, missing = Story(), list("ab"[: case.dispatchers])
    while missing:
        story.rounds += 1
        assert story.rounds <= ROUNDS, f"no result after {ROUNDS} rounds: {story.errors}"
        patience_s = 1.0 if case.fault == "job stuck" and story.rounds == 1 else PATIENCE_S / 2
        children = {name: fork(partial(call, case, world, folder, name, patience_s)) for name in missing}
        for name, outcome in gather(children, PATIENCE_S).items():
            if outcome.error:
                story.errors.append((outcome.error, outcome.text))
            elif not outcome.killed:
                assert outcome.trace == right[name], f"caller {name} got a result that is not its own"
                missing.remove(name)
        between(case, world, folder, ledger, story)
    story.killed = (folder / "killed").exists()
    world.free(folder)  # the list has caught up
    world.install(folder)
    runtime(folder, world).drain()
    check(case, world, folder, ledger, story)
    return story


def rehearse(world, folder, right):
    """Do here what the callers of each case do, so that what is made once is there before they are forked."""
    world.start(folder, Case("none", "none"))
    world.install(folder)
    assert {name: loop(runtime(folder, world).sampler(scope(name)), name) for name in right} == right
    runtime(folder, world).drain()


def forget_ledgers():
    """Forget what this process keeps of ledgers by their address: another file is to lie there."""
    queue._ledger.cache_clear()
    lease._RELEASED.clear()
    for engine in database._FORKS.engines:
        engine.dispose()


def set_limits(ledger):
    for name in ("run", "day"):
        set_limit(ledger, name, "qpu_s", LIMIT_S)


def between(case, world, folder, ledger, story):
    """Do what a person does between two tries: look at the service for parked batches, wait for a stuck device."""
    if case.fault == "job stuck":
        world.free(folder)
    jobs = world.jobs(folder)
    for batch in list_parked(ledger.database.url):
        found = [job.id for job in jobs if job.tag == batch["tag"]]
        ledger.resolve(batch["tag"], found[0] if found else None)
        if not found:
            story.declared.append(batch["tag"])


def check(case, world, folder, ledger, story):
    """Assert what must hold at the end of every case."""
    jobs = world.jobs(folder)
    sent_once(folder, jobs, story)
    for error, text in story.errors:
        assert implied(case, error, text), f"an error that nothing explains: {error}: {text}"
    url = ledger.database.url
    assert list_open(url) == [], "a call is stuck"
    assert list_parked(url) == []
    with ledger.database.read() as connection:
        for batch in connection.execute(sa.select(batches)).mappings():
            assert batch["state"] in FINAL, f"a batch is stuck: {dict(batch)}"
    assert [job for job in jobs if job.state == "open"] == [], "a job runs on, and is paid for"
    for line in overview(ledger):
        if line["unit"] != "qpu_s":
            continue
        assert line["billed"] == pytest.approx(sum(job.billed_s for job in jobs)), "settled to the last second billed"
        assert line["reserved"] == pytest.approx(0.0), "a reservation is left hanging"


def sent_once(folder, jobs, story):
    """An intent is posted again only if its last post was refused, its job ended without a result, or none ran."""
    notes = [json.loads(line) for line in (folder / "posts").read_text().splitlines()]
    refused = {note["tag"] for note in notes if note.get("came") == "refused"}
    last: dict[tuple[Any, ...], list[str]] = {}
    for note in notes:
        if "came" in note:
            continue
        assert note["intents"]
        for intent in map(tuple, note["intents"]):
            for tag in last.get(intent, ()):
                ended = [
                    job.state in ("failed", "cancelled") and job.ended <= note["at"] for job in jobs if job.tag == tag
                ]
                nothing = not any(job.tag == tag for job in jobs)
                allowed = nothing or tag in refused or tag in story.declared or (ended and all(ended))
                assert allowed, f"intent {intent} was sent twice, under {tag} and {note['tag']}"
            last.setdefault(intent, []).append(note["tag"])


WORDS = {
    "unauthorised": ("401",),
    "job failed": ("failed",),
    "cancelled by the vendor": ("cancelled",),
}


def implied(case, error, text):
    """Say whether an error follows from the fault; wherever a dispatcher was killed, no person is needed."""
    if error == "StillQueued":
        return case.fault == "job stuck"
    words = WORDS.get(case.fault, ())
    return error in ("BackendFailed", "RuntimeQueueError") and any(word in text for word in words)
