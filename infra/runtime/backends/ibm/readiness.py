"""What is missing before circuits can run on a device of the IBM platform, one line a piece. Sends no job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import requests
from qiskit_ibm_runtime import IBMBackend, QiskitRuntimeService

from infra.errors import BadInput
from infra.runtime.backends.ibm.account import ADVICE, PUBLIC_API, PUBLIC_IDENTITY, connect, find_account, redact
from infra.runtime.backends.ibm.options import check_options
from infra.runtime.backends.registry import canonical_name
from infra.settings import Settings

TRIED_WITH = "0.51"
ANSWER_S = 5.0
LITTLE_S = 30.0


@dataclass(frozen=True)
class Check:
    """One piece: whether it is there, what was found, what to do.

    Attributes:
        about: which piece.
        ok: whether it is as it should be.
        found: what was found; never a secret.
        advice: what to do; empty where nothing is.
    """

    about: str
    ok: bool
    found: str
    advice: str = ""


def check(name: str, settings: Settings | None = None) -> list[Check]:
    """Check everything that `ibm:<device>` needs; stop where later checks depend on a failed one; never raise."""
    try:
        loaded = Settings() if settings is None else settings
        device = canonical_name(name).removeprefix("ibm:")
    except Exception as error:  # noqa: BLE001  (a report of what is wrong must not be another thing that is wrong)
        return [Check("settings", False, redact(error), "correct ketcycle.toml or the KETCYCLE_ variables")]
    found: list[Check] = []
    try:
        found.extend(_checks(device, loaded))
    except _Stop as stop:
        found.append(stop.check)
    except Exception as error:  # noqa: BLE001  (as above)
        found.append(Check("platform", False, redact(error)[:300], "try again; if it stays, look at the address"))
    return found


class _Stop(Exception):
    """Nothing after this can be looked at."""

    def __init__(self, check: Check) -> None:
        self.check = check


def _checks(device: str, settings: Settings) -> Iterator[Check]:
    yield _client()
    yield _options(settings)
    yield _account(settings)
    yield _address("identity service", settings.ibm_identity_url or PUBLIC_IDENTITY, "KETCYCLE_IBM_IDENTITY_URL")
    yield _address("API", settings.ibm_api_url or PUBLIC_API, "KETCYCLE_IBM_API_URL")
    service = _connect(settings)
    yield Check("access token", True, "accepted")
    yield _instance(service)
    backend = _device(service, device)
    yield Check("device", True, f"{device}, {backend.num_qubits} qubits")
    yield _online(backend, device)
    yield _seconds(service)


def _client() -> Check:
    found = version("qiskit-ibm-runtime")
    advice = "" if found.startswith(TRIED_WITH) else f"ketcycle was tried with {TRIED_WITH}"
    return Check("client", not advice, f"qiskit-ibm-runtime {found}, qiskit {version('qiskit')}", advice)


def _options(settings: Settings) -> Check:
    try:
        chosen = check_options(settings.ibm_options)
    except BadInput as error:
        return Check("options", False, str(error), "correct ibm_options in ketcycle.toml or KETCYCLE_IBM_OPTIONS")
    said = ", ".join(f"{name}={value}" for name, value in chosen.items()) or "none"
    return Check("options", True, f"mode {settings.ibm_mode}; {said}")


def _account(settings: Settings) -> Check:
    try:
        account = find_account()
    except BadInput as error:
        raise _Stop(Check("account", False, str(error), ADVICE)) from None
    if account is None:
        raise _Stop(Check("account", False, "none", ADVICE))
    instance = settings.ibm_instance or account.instance or "none named, the client chooses one"
    return Check("account", True, f"{account.source}; instance {instance}")


def _address(what: str, url: str, variable: str) -> Check:
    try:
        requests.get(url, timeout=ANSWER_S)
    except requests.RequestException as error:
        advice = f"check the network, a proxy, or {variable}"
        raise _Stop(Check(what, False, f"{url} does not answer ({type(error).__name__})", advice)) from None
    return Check(what, True, f"{url} answers")


def _connect(settings: Settings) -> QiskitRuntimeService:
    try:
        return connect(settings)
    except Exception as error:  # noqa: BLE001  (the client raises many kinds for a token that is refused)
        raise _Stop(
            Check("access token", False, redact(error)[:300], f"check the API key and the instance; {ADVICE}")
        ) from None


def _instance(service: QiskitRuntimeService) -> Check:
    known = {item["crn"]: item for item in service.instances()}
    crn = service.active_instance()
    found = known.get(crn)
    if found is None:
        return Check("instance", False, crn or "none", "name one with KETCYCLE_IBM_INSTANCE")
    return Check("instance", True, f"{found['name']}, plan {found['plan']}")


def _device(service: QiskitRuntimeService, device: str) -> IBMBackend:
    names = sorted(backend.name for backend in _quietly(service.backends, []))
    if device not in names:
        advice = f"use one of {', '.join(names)}" if names else "the instance has no device; choose another instance"
        raise _Stop(Check("device", False, f"{device} is not among {len(names)} devices of the instance", advice))
    return service.backend(device)


def _online(backend: IBMBackend, device: str) -> Check:
    status = backend.status()
    found = f"{status.status_msg}, {status.pending_jobs} jobs waiting"
    return Check("online", bool(status.operational), found, "" if status.operational else f"wait for {device}")


def _seconds(service: QiskitRuntimeService) -> Check:
    usage = service.usage()
    left = usage.get("usage_remaining_seconds")
    if left is None:
        return Check("QPU seconds", True, f"no limit stated, {usage.get('usage_consumed_seconds', 0):.0f} s used")
    advice = "" if left >= LITTLE_S else "hardly a job fits; wait for the next period or use another instance"
    return Check("QPU seconds", left >= LITTLE_S, f"{left:.0f} s left of the plan", advice)


def _quietly(ask: Callable[[], Any], otherwise: Any) -> Any:
    try:
        return ask()
    except Exception:  # noqa: BLE001  (an instance without devices raises in the client)
        return otherwise
