"""Work pools of containers: what a real Prefect server makes of the files, without Docker or Kubernetes.

The server checks job variables against the schema of its workers. A job is rendered as a worker does it; none is
started.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.utilities.templating import apply_values

from deployments.deploy import deploy
from deployments.pools import KINDS, load_pool
from infra import settings

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

FOLDER = Path(__file__).parents[2] / "deployments"
CONTAINERS = ("docker", "kubernetes")
POOL = "ketcycle-kubernetes"
COMMAND = "prefect flow-run execute"


@pytest.fixture(scope="module", params=CONTAINERS)
def deployed(
    prefect_server: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Deploy to a pool; yield its kind and the job that its worker would make of a run of lifecycle/nightly."""
    loaded = settings.load(home=tmp_path_factory.mktemp("home"), work_pool=request.param)
    with pytest.MonkeyPatch.context() as patch, temporary_settings({PREFECT_API_URL: prefect_server}):
        patch.setenv("PREFECT_API_URL", prefect_server)
        patch.setenv("KETCYCLE_VERSION", "test")
        deploy(loaded)
        assert deploy(loaded, dry_run=True) == [], "a second time there is nothing to change"
        with SyncPrefectClient(prefect_server) as client:
            nightly = client.read_deployment_by_name("lifecycle/nightly")
            assert nightly.work_pool_name == load_pool(request.param).name
            assert nightly.pull_steps == [
                {"prefect.deployments.steps.set_working_directory": {"directory": "/home/ketcycle/work"}}
            ]
            assert nightly.global_concurrency_limit is not None
            template = client.read_work_pool(str(nightly.work_pool_name)).base_job_template
        yield request.param, rendered(template, nightly.job_variables)


