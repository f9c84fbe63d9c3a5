"""What the seven stages have in common: their context, their state, and the shape of a stage module.

A stage module `tasks.<stage>.stage` offers

* `Options`: a frozen pydantic model; its defaults are the demo profile;
* `SUBTASKS`: the decisions of the stage, in the order in which they are taken;
* `prepare(context) -> State`: the classical road up to the first decision;
* `pose(context, state, subtask) -> problem | None`: the problem of one decision (None: nothing to decide);
* `apply(context, state, subtask, solution) -> State`: what follows from the decision;
* `publish(context, state) -> State`: the stage's products in the lake;
* `headline(state) -> str`: its result in one line, for the report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel

from infra.lake import Lake, Ref
from infra.settings import home_here
from infra.shared import open_lake
from tasks.contract import Subtask

STAGES = ("curation", "preprocessing", "architecture", "training", "finetuning", "inference", "monitoring")

O = TypeVar("O", bound=BaseModel)  # noqa: E741  (O is the options model)


@dataclass(frozen=True)
class Context:
    """What a stage is given. Picklable.

    Attributes:
        run_id: the run.
        stage: the stage.
        home: the state folder of the installation; unpickled on another machine it may be that one's.
        seed: seed of the run; derive every generator from it with `rng`.
        options: the profile's settings of this stage, not yet validated.
        inputs: lake references published by the stages before, by name, e.g. `curation/kept`.
    """

    run_id: str
    stage: str
    home: Path
    seed: int
    options: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Ref] = field(default_factory=dict)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, home=home_here(state["home"]))

    @property
    def lake(self) -> Lake:
        """The lake of the installation."""
        return open_lake(self.home)

    @property
    def scratch(self) -> Path:
        """A folder of this stage of this run; it survives a kill, so a checkpoint there lets a rerun continue."""
        path = self.home / "runs" / self.run_id / "scratch" / self.stage
        path.mkdir(parents=True, exist_ok=True)
        return path

    def parsed(self, model: type[O]) -> O:
        """Validate the options of the stage."""
        return model.model_validate(dict(self.options))


@dataclass(frozen=True)
class State:
    """What a stage has so far: references into the lake and facts for the report. Picklable and small."""

    refs: Mapping[str, Ref] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def add(self, refs: Mapping[str, Ref] | None = None, **facts: Any) -> State:
        """Return the state with more references and facts."""
        return replace(self, refs={**self.refs, **(refs or {})}, facts={**self.facts, **facts})


class Stage(Protocol):
    """The shape of a stage module."""

    SUBTASKS: tuple[Subtask[Any, Any], ...]

    def prepare(self, context: Context) -> State:
        """Walk the classical road up to the first decision."""
        ...

    def pose(self, context: Context, state: State, subtask: str) -> Any:
        """Return the problem of one decision, or None where there is nothing to decide."""
        ...

    def apply(self, context: Context, state: State, subtask: str, solution: Any) -> State:
        """Do what follows from a decision."""
        ...

    def publish(self, context: Context, state: State) -> State:
        """Put the stage's products into the lake."""
        ...

    def headline(self, state: State) -> str:
        """Return the result of the stage in one line."""
        ...
