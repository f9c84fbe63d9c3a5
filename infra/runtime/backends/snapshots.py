"""Fake devices: calibrations of real ones, as the vendor's client ships them."""

from __future__ import annotations

import inspect
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from infra.errors import BadInput

if TYPE_CHECKING:
    from qiskit.providers import BackendV2


@lru_cache(maxsize=1)
def _fake_devices() -> dict[str, type[BackendV2]]:
    from qiskit_ibm_runtime import fake_provider

    classes: list[Any] = [value for _, value in inspect.getmembers(fake_provider, inspect.isclass)]
    return {c.backend_name: c for c in classes if isinstance(getattr(c, "backend_name", None), str)}


def device_name(name: str) -> str:
    """Return the full name of a device snapshot; the prefix `fake_` may be left out.

    Raises:
        BadInput: there is no such snapshot.
    """
    wanted = name.lower()
    for candidate in (wanted, f"fake_{wanted}"):
        if candidate in _fake_devices():
            return candidate
    raise BadInput(f"there is no fake device {name!r}; there are {', '.join(sorted(_fake_devices()))}")


@lru_cache(maxsize=8)  # a device of 133 qubits holds some 20 MB
def fake_device(name: str) -> BackendV2:
    """Return a device snapshot shipped with the runtime client."""
    return _fake_devices()[device_name(name)]()


@lru_cache(maxsize=64)
def simulator_calibration(device: str = "") -> str:
    """Return what names the state of a simulator that its results depend on: its version and that of the snapshot."""
    aer = f"aer-{version('qiskit-aer')}"
    return f"{device}-{fake_device(device).backend_version} {aer}" if device else aer
