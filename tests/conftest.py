"""One thread for every numerical library: tests run beside each other, and results depend on the thread count."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from threadpoolctl import threadpool_limits


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="session")
def ibm_double() -> Iterator[Any]:
    """A process that speaks the quantum platform's protocol, started by the first test that asks."""
    sys.path.insert(0, str(Path(__file__).parent / "doubles"))
    from ibm_platform import Double

    double = Double()
    yield double
    double.stop()


@pytest.fixture
def ibm(ibm_double: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The platform without jobs and faults, and this process set to it; it polls fast and backs off at once."""
    from qiskit_ibm_runtime.api.session import PostForcelistRetry

    from infra.runtime import backends
    from infra.runtime.ibm import IBMDevice

    ibm_double.reset()
    for name, value in ibm_double.environment().items():
        monkeypatch.setenv(name, value)
    for name in ("IAM_URL", "GLOBAL_SEARCH_URL", "GLOBAL_CATALOG_URL"):
        monkeypatch.setenv(name, ibm_double.url)  # the product sets them for its process; here they are put back
    monkeypatch.setattr(backends, "_open", {})
    monkeypatch.setattr(IBMDevice, "poll_s", 0.01)
    monkeypatch.setattr(IBMDevice, "linger_s", 0.0)
    monkeypatch.setattr(PostForcelistRetry, "get_backoff_time", lambda _: 0.0)
    return ibm_double


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server on loopback; what it holds is gone with the tests."""
    pytest.importorskip("s3fs", reason="the extra s3 is not installed")
    server = pytest.importorskip("moto.server", reason="moto is not installed").ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A name below an empty bucket of that server, for which this process has credentials."""
    import s3fs

    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "not-to-be-printed",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()  # a client keeps the address that it began with
    name = f"b{uuid.uuid4().hex}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}/lake of us"
