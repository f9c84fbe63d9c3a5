"""Parameters of a study: decision, texts of the instance bank, and instances drawn.

Does not import Prefect, which reads the server's address when it is imported.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from infra.errors import BadInput
from infra.settings import Objective
from tasks.contract import Instance, Kind, Material
from tasks.policy import may_replace, smallest_certifying
from tasks.registry import find_subtask


class StudyConfig(BaseModel):
    """Parameters of one study, for the command line and the Prefect page."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    study_id: str = Field(description="Name of the study.")
    subtask: str = Field(description="The decision, e.g. inference/pruning.")
    arms: tuple[str, ...] = Field((), description="Arms to run; the incumbent always runs; empty = all.")
    sizes: tuple[int, int] | None = Field(None, description="Smallest and largest instance; empty = all.")
    instances: int = Field(
        0, ge=0, description="Instances at most, sources in turns; 0 = as many as certification needs, or all."
    )
    quantum_instances: int = Field(0, ge=0, description="Quantum arms run on this many first instances; 0 = all.")
    repeats: int = Field(1, ge=1, description="Executions of each arm on each instance; nested, not counted in n.")
    seeds: int = Field(1, ge=1, description="Number of draws of the bank; equal instances count once.")
    backend: str = Field("aer", description="aer, noisy:<fake device> or ibm:<device>.")
    noisy: str = Field("", description="noisy:<fake device> for a row of each quantum arm's smallest instance.")
    noisy_sizes: int = Field(1, ge=1, description="Number of sizes with noisy rows, the smallest first.")
    corpus: tuple[str, ...] = Field((), description="Files or folders of text; empty = the sample that ships.")
    second: tuple[str, ...] = Field((), description="Files or folders of the second domain; empty = the sample's.")
    objective: Objective = Field("energy", description="What the verdict minimises.")
    seed: int = Field(0, ge=0, description="Seed of all random numbers.")
    profile: str = Field("", description="Profile of the pilot, in the study of a pilot; empty = none.")

    @field_validator("subtask")
    @classmethod
    def _known(cls, value: str) -> str:
        find_subtask(value)
        return value


def draw_instances(config: StudyConfig, material: Material) -> list[Instance[Any]]:
    """Return the instances of a study, taken from the sources in turns."""
    subtask = find_subtask(config.subtask)
    low, high = config.sizes or (0, 1 << 62)
    found: dict[tuple[str, str], Instance[Any]] = {}
    for seed in range(config.seed, config.seed + config.seeds):
        for instance in subtask.bank(material, np.random.default_rng([seed, 7])):
            if low <= instance.size <= high:
                found.setdefault((instance.source, instance.name), instance)
    chosen = list(found.values())[: config.instances or units_reached(list(found.values()), needed_units(config))]
    if not chosen:
        raise BadInput(
            f"the bank of {config.subtask} has no instance of size {low} to {high}; see ketcycle study --list"
        )
    return chosen


def arms_on(config: StudyConfig, number: int) -> tuple[str, ...]:
    """Return the arms that run on an instance, given its number from 0.

    Raises:
        KeyError: an arm that was asked for does not exist.
    """
    subtask = find_subtask(config.subtask)
    asked = {subtask.arm(name).name for name in config.arms} or {arm.name for arm in subtask.arms}
    late = config.quantum_instances and number >= config.quantum_instances
    return tuple(
        arm.name
        for arm in subtask.arms
        if arm.name in {*asked, subtask.incumbent.name} and not (late and arm.kind is Kind.QUANTUM)
    )


def needed_units(config: StudyConfig) -> int:
    """Return the smallest number of independent units at which an arm of the study can be certified."""
    subtask = find_subtask(config.subtask)
    return smallest_certifying([name for name in may_replace(subtask) if not config.arms or name in config.arms])


def units_reached(instances: Sequence[Instance[Any]], units: int) -> int:
    """Return the number of first instances that hold that many independent units; all if they hold fewer."""
    seen: set[str] = set()
    for number, instance in enumerate(instances, 1):
        seen.add(instance.unit or instance.source)
        if len(seen) >= units:
            return number
    return len(instances)


def record_path(home: Path, study_id: str) -> Path:
    """Return the path of a study's record."""
    return home / "studies" / study_id / "record.json"


def load_record(home: Path, study_id: str) -> dict[str, Any] | None:
    """Return the record of a study, or None if there is no such study."""
    try:
        record: dict[str, Any] = json.loads(record_path(home, study_id).read_text())
    except FileNotFoundError:
        return None
    return record


def read_record(home: Path, study_id: str) -> dict[str, Any]:
    """Return the record of a study.

    Raises:
        BadInput: there is no such study; the message lists those there are.
    """
    record = load_record(home, study_id)
    if record is None:
        known = ", ".join(sorted(p.parent.name for p in (home / "studies").glob("*/record.json"))) or "none"
        raise BadInput(f"no study {study_id} in {home / 'studies'}; studies there: {known}")
    return record
