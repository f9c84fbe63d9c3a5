"""The platform's double behind the vendor's own client: the same cases over HTTP."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from harness import Job, loop, runtime, scope

from infra.runtime.backends import registry as backends
from infra.runtime.backends.ibm import device  # noqa: F401  (imported once, not by each forked child)

sys.path.insert(0, str(Path(__file__).parents[1] / "doubles"))
from ibm_platform import Double

BACKEND = "ibm:lagos"

# What the script of the platform says for each fault.
FAULTS = {
    "none": {},
    "unauthorised": {"faults": [{"route": "submit", "kind": "401"}]},
    "throttled": {"faults": [{"route": r, "kind": "429", "seconds": 0} for r in ("submit", "job", "results")]},
    "error before creating": {"faults": [{"route": "submit", "kind": "500"}]},
    "error after creating": {"faults": [{"route": "submit", "kind": "500-after"}]},
    "created twice": {"faults": [{"route": "submit", "kind": "twice"}]},
    "answers lost": {
        "faults": [{"route": r, "kind": "drop-after"} for r in ("submit", "job", "results", "metrics", "jobs")]
    },
    "slow": {"faults": [{"route": r, "kind": "slow", "seconds": 0.3} for r in ("submit", "results")]},
    "truncated result": {"faults": [{"route": "results", "kind": "truncate"}]},
    "job failed": {"faults": [{"route": "create", "kind": "failed"}]},
    "job stuck": {"faults": [{"route": "create", "kind": "stuck"}]},
    "cancelled by the vendor": {"faults": [{"route": "create", "kind": "cancelled"}]},
    "clock skew": {"skew_s": 3600.0},
    "maintenance": {"faults": [{"route": "submit", "kind": "503", "times": 2}]},
    "listed late": {"listing_s": 0.15, "faults": [{"route": "submit", "kind": "drop-after"}]},
    "billed late": {"bill_late": 3},
    "refused after creating": {"faults": [{"route": "submit", "kind": "403-after"}]},
    "created twice, listed late": {
        "faults": [{"route": "submit", "kind": "twice"}, {"route": "create", "kind": "hidden", "skip": 1}]
    },
    "moved after creating": {"faults": [{"route": "submit", "kind": "302-after"}]},
    "not known for a while": {"faults": [{"route": "job", "kind": "404", "times": 3, "skip": 1}]},
    "told to wait a day": {
        "faults": [{"route": r, "kind": "429", "seconds": 86_400} for r in ("job", "results", "jobs")]
    },
    "listed without tags": {
        "faults": [{"route": "submit", "kind": "drop-after"}, {"route": "jobs", "kind": "untagged", "times": 9}]
    },
    "another's job": {"faults": [{"route": "submit", "kind": "oldest", "skip": 1}]},
}


@dataclass(frozen=True)
class World:
    """What the harness needs of a service."""

    double: Double
    backend: str = BACKEND

    def prepare(self, folder):
        """Open the device once for all children of this process, and return what callers get undisturbed."""
        os.environ.update(self.double.environment())
        self.double.reset()
        backends._open.pop(BACKEND, None)
        self.install(folder)
        folder.mkdir()
        return {name: loop(runtime(folder, self).sampler(scope(name)), name) for name in "ab"}

    def start(self, folder, case):
        self.double.reset(queued_polls=case.polls, execution_s=0.01, base_s=1.0, **FAULTS[case.fault])

    def install(self, folder):
        """Return the backend of this process, with a poll that does not idle."""
        backend = backends.open_backend(self.backend)
        backend.poll_s = backend.linger_s = 0.005
        backend.listing_delay_s = 0.2  # the double lists at once, unless a case says otherwise
        return backend

    def free(self, folder):
        self.double.free()
        self.double.change(shown=True)

    def jobs(self, folder):
        states = {"Completed": "done", "Failed": "failed", "Cancelled": "cancelled"}
        return [
            Job(job["id"], job["tags"][0], states.get(job["state"], "open"), job["billed_s"], job["ended"])
            for job in self.double.jobs
        ]