def rendered(template: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    defaults = {k: v["default"] for k, v in template["variables"]["properties"].items() if "default" in v}
    values = {**defaults, "name": "a-run", "command": COMMAND, "labels": {}, **given}
    job: Any = apply_values(template["job_configuration"], values)
    return dict(job)


def test_a_run_is_a_container_with_the_settings_and_certificates(deployed: tuple[str, dict[str, Any]]) -> None:
    kind, job = deployed
    if kind == "docker":
        assert (job["command"], job["image"]) == (COMMAND, "ketcycle-flow-run")
        mounted = [volume.split(":")[1] for volume in job["volumes"]]
        environment = job["env"]
    else:
        (container,) = job["job_manifest"]["spec"]["template"]["spec"]["containers"]
        assert (container["args"], container["image"]) == (COMMAND, "ketcycle-flow-run")
        mounted = [mount["mountPath"] for mount in container["volumeMounts"]]
        environment = container["env"]
        volumes = {volume["name"] for volume in job["job_manifest"]["spec"]["template"]["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    assert {"/state", "/state/tls", "/home/ketcycle/work/ketcycle.toml"} == set(mounted)
    assert environment["KETCYCLE_HOME"] == "/state"
    assert environment["PREFECT_API_SSL_CERT_FILE"] == "/state/tls/ca.pem", "else the one of the worker is handed on"
    assert environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30", "variables of prefect.yaml are there too"
    assert "password" not in json.dumps(job).lower()


def test_the_worker_of_the_type_takes_the_job(deployed: tuple[str, dict[str, Any]]) -> None:
    kind, job = deployed
    module, name = {
        "docker": ("prefect_docker.worker", "DockerWorkerJobConfiguration"),
        "kubernetes": ("prefect_kubernetes.worker", "KubernetesWorkerJobConfiguration"),
    }[kind]
    pytest.importorskip(module)
    configuration = getattr(import_module(module), name)(**job)
    assert configuration.env["KETCYCLE_HOME"] == "/state"


def test_the_image_of_a_run_starts_prefects_command_and_its_folders_are_those_of_the_pools() -> None:
    lines = (FOLDER / "containers" / "Dockerfile").read_text()
    first, _, last = lines.partition("\nFROM flow-run\n")
    assert first.count("AS flow-run") == 1
    assert "ENTRYPOINT" not in first
    assert 'ENTRYPOINT ["ketcycle"]' in last
    for kind in CONTAINERS:
        pool = load_pool(kind)  # type: ignore[arg-type]
        assert f"WORKDIR {pool.folder}" in first
        assert pool.job_variables["image"] == "ketcycle-flow-run"


def test_the_volumes_and_networks_of_docker_are_those_of_the_compose_file() -> None:
    compose = yaml.safe_load((FOLDER / "containers" / "compose.yaml").read_text())
    given = load_pool("docker").job_variables
    named = [volume.partition(":")[0] for volume in given["volumes"] if not volume.startswith("{{")]
    assert {name.removeprefix("ketcycle_") for name in named} <= compose["volumes"].keys()
    assert compose["name"] == "ketcycle", "the prefix of its volumes and network"
    assert given["env"]["AWS_ENDPOINT_URL"] == compose["x-role"]["environment"]["AWS_ENDPOINT_URL"]


# The keys of the chart's values.schema.json that the file uses, with their types (prefect-helm, August 2026).
CHART = {
    "worker.apiConfig": str,
    "worker.selfHostedServerApiConfig.apiUrl": str,
    "worker.selfHostedServerApiConfig.basicAuth.enabled": bool,
    "worker.selfHostedServerApiConfig.basicAuth.existingSecret": str,
    "worker.config.type": str,
    "worker.config.workPool": str,
    "worker.config.name": str,
    "worker.config.installPolicy": str,
    "worker.extraEnvVars": list,
    "worker.extraVolumes": list,
    "worker.extraVolumeMounts": list,
}


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield name, value
        return
    for key, inner in value.items():
        yield from leaves(inner, f"{name}.{key}".lstrip("."))


def test_helm_values_have_keys_of_the_chart_and_start_a_worker_of_the_pool() -> None:
    values = yaml.safe_load((FOLDER / "pools" / "helm-values.yaml").read_text())
    assert {name: type(value) for name, value in leaves(values)} == CHART
    worker, pool = values["worker"], load_pool("kubernetes")
    assert (worker["config"]["type"], worker["config"]["workPool"]) == (pool.type, pool.name)
    assert {v["name"] for v in worker["extraVolumes"]} == {m["name"] for m in worker["extraVolumeMounts"]}
    secrets = {
        volume["secret"]["secretName"]
        for volume in (*pool.pod["volumes"], *worker["extraVolumes"])
        if "secret" in volume
    }
    text = (FOLDER / "pools" / "kubernetes.yaml").read_text()
    for name in (*secrets, pool.container["envFrom"][0]["secretRef"]["name"]):
        assert f"kubectl create secret generic {name} " in text


def test_the_chart_makes_a_worker_of_the_pool_of_the_helm_values() -> None:
    """Needs helm-python-sdk (Helm's own engine) and `helm pull prefect/prefect-worker --untar`."""
    helm = pytest.importorskip("helm_python")
    if not (folder := os.environ.get("PREFECT_WORKER_CHART")):
        pytest.skip("PREFECT_WORKER_CHART names no folder of the chart prefect-worker")
    chart = helm.Chart.load(folder)
    values = yaml.safe_load((FOLDER / "pools" / "helm-values.yaml").read_text())
    chart.validate_schema(values)
    with pytest.raises(helm.HelmError):
        chart.validate_schema({"worker": {"config": {"workpool": "another"}}})
    rendered = chart.render(values, name="ketcycle", namespace="default")
    (text,) = [text for path, text in rendered.items() if path.endswith("/deployment.yaml")]
    pod = yaml.safe_load(text)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    started = container["args"]
    assert started[:3] == ["infra.processes.worker", "worker", "start"]
    assert (started[started.index("--type") + 1], started[started.index("--pool") + 1]) == ("kubernetes", POOL)
    environment = {item["name"]: item for item in container["env"]}
    assert environment["PREFECT_API_URL"]["value"] == "https://server:4200/api"
    secret = environment["PREFECT_API_AUTH_STRING"]["valueFrom"]["secretKeyRef"]
    assert secret == {"name": "ketcycle-prefect", "key": "auth-string"}
    authority = environment["PREFECT_API_SSL_CERT_FILE"]["value"]
    assert load_pool("kubernetes").job_variables["env"]["PREFECT_API_SSL_CERT_FILE"] == authority
    (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "tls"]
    assert authority.startswith(f"{mount['mountPath']}/")


def test_processes_need_no_file() -> None:
    assert [load_pool(kind).type for kind in KINDS] == [*KINDS]
    assert load_pool("process").template({"a": 1}) == {"a": 1}
