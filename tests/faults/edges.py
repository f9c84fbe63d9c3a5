"""Where a dispatcher is killed: before, inside and after each of its writes, and around each question to the service.

The killed process is a forked child that wraps the method and kills itself there, once for all processes of a case.
"""

import os
import signal
from functools import wraps
from pathlib import Path

import sqlalchemy as sa

from infra.runtime.ledger.lane import Lane
from infra.runtime.ledger.ledger import Ledger

# Each write of the ledger: before it, when all is written but not committed, after it.
WRITES = {
    "prepare": (Ledger, "prepare"),
    "claim": (Lane, "claim"),
    "leaving": (Lane, "leaving"),
    "unclear": (Lane, "unclear"),
    "submitted": (Lane, "submitted"),
    "looked": (Lane, "looked"),
    "disown": (Lane, "disown"),
    "put back": (Lane, "put_back"),
    "deliver": (Lane, "deliver"),
    "close": (Lane, "close"),
    "settle": (Lane, "settle"),
    "release": (Lane, "release"),
}
# Each question to the service: before it is asked, after it was answered and before anything is written.
QUESTIONS = ("submit", "status", "results", "billed", "find", "cancel")

EDGES = (
    "none",
    *(f"{name}: {when}" for name in WRITES for when in ("before", "uncommitted", "after")),
    *(f"{name}: {when}" for name in QUESTIONS for when in ("before", "after")),
    "results: between two",
)
# Before a write is after the question before it, before a question is after the write before it: each state once.
DISTINCT = tuple(edge for edge in EDGES if not edge.endswith(": before"))
# For every run of the tests: of what is claimed, sent, read, delivered and charged, the state most easily got wrong.
QUICK = (
    "none",
    "claim: uncommitted",
    "leaving: after",
    "submit: after",
    "results: after",
    "deliver: uncommitted",
    "close: uncommitted",
    "settle: uncommitted",
)
# Where what the service knows and what the ledger knows differ; what follows the answer is the same for any service.
REMOTE = ("leaving: after", "submit: after")


def arm(edge, token, backend, nth=1):
    """Kill this process when it comes to an edge for the nth time, unless another process was killed there before."""
    if edge == "none":
        return
    name, _, when = edge.partition(": ")
    kill = _once(token, nth)
    if name in WRITES:
        owner, method = WRITES[name]
        _wrap(owner, method, when, kill)
    elif when == "between two":
        _wrap_results(backend, kill)
    else:
        _wrap(backend, name, when, kill)


def _once(token, nth):
    count = 0

    def kill():
        nonlocal count
        count += 1
        if count < nth:
            return
        try:
            Path(token).open("x").close()
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    return kill


def _wrap(owner, method, when, kill):
    original = getattr(owner, method)

    @wraps(original)
    def wrapped(*arguments, **named):
        if when == "before":
            kill()
        if when == "uncommitted":
            with _before_commit(kill):
                return original(*arguments, **named)
        answer = original(*arguments, **named)
        if method == "results":
            answer = list(answer)
        if when == "after":
            kill()
        return answer

    setattr(owner, method, wrapped)


class _before_commit:  # noqa: N801  (used as a function)
    def __init__(self, kill):
        self._kill = kill

    def _listen(self, connection):
        self._kill()

    def __enter__(self):
        sa.event.listen(sa.Engine, "commit", self._listen)

    def __exit__(self, *_):
        sa.event.remove(sa.Engine, "commit", self._listen)


def _wrap_results(backend, kill):
    original = backend.results

    @wraps(original)
    def wrapped(job_id):
        for number, outcome in enumerate(original(job_id)):
            if number == 1:
                kill()
            yield outcome

    backend.results = wrapped
