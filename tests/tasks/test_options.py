"""Options of stages and decisions: nested, checked before a run, with the nearest name for a wrong one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.lifecycle.config import RunConfig, resolve_options
from infra import settings
from infra.errors import BadInput
from tasks.contract import STAGES
from tasks.options import SETTLE, check, decisions_of, flat, listed, merge, model_of, parse_assignment
from tasks.stage import stage_module

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("stage", STAGES)
def test_the_decisions_of_a_stage_are_those_on_its_road(stage: str) -> None:
    road = [item for item in stage_module(stage).ROAD if isinstance(item, str)]
    assert sorted(road) == list(decisions_of(stage))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"inference": {"pruning": {"unit": 8}}}, r"pruning\.unit; did you mean inference\.pruning\.units\?"),
        ({"inference": {"units": 8}}, r"no option inference\.units; did you mean inference\.pruning\.units\?"),
        ({"trainning": {}}, r"no section 'trainning'; did you mean training\?"),
        ({"inference": {"pruning": {"units": 1}}}, r"inference\.pruning\.units: Input should be greater"),
        ({"finetuning": {"domain": "base"}}, r"finetuning: domain and base are both 'base'"),
        ({"settle": {"block": 3}}, r"no option settle\.block; did you mean settle\.blocks\?"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_named_with_the_nearest_right_one(given: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        check(given)


def test_an_assignment_is_read_as_nested_yaml() -> None:
    assert parse_assignment("inference.pruning.units=8") == {"inference": {"pruning": {"units": 8}}}
    assert parse_assignment("curation.corpus=[a, b]") == {"curation": {"corpus": ["a", "b"]}}
    assert parse_assignment("training.evaluate_windows=null") == {"training": {"evaluate_windows": None}}
    for wrong in ("units", "units=8", "a..b=1", "a.b=[1"):
        with pytest.raises(BadInput, match="cannot read"):
            parse_assignment(wrong)


def test_later_layers_lie_on_top_of_earlier_ones() -> None:
    merged = merge({"a": {"x": 1, "y": {"z": 2}}}, {"a": {"y": {"w": 3}}}, {"b": {"v": 4}})
    assert merged == {"a": {"x": 1, "y": {"z": 2, "w": 3}}, "b": {"v": 4}}
    assert flat(merged) == {"a.x": 1, "a.y.z": 2, "a.y.w": 3, "b.v": 4}


def test_every_option_can_be_set_by_its_listed_name() -> None:
    for stage in STAGES:
        for name, value in listed(stage):
            found: Any = model_of(stage)()
            for part in name.split(".")[1:]:
                found = getattr(found, part)
            assert found == value, name


def messages() -> Iterator[tuple[str, str]]:
    """Yield the file and text of every string in the packages that is no docstring."""
    for package in ("flows", "tasks", "infra", "deployments"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Expr):
                    constants = (child for child in ast.iter_child_nodes(node) if isinstance(child, ast.Constant))
                    yield from ((path.name, text.value) for text in constants if isinstance(text.value, str))


def test_every_option_that_a_message_tells_to_set_exists() -> None:
    known = {name for section in (*STAGES, SETTLE) for name, _ in listed(section)}
    told = re.compile(rf"\bset ((?:{'|'.join((*STAGES, SETTLE))})\.[a-z_.]*[a-z])")
    found = {name: path for path, text in messages() for name in told.findall(text)}
    assert len(found) > 3
    assert found.keys() <= known, {name: found[name] for name in found.keys() - known}


def test_profile_file_settings_and_the_run_s_own_options(tmp_path: Path) -> None:
    profile = tmp_path / "mine.yaml"
    profile.write_text("training: {tokens: 1000, batch: 4}\ninference:\n  pruning: {units: 6}\n")
    loaded = settings.load(home=tmp_path).model_copy(update={"options": {"training": {"batch": 2}}})
    config = RunConfig(profile=str(profile), options={"inference": {"pruning": {"share": 0.5}}}, threshold=0.8)
    found = resolve_options(config, loaded)
    assert found["training"] == {"tokens": 1000, "batch": 2}
    assert found["inference"]["pruning"] == {"units": 6, "share": 0.5}
    assert found["curation"]["threshold"] == 0.8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {token: 1}", r"mine\.yaml: there is no option training\.token; did you mean training\.tokens"),
        ("training: 3", "should map stages to their options"),
        ("training: [", "is not YAML"),
    ],
)
def test_a_profile_file_that_cannot_be_used_is_named(tmp_path: Path, text: str, message: str) -> None:
    profile = tmp_path / "mine.yaml"
    profile.write_text(text)
    with pytest.raises(BadInput, match=message):
        resolve_options(RunConfig(profile=str(profile)), settings.load(home=tmp_path))
    with pytest.raises(BadInput, match="cannot be read"):
        resolve_options(RunConfig(profile=str(tmp_path / "other.yaml")), settings.load(home=tmp_path))
