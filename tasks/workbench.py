"""Settings for running the arms of a decision, and the shadow arms still to be run. Both are picklable."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from infra.evidence import Evidence
from infra.settings import Objective, home_here
from infra.shared import open_evidence
from tasks.contract import Method, content_key
from tasks.stage import Context, State

if TYPE_CHECKING:
    from infra.runtime.queue import Runtime

SHARED = "shared"  # prefix of the ledger name of calls that compute a value shared by several arms


@dataclass(frozen=True)
class Workbench:
    """What `settle` needs to run arms. Picklable; connections are opened where it is used.

    Attributes:
        run_id: the run.
        home: the state folder; unpickled on another machine it may be that one's.
        ledger: URL of the runtime queue's ledger.
        backend: `aer`, `noisy:<fake device>`.
        seed: seed of the run.
        method: how the arm is picked.
        objective: what auto routing minimises.
        projection_device: fake device on which QPU time is projected.
        simulation_limit_s: CPU seconds that one call may be expected to simulate; beyond it the arm is refused.
        repetition: number of this execution of the same problem.
        minimum_s: arms under half a second are looped to at least this many seconds; 0 = never.
        blocks: rounds in which the looped arms take turns.
        probe: whether the problem is a probe and not one of the run itself.
        data: fingerprint of the run's input data; evidence from other data does not count.
        unit: unit of independence of the problem's instances, e.g. their source; empty where each is its own.
        remote_deadline_s: seconds that an arm's execution waits for a remote queue.
        shadow_share: CPU seconds for optional shadow arms, as a share of those of the run's stages.
    """

    run_id: str
    home: Path
    ledger: str
    backend: str = "aer"
    seed: int = 0
    method: Method = Method.SHADOW
    objective: Objective = "energy"
    projection_device: str = "fake_torino"
    simulation_limit_s: float = 1200.0
    repetition: int = 0
    minimum_s: float = 1.0
    blocks: int = 5
    probe: bool = False
    data: str = ""
    unit: str = ""
    remote_deadline_s: float = 600.0
    shadow_share: float = 0.25

    @property
    def evidence(self) -> Evidence:
        """The evidence of the installation."""
        return open_evidence(self.home)

    @cached_property
    def runtime(self) -> Runtime:
        """The quantum runtime queue."""
        from infra.runtime.queue import Runtime  # its interface is Qiskit's, which the process of a run never needs

        return Runtime(
            self.ledger,
            self.backend,
            home=self.home,
            projection=self.projection_device,
            simulation_limit_s=self.simulation_limit_s,
        )

    def resume_root(self, stage: str) -> Path:
        """Return where the arms of a stage's decisions keep checkpoints that survive a kill."""
        return self.home / "scratch" / "resume" / self.run_id / stage

    def generator(self, *names: str) -> np.random.Generator:
        """Return a generator seeded by the run's seed and the given names, independent of everything else that ran."""
        text = json.dumps([self.seed, self.repetition, *names])
        return np.random.default_rng(int(content_key(text), 16))

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "runtime"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, home=home_here(state["home"]))


@dataclass(frozen=True)
class Shadow:
    """The shadow arms of a decision that are still to be run. Picklable.

    Attributes:
        context: the stage.
        state: state of the stage when the decision was posed.
        subtask: the decision.
        problem: content key of its problem.
        arms: the arms.
        bench: what they work with.
        since: when the stage began, in the format of the rows' time stamps; rows of earlier attempts do not count.
        allowance_s: CPU seconds that its optional arms may use together; arms that always run are not counted.
    """

    context: Context
    state: State
    subtask: str
    problem: str
    arms: tuple[str, ...]
    bench: Workbench
    since: str = ""
    allowance_s: float = float("inf")

    def left(self) -> Shadow:
        """Return the arms without evidence, arms with a pending row included."""
        where = {"stage": self.context.stage, "subtask": self.subtask, "problem": self.problem}
        rows = self.bench.evidence.read(run_id=self.context.run_id, **where)
        rows = [row for row in rows if row.created_at >= self.since]
        pending = [row.arm for row in rows if row.status == "pending"]
        seen = {row.arm for row in rows} - set(pending)
        return replace(self, arms=tuple(arm for arm in dict.fromkeys((*self.arms, *pending)) if arm not in seen))
