"""The container files, as far as they can be looked at without containers: no image was built for these tests."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import typer
import yaml

from flows.cli import app
from infra.settings import Settings

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deployments" / "containers"
PASSWORD = "pass-of-a-test"  # noqa: S105
FILE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"] == "ketcycle"]


def environment(name: str) -> dict[str, str]:
    """Return the variables of a service as compose would fill them in."""
    given = SERVICES[name].get("environment", {})
    return {key: re.sub(r"\$\{(\w+):\?[^}]*\}", PASSWORD, str(value)) for key, value in given.items()}


def parsed(command: list[str]) -> tuple[str, dict[str, Any]]:
    """Read a command line as `ketcycle` does, without doing what it says."""
    group: Any = typer.main.get_command(app)
    with group.make_context("ketcycle", list(command)) as context:
        name, found, left = group.resolve_command(context, list(command))
        return str(name), found.make_context(name, left, parent=context).params


@pytest.mark.parametrize("name", OURS)
def test_every_command_is_one_that_ketcycle_knows(name: str) -> None:
    if "entrypoint" in SERVICES[name]:
        return
    command, options = parsed(SERVICES[name]["command"])
    if options.get("role"):
        assert command == "up"
        assert options["role"] == name
    host = options.get("address") or options.get("host")
    if name in ("server", "scheduler", "worker", "serve"):
        assert host == name
        assert name in parsed(SERVICES["init"]["command"])[1]["address"].split(","), "its certificate names it"


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting_and_every_address_a_service(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = environment(name)
    ours = {key for key in variables if key.startswith("KETCYCLE_")}
    assert {key.removeprefix("KETCYCLE_").lower() for key in ours} <= Settings.model_fields.keys()
    for key in ours:
        monkeypatch.setenv(key, variables[key])
    loaded = Settings()
    assert loaded.lake_url == "s3://ketcycle/home"
    others = [value for key, value in variables.items() if "://" in value and key != "KETCYCLE_LAKE_URL"]
    assert len(others) >= 5
    for value in others:
        assert urlsplit(value).hostname in SERVICES, value
    assert urlsplit(variables["AWS_ENDPOINT_URL"]).port == 9000, "MinIO's"
    store = environment("s3")
    assert variables["AWS_ACCESS_KEY_ID"] == store["MINIO_ROOT_USER"]
    assert variables["AWS_SECRET_ACCESS_KEY"] == store["MINIO_ROOT_PASSWORD"]
    for field in ("prefect_url", "tracking_uri", "dask_address"):
        port = {"prefect_url": "prefect_port", "tracking_uri": "mlflow_port", "dask_address": "scheduler_port"}[field]
        if name != "server" or field != "tracking_uri":  # it keeps the store itself
            assert urlsplit(str(getattr(loaded, field))).port == Settings.model_fields[port].default


def test_every_password_must_be_given() -> None:
    text = (FOLDER / "compose.yaml").read_text()
    assert set(re.findall(r"\$\{(\w+)", text)) == {"POSTGRES_PASSWORD", "S3_PASSWORD"}
    assert len(re.findall(r"\$\{\w+:\?", text)) == text.count("${")


def test_what_is_named_is_declared_and_state_is_nobody_elses() -> None:
    states = []
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            source, target = volume.split(":")[:2]
            assert source in FILE["volumes"]
            states += [source] if target == "/state" else []
        for other in service.get("depends_on", ()):
            assert other in SERVICES
        for config in service.get("configs", ()):
            assert config["source"] in FILE["configs"]
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:")
    assert len(states) == len(set(states)) == 4


def check(found: dict[str, Any]) -> list[str]:
    """Return the services of a compose file; raise ValueError if it is not what the compose specification says."""
    compose = pytest.importorskip("compose_spec").PyCompose.from_yaml(yaml.safe_dump(found))
    compose.validate()
    return list(compose.service_names())


def test_the_file_is_what_the_compose_specification_says() -> None:
    filled = yaml.safe_load(re.sub(r"\$\{(\w+):\?[^}]*\}", PASSWORD, (FOLDER / "compose.yaml").read_text()))
    assert set(check(filled)) == SERVICES.keys()
    filled["services"]["server"]["depends_on"] = {"postgres": {"condition": "service_fine"}}
    with pytest.raises(ValueError, match="unknown variant `service_fine`"):
        check(filled)
    del filled["services"]["server"]["depends_on"]
    filled["services"]["s3"]["restarts"] = "always"
    with pytest.raises(ValueError, match="restarts"):
        check(filled)


def test_the_image_holds_the_packages_and_the_clients() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines = (FOLDER / "Dockerfile").read_text().splitlines()
    copied = {word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]}
    assert all((ROOT / name).exists() for name in copied)
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= copied
    (extras,) = re.findall(r"'\.\[(.+)\]'", "\n".join(lines))
    assert set(extras.split(",")) <= project["project"]["optional-dependencies"].keys()
    assert {"postgres", "s3"} <= set(extras.split(","))
    assert any(line.startswith("USER ") for line in lines), "not root"


def test_the_bucket_is_made_once(bucket: str) -> None:
    import s3fs

    program, *arguments = SERVICES["bucket"]["entrypoint"]
    assert program == "python"
    for _ in range(2):
        subprocess.run([sys.executable, *arguments], check=True, timeout=60)
    files = s3fs.S3FileSystem()
    assert files.exists("ketcycle")
    files.rmdir("ketcycle")


def test_the_databases_that_the_server_uses_are_made(postgres: str) -> None:
    import pg8000.dbapi

    port = urlsplit(postgres).port
    connection = pg8000.dbapi.connect("ketcycle", host="127.0.0.1", port=port, database="postgres")
    connection.autocommit = True
    cursor = connection.cursor()
    for statement in filter(None, map(str.strip, FILE["configs"]["databases"]["content"].split(";"))):
        cursor.execute(statement)
    cursor.execute("select datname from pg_database")
    made = {name for (name,) in cursor.fetchall()}
    used = {urlsplit(value).path[1:] for value in environment("server").values() if value.startswith("postgresql")}
    assert used == {SERVICES["postgres"]["environment"]["POSTGRES_DB"], "mlflow", "prefect"}
    assert used - {"ketcycle"} <= made
    for name in ("mlflow", "prefect"):
        cursor.execute(f"drop database {name}")
    connection.close()
