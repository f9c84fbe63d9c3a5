"""MLflow on a server elsewhere: a real one on loopback whose files no client can see."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from pydantic import ValidationError

from deployments.tables import make_tables
from infra import settings
from infra.compute import free_port, stop_families
from infra.installation.status import look
from infra.settings import Settings
from infra.tracking import Tracking

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]  # MLflow's server takes seconds to start


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    make_tables(folder / "mlflow.db", "mlflow")
    address = f"http://127.0.0.1:{port}"
    command = [
        sys.executable, "-m", "infra.processes.child", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    with (folder / "said.log").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder)
    try:
        while True:
            assert process.poll() is None, (folder / "said.log").read_text()
            try:
                httpx.get(f"{address}/health", timeout=2).raise_for_status()
                break
            except httpx.HTTPError:
                continue
        yield address
    finally:
        stop_families([psutil.Process(process.pid)])
        process.wait()


def model_in(home: Path, weights: str = "1 2 3") -> Path:
    folder = home / "lake" / "inference" / "model" / "abc"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "weights").write_text(weights)
    return folder


def opened(address: str, home: Path) -> Tracking:
    return Tracking(address, home / "mlflow" / "artifacts")


def test_a_model_registered_on_one_machine_is_fetched_on_another(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert opened(server, first).register("shared", model_in(first), "champion", {}) == 1
    other = opened(server, second)
    assert other.register("shared", model_in(second), "champion", {}) == 1, "the same model of the lake, resumed there"
    shutil.rmtree(first)
    version, folder, _ = other.model("shared", alias="champion")
    assert (version, (folder / "weights").read_text()) == (1, "1 2 3")
    assert folder.is_relative_to(second)
    run = other.open("r1", "lifecycle", 1.0, {"a": 1}, {})
    (second / "report.md").write_text("words")
    other.artifact(run, second / "report.md")
    assert not list(second.rglob("mlruns")), "files went to the server"
    monkeypatch.chdir(tmp_path)
    found = look(settings.load(home=second, tracking_uri=server))
    assert [(item.model, item.version) for item in found.champions] == [("shared", 1)]


def test_status_does_not_wait_for_a_server_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = look(settings.load(home=tmp_path, tracking_uri=f"http://127.0.0.1:{free_port()}"))
    assert found.champions == ()
    assert [item.answers for item in found.services if item.name == "MLflow"] == [False]


@pytest.mark.parametrize("address", ["databricks", "databricks://profile", "databricks-uc://profile"])
def test_databricks_is_refused_with_what_to_do(address: str) -> None:
    with pytest.raises(ValidationError, match=r"Databricks is not supported.*name an MLflow server"):
        Settings(tracking_uri=address)


@pytest.mark.parametrize("address", ["ftp://host", "/a/folder", "file:///a/folder", "localhost:5000"])
def test_an_address_that_mlflow_cannot_use_is_refused(address: str) -> None:
    with pytest.raises(ValidationError, match="begins with http, https, sqlite"):
        Settings(tracking_uri=address)
