"""One thread for every numerical library: tests run beside each other, and results depend on the thread count."""

from __future__ import annotations

import sys
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
