"""The options of the stages and of their decisions: `<stage>.<option>` and `<stage>.<decision>.<option>`.

A stage keeps its own in `tasks/<stage>/options.py`, a decision in `tasks/<stage>/<decision>/options.py`, each as a
model called `Options`. Decisions are found by their folders, so that checking options imports no stage and no arm.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module, resources
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from infra.errors import BadInput
from tasks.contract import STAGES

SETTLE = "settle"


class SettleOptions(BaseModel):
    """How decisions are metered.

    Attributes:
        minimum_s: arms under half a second are looped to at least this many seconds; 0 = never.
        blocks: rounds in which the looped arms take turns.
        shadow_share: CPU seconds that a run spends on arms beside incumbent, challenger, twins and one control, as a
            share of the CPU seconds of its stages.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    minimum_s: float = Field(1.0, ge=0)
    blocks: int = Field(5, ge=1)
    shadow_share: float = Field(0.25, ge=0)


@cache
def decisions_of(stage: str) -> tuple[str, ...]:
    """Return the names of a stage's decisions, by their folders."""
    package = resources.files("tasks") / stage
    return tuple(sorted(item.name for item in package.iterdir() if (item / "decision.yaml").is_file()))


@cache
def model_of(section: str) -> type[BaseModel]:
    """Return the model of all options of a stage, those of its decisions nested, or of `settle`."""
    if section == SETTLE:
        return SettleOptions
    own: type[BaseModel] = import_module(f"tasks.{section}.options").Options
    nested: dict[str, Any] = {}
    for name in decisions_of(section):
        model: type[BaseModel] = import_module(f"tasks.{section}.{name}.options").Options
        nested[name] = (model, Field(default_factory=model))
    made: type[BaseModel] = create_model(f"{section.capitalize()}Options", __base__=own, **nested)
    return made


def sections() -> tuple[str, ...]:
    """Return the names under which options are grouped: the stages and `settle`."""
    return (*STAGES, SETTLE)


def check(options: Mapping[str, Any], source: str = "") -> None:
    """Validate options of any sections.

    Args:
        options: by section, nested.
        source: where they were written, for the message.

    Raises:
        BadInput: an option does not exist (the nearest name is suggested) or its value is not allowed.
    """
    place = f"{source}: " if source else ""
    for section, given in options.items():
        if section not in sections():
            raise BadInput(f"{place}there is no section {section!r}{_nearest(section, sections())}")
        try:
            model_of(section).model_validate(given or {})
        except ValidationError as error:
            raise BadInput("; ".join(f"{place}{_said(section, item)}" for item in error.errors())) from error


def parse_assignment(text: str) -> dict[str, Any]:
    """Return `stage.decision.option=value` as nested options; the value is read as YAML.

    Raises:
        BadInput: the text has no `=`, no section, or a value that is not YAML.
    """
    name, sign, value = text.partition("=")
    path = name.strip().split(".")
    if not sign or len(path) < 2 or not all(path):
        raise BadInput(f"cannot read {text!r}; write stage.option=value, such as inference.pruning.units=8")
    try:
        found: Any = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise BadInput(f"cannot read the value of {text!r} as YAML; quote it") from error
    for part in reversed(path):
        found = {part: found}
    return dict(found)


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested options with later layers on top of earlier ones."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            before = merged.get(name)
            both = isinstance(before, Mapping) and isinstance(value, Mapping)
            merged[name] = merge(before, value) if both else value  # type: ignore[arg-type]
    return merged


def flat(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested options by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": item for inner, item in flat(value).items()}
        else:
            found[name] = value
    return found


def listed(section: str) -> Iterator[tuple[str, Any]]:
    """Yield every option of a section by its dotted name, with its default."""
    yield from _listed(section, model_of(section))


def _listed(prefix: str, model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    for name, item in model.model_fields.items():
        if isinstance(item.annotation, type) and issubclass(item.annotation, BaseModel):
            yield from _listed(f"{prefix}.{name}", item.annotation)
        else:
            yield f"{prefix}.{name}", item.get_default(call_default_factory=True)


def _said(section: str, item: Any) -> str:
    name = ".".join((section, *map(str, item["loc"])))
    if item["type"] == "extra_forbidden":
        known = [option for option, _ in listed(section)]
        return f"there is no option {name}{_nearest(name, known)}"
    return f"{name}: {item['msg'].removeprefix('Value error, ')}"


def _nearest(name: str, known: tuple[str, ...] | list[str]) -> str:
    """Return a suggestion: the known name whose last part, else whose whole, is most like the given one."""
    last = name.rpartition(".")[2]
    same = [option for option in known if option.rpartition(".")[2] == last]
    close = same or difflib.get_close_matches(name, known, 1, 0.5)
    if not close:
        ends = {option.rpartition(".")[2]: option for option in known}
        close = [ends[end] for end in difflib.get_close_matches(last, ends, 1, 0.5)]
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"
