from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
import yaml
from prefect import Flow

DEPLOYMENTS = yaml.safe_load((Path(__file__).parents[2] / "prefect.yaml").read_text())["deployments"]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: d["entrypoint"])
def test_entrypoints_are_flows_and_parameters_fit(deployment: dict[str, object]) -> None:
    module, _, name = str(deployment["entrypoint"]).rpartition(".")
    flow = getattr(import_module(module), name)
    assert isinstance(flow, Flow)
    if deployment.get("parameters"):
        flow.validate_parameters(deployment["parameters"])
