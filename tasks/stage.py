"""What the seven stages have in common: their context, their state, and the shape of a stage module.

A stage module `tasks.<stage>.stage` offers

* `ROAD`: its steps and decisions in the order in which they happen. A step is a function `(context, state) -> State`;
  a decision is the name of its folder `tasks.<stage>.<name>`, whose `subtask` module says how it is posed and applied
  in a `Subtask` of that name in capitals;
* `headline(state) -> str`: its result in one line, for the report;
* `sections(facts) -> tuple[Section, ...]`: tables and charts of its result, for the report. Facts that an
  earlier version of the stage did not store may be missing.

Its options are in `tasks.<stage>.options`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from pydantic import BaseModel

from infra.errors import BadInput
from infra.lake import Lake, Ref
from infra.settings import home_here
from infra.shared import open_lake
from tasks.contract import Subtask
from tasks.options import decisions_of
from tasks.sections import Section, plain

O = TypeVar("O", bound=BaseModel)  # noqa: E741  (O is the options model)


@dataclass(frozen=True)
class Context:
    """What a stage is given. Picklable.

    Attributes:
        run_id: the run.
        stage: the stage.
        home: the state folder of the installation; unpickled on another machine it may be that one's.
        seed: seed of the run; derive every generator from it with `rng`.
        options: the run's settings of this stage, those of its decisions nested; checked before the run began.
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

    def parsed(self, model: type[O], decision: str = "") -> O:
        """Return the options of the stage, or those of one of its decisions."""
        if decision:
            return model.model_validate(self.options.get(decision, {}))
        nested = decisions_of(self.stage)
        return model.model_validate({name: value for name, value in self.options.items() if name not in nested})

    def require(self, *names: str) -> Ref:
        """Return the first of the given inputs that an earlier stage has published.

        Raises:
            BadInput: none of them is there; the message names the stage to run.
        """
        for name in names:
            if name in self.inputs:
                return self.inputs[name]
        makers = " or ".join(dict.fromkeys(name.split("/")[0] for name in names))
        raise BadInput(f"{self.stage} reads {' or '.join(names)}, which is not in the lake yet; run {makers} first")


@dataclass(frozen=True)
class State:
    """What a stage has so far: references into the lake and facts for the report. Picklable and small."""

    refs: Mapping[str, Ref] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def add(self, refs: Mapping[str, Ref] | None = None, **facts: Any) -> State:
        """Return the state with more references and facts."""
        return replace(self, refs={**self.refs, **(refs or {})}, facts={**self.facts, **facts})


Step = Callable[[Context, State], State]
Road = tuple[Step | str, ...]


class Stage(Protocol):
    """The shape of a stage module."""

    ROAD: Road

    def headline(self, state: State) -> str:
        """Return the result of the stage in one line."""
        ...

    def sections(self, facts: Mapping[str, Any]) -> tuple[Section, ...]:
        """Return the tables and charts of the result, made from the facts of the stage."""
        ...


def stage_module(name: str) -> Stage:
    """Return the module of a stage."""
    return cast("Stage", import_module(f"tasks.{name}.stage"))


def load_step(stage: str, name: str) -> Step:
    """Return a step of a stage's road by the name of its function."""
    steps = (item for item in stage_module(stage).ROAD if not isinstance(item, str))
    return next(item for item in steps if item.__name__ == name)


def load_decision(stage: str, name: str) -> Subtask[Any, Any]:
    """Return a decision of a stage by its name.

    Raises:
        TypeError: its folder has no `Subtask` of that stage and name.
    """
    found: Any = getattr(import_module(f"tasks.{stage}.{name}.subtask"), name.upper(), None)
    if not isinstance(found, Subtask) or (found.stage, found.name) != (stage, name):
        raise TypeError(f"tasks/{stage}/{name}/subtask.py should define {name.upper()}, the Subtask {stage}/{name}")
    return found


def decisions(stage: str) -> tuple[Subtask[Any, Any], ...]:
    """Return the decisions of a stage in the order in which they are taken."""
    return tuple(load_decision(stage, item) for item in stage_module(stage).ROAD if isinstance(item, str))


@dataclass(frozen=True)
class Outline:
    """A stage as plain values; a worker makes it, so that the process of the flow imports no stage.

    Attributes:
        road: names of the steps and decisions in order.
        arms: name and version of each arm, by `stage/decision`.
    """

    road: tuple[str, ...]
    arms: dict[str, list[tuple[str, str]]]


def outline(stage: str) -> Outline:
    """Return the outline of a stage."""
    road = tuple(item if isinstance(item, str) else item.__name__ for item in stage_module(stage).ROAD)
    return Outline(road, {found.key: [(arm.name, arm.version) for arm in found.arms] for found in decisions(stage)})


def headline(stage: str, state: State) -> str:
    """Return the result of a stage in one line."""
    return stage_module(stage).headline(state)


def plain_sections(stage: str, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the tables and charts of a stage's result as plain values."""
    return plain(stage_module(stage).sections(facts))
