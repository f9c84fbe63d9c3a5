"""Prefect work pools: the kind of worker that starts the runs of deployments, and their environment.

`process` starts a process on the machine of the worker. The others are described by files in this folder, which only
change the place of a run: deployments, queues and parameters are those of prefect.yaml.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Literal, get_args

from infra.yaml_text import parse_yaml

Kind = Literal["process", "docker", "kubernetes"]
KINDS: tuple[Kind, ...] = get_args(Kind)
PROCESS = "ketcycle"


@dataclass(frozen=True)
class Pool:
    """A work pool.

    Attributes:
        name: of the pool.
        type: of its workers.
        folder: working folder of a run; empty = the one of `ketcycle deploy`.
        job_variables: for every run, over those of prefect.yaml.
        pod: added to the pod of a Kubernetes job.
        container: added to the container of a Kubernetes job.
    """

    name: str
    type: Kind
    folder: str = ""
    job_variables: Mapping[str, Any] = field(default_factory=dict)
    pod: Mapping[str, Any] = field(default_factory=dict)
    container: Mapping[str, Any] = field(default_factory=dict)

    def variables(self, of_deployment: Mapping[str, Any]) -> dict[str, Any]:
        """Return the job variables of a deployment in this pool; environment variables of both are joined."""
        joined = {**of_deployment.get("env", {}), **self.job_variables.get("env", {})}
        return {**of_deployment, **self.job_variables, "env": joined}

    def template(self, default: Mapping[str, Any]) -> dict[str, Any]:
        """Return the pool's job template: Prefect's default for the type, with the additions to the pod."""
        found = copy.deepcopy(dict(default))
        if self.pod or self.container:
            spec = found["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
            spec.update(self.pod)
            spec["containers"][0].update(self.container)
        return found


def load_pool(kind: Kind) -> Pool:
    """Return the pool of a kind."""
    if kind == "process":
        return Pool(PROCESS, kind)
    return Pool(**parse_yaml((files("deployments.pools") / f"{kind}.yaml").read_text(encoding="utf-8")))
