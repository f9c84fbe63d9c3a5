"""Where circuits run: the contract of a backend, and the factory that makes one from its name.

    aer                     ideal simulation on this machine
    noisy:<fake device>     simulation with the noise, coupling map and basis gates of a device snapshot
    ibm:<device>            a device of the IBM platform; its prefix `ibm_` may be left out
    provider:<module>:<device>   a device of any Qiskit provider, by the module that holds the provider

The contract is that of a remote queue, so that hardware fits in: a batch is submitted under a tag and becomes a job
with an id, which can be polled, fetched, cancelled, and found again by the tag after a crash. For a simulator in the
leader's own process the job dies with the process, which is what `local` says.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

from infra.errors import BadInput
from infra.runtime.backends.contract import Backend
from infra.runtime.backends.snapshots import device_name, fake_device, simulator_calibration
from infra.settings import hand_on

_DEVICE = re.compile(r"[a-z][a-z0-9_]*")
Factory = Callable[[str], Backend]

_lock = threading.Lock()
_open: dict[str, Backend] = {}


def canonical_name(name: str) -> str:
    """Return the one way to write a backend's name.

    Raises:
        BadInput: there is no such backend; the message lists those there are.
    """
    kind, _, device = name.partition(":")
    if kind not in FACTORIES:
        raise BadInput(
            f"there is no backend {name!r}; use aer, noisy:<fake device> such as noisy:fake_torino, ibm:<device>, or "
            "provider:<module>:<device>"
        )
    if kind == "ibm":
        if not _DEVICE.fullmatch(device):
            raise BadInput(f"{name!r} names no device; write ibm:<device> such as ibm:ibm_torino")
        return f"ibm:{device if '_' in device else f'ibm_{device}'}"
    if kind == "provider" and not all(device.partition(":")):
        raise BadInput(f"{name!r} names no device; write provider:<module>:<device>")
    if kind == "noisy":
        return f"noisy:{device_name(device)}"
    return name


def is_remote(name: str) -> bool:
    """Return whether jobs of the backend leave this machine, where they may bill and outlive their process."""
    return name.partition(":")[0] in ("ibm", "provider")


def open_backend(name: str) -> Backend:
    """Return the backend of that name, made once per process.

    Raises:
        BadInput: there is no such backend.
    """
    name = canonical_name(name)
    with _lock:
        if name not in _open:
            # The transpiler's own threads would hide its CPU time from the thread that is metered, and gain nothing.
            hand_on(QISKIT_IN_PARALLEL="TRUE")
            kind, _, device = name.partition(":")
            _open[name] = FACTORIES[kind](device)
        return _open[name]


def calibration_of(name: str) -> str:
    """Return the name of a backend's state that its results depend on.

    Only hardware has to be opened for that: its calibration changes.
    """
    name = canonical_name(name)
    return open_backend(name).calibration if is_remote(name) else simulator_calibration(name.partition(":")[2])


def _ideal(_: str) -> Backend:
    from infra.runtime.backends.aer import IdealSimulator

    return IdealSimulator()


def _noisy(device: str) -> Backend:
    from infra.runtime.backends.noisy import NoisySimulator

    return NoisySimulator(device, fake_device(device))


def _hardware(device: str) -> Backend:
    from infra.runtime.backends.ibm.device import IBMDevice

    return IBMDevice(device)


def _provided(name: str) -> Backend:
    from infra.runtime.backends.provider import ProviderDevice
    from infra.settings import Settings

    module, _, device = name.partition(":")
    return ProviderDevice(module, device, Settings().provider_prices)


FACTORIES: dict[str, Factory] = {"aer": _ideal, "noisy": _noisy, "ibm": _hardware, "provider": _provided}
