"""A real MLflow server tells the receiver, over HTTP and signed, of what happens in its registry."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import mlflow
import pytest
import uvicorn
from cryptography.fernet import Fernet

from infra.claims import Claims
from infra.compute import free_port
from infra.events import ModelRegistered, ModelValidated, Payload
from infra.installation.webhooks import Receiver, create_app

pytestmark = [pytest.mark.faults, pytest.mark.engine, pytest.mark.timeout(900)]

SECRET = "a secret of the test"  # noqa: S105


def until(true: object, seconds: float) -> None:
    give_up = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < give_up
        time.sleep(0.2)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    environment = os.environ | {
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": Fernet.generate_key().decode(),
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "DO_NOT_TRACK": "true",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db"]
    with (tmp_path / "mlflow.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log)
    try:
        until(lambda: answers(f"http://127.0.0.1:{port}/health"), 200)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=30)


def test_versions_and_approvals_in_a_real_registry_become_events(registry: str, tmp_path: Path) -> None:
    taken: list[tuple[str, Payload]] = []
    claims = Claims(str(tmp_path / "ledger.db"), "webhooks")
    receiver = Receiver(claims, secret=SECRET, forward=lambda name, payload, _: taken.append((name, payload)))
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(create_app(receiver), host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        until(lambda: server.started, 30)
        client = mlflow.MlflowClient(registry, registry)
        events = ["model_version.created", "model_version_tag.set"]
        client.create_webhook("ketcycle", f"http://127.0.0.1:{port}/mlflow", events, secret=SECRET)
        client.create_registered_model("demo")
        client.create_model_version("demo", "s3://models/demo", tags={"ketcycle_run": "run-7"})
        until(lambda: len(taken) == 1, 30)
        client.set_model_version_tag("demo", "1", "validation_status", "approved")
        until(lambda: len(taken) == 2, 30)
    finally:
        server.should_exit = True
        thread.join(10)
    registered = ModelRegistered(name="demo", version=1, source="s3://models/demo", run_id="run-7")
    validated = ModelValidated(name="demo", version=1, by="tag validation_status=approved")
    assert taken == [("model.registered", registered), ("model.validated", validated)]
