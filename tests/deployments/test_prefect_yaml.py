from __future__ import annotations

import subprocess
import tomllib
from importlib import import_module, metadata
from pathlib import Path
from uuid import uuid4

import pytest
import yaml
from prefect import Flow
from prefect.utilities.callables import parameter_schema

from deployments import project
from deployments.automations import ANSWERS, WHOLE_PAYLOAD, automations
from deployments.deploy import version
from infra.events import PAYLOADS

DEPLOYMENTS = yaml.safe_load((Path(__file__).parents[2] / "prefect.yaml").read_text())["deployments"]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: d["entrypoint"])
def test_entrypoints_are_flows_and_parameters_fit(deployment: dict[str, object]) -> None:
    module, _, name = str(deployment["entrypoint"]).rpartition(".")
    flow = getattr(import_module(module), name)
    assert isinstance(flow, Flow)
    if deployment.get("parameters"):
        flow.validate_parameters(deployment["parameters"])


def test_each_event_that_is_answered_has_a_deployment_that_takes_its_payload() -> None:
    flows = {}
    for entry in DEPLOYMENTS:
        module, _, name = entry["entrypoint"].rpartition(".")
        flow = getattr(import_module(module), name)
        flows[f"{flow.name}/{entry['name']}"] = flow
    for answer in ANSWERS:
        schema = parameter_schema(flows[answer.deployment]).model_dump_for_openapi()
        wanted = PAYLOADS[answer.event].__name__
        assert schema["properties"][answer.parameter]["$ref"] == f"#/definitions/{wanted}"
        assert schema["required"] == [answer.parameter]


def test_every_parameter_is_described() -> None:
    for entry in DEPLOYMENTS:
        module, _, name = entry["entrypoint"].rpartition(".")
        schema = parameter_schema(getattr(import_module(module), name)).model_dump_for_openapi()
        for shown, field in schema["properties"].items():
            described = field.get("description") or "$ref" in field or "allOf" in field
            assert described, f"{entry['entrypoint']}: {shown} has no description"


def test_automations_are_only_of_deployments_that_are_there() -> None:
    ids = {answer.deployment: uuid4() for answer in ANSWERS[:1]}
    found, crash = automations(ids, None)
    assert found.actions[0].parameters == {"drift": WHOLE_PAYLOAD}
    assert found.trigger.expect == {"ketcycle.drift.detected"}
    assert crash.actions[0].state == "CRASHED"
    messages = [item for item in automations({}, uuid4()) if item.actions[0].type == "send-notification"]
    assert [sorted(item.trigger.expect) for item in messages] == [
        ["ketcycle.drift.detected"],
        ["ketcycle.quality.regressed"],
        ["ketcycle.budget.exhausted"],
        ["prefect.flow-run.Crashed", "prefect.flow-run.Failed"],
    ]


def test_names_of_deployments_are_their_own() -> None:
    names = [entry["name"] for entry in DEPLOYMENTS]
    assert len(set(names)) == len(names), "prefect deploys some of them by these names"


def test_a_wheel_holds_the_list_of_deployments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[2]
    included = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert included["force-include"] == {
        "docs/evidence": "deployments/evidence",
        "prefect.yaml": "deployments/prefect.yaml",
    }
    assert project.project_file() == root / "prefect.yaml"
    monkeypatch.setattr(project, "PACKAGE", tmp_path / "deployments")
    assert project.project_file() == tmp_path / "deployments" / "prefect.yaml"


def test_the_version_of_a_wheel_is_the_packages_own_also_inside_another_repository(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    assert version(tmp_path) == metadata.version("ketcycle")
