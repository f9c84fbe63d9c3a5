"""Examines an installation: what works, what is missing, what to do; `repair` makes the safe repairs.

`examine` only reads: it starts nothing and raises nothing.
"""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import psutil
from packaging.requirements import Requirement

from infra.energy.nvml import open_devices
from infra.energy.rapl import find_domains
from infra.errors import KetcycleError, NoLedger
from infra.moved import DATABASE, missing_models, moved_from, readdress
from infra.settings import FILE, Settings, environment

Level = Literal["ok", "note", "wrong"]
LITTLE_SPACE_GB = 2.0
CONNECT_S = "15s"


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        about: subject of the check.
        level: `ok`, `note` (works, with a limit) or `wrong` (has to be repaired).
        found: result of the check.
        advice: what to do; empty if nothing has to be done.
    """

    about: str
    level: Level
    found: str
    advice: str = ""


def examine(settings: Settings, backend: str = "aer") -> list[Finding]:
    """Check everything that a run on this backend needs."""
    return [
        *_settings(settings),
        *_home(settings.home),
        *_energy(),
        *_versions(),
        *_stores(settings),
        *_registry(settings),
        *_services(settings),
        *_backend(backend),
    ]


def repair(settings: Settings) -> list[str]:
    """Make the repairs that need no decision by the user, and return one sentence for each repair.

    Raises:
        BadInput: a database is in use or has a schema of a newer version.
    """
    from infra.claims import Claims
    from infra.runtime.ledger.ledger import Ledger

    done = []
    if not settings.inbox_folder.is_dir():
        settings.inbox_folder.mkdir(parents=True)
        done.append(f"made the inbox {settings.inbox_folder}")
    if changed := readdress(settings.home):
        done.append(f"changed {changed} addresses in MLflow's database to {settings.home}")
    if _has_ledger(settings):
        Ledger(settings.ledger)
        Claims(settings.ledger, "doctor")
        done.append("brought the tables of the ledger to the schema of this version")
    note = settings.home / "services.json"
    if note.exists() and not any(psutil.pid_exists(pid) for pid in _noted_pids(note)):
        note.unlink()
        done.append("removed the note of services that no longer run")
    return done


def _noted_pids(note: Path) -> list[int]:
    try:
        found = json.loads(note.read_text())
    except ValueError:
        return []
    return [int(pid) for pid in (found.get("pid"), *(child[0] for child in found.get("children", []))) if pid]


def _has_ledger(settings: Settings) -> bool:
    path = settings.ledger.removeprefix("sqlite:///")
    return path == settings.ledger or Path(path).exists()


def _settings(settings: Settings) -> Iterator[Finding]:
    path = Path(FILE).absolute()
    yield Finding("settings", "ok", str(path) if path.exists() else "defaults and environment", "")
    if settings.carbon_series is not None and not settings.carbon_series.expanduser().exists():
        yield Finding(
            "carbon series", "wrong", f"no file {settings.carbon_series}", "set carbon_series to a file, or unset it"
        )


def _home(home: Path) -> Iterator[Finding]:
    try:
        with tempfile.NamedTemporaryFile(dir=home):
            pass
    except OSError as error:
        yield Finding(
            "state folder", "wrong", f"{home} cannot be written ({error.strerror})", "choose another with --home"
        )
        return
    yield Finding("state folder", "ok", str(home))
    free_gb = shutil.disk_usage(home).free / 1e9
    little = free_gb < LITTLE_SPACE_GB
    advice = "free space; a run leaves about 0.3 GB, `ketcycle clean` removes old ones" if little else ""
    yield Finding("disk", "wrong" if little else "ok", f"{free_gb:.1f} GB free", advice)


def _energy() -> Iterator[Finding]:
    domains, why = find_domains()
    if domains:
        yield Finding("energy counters", "ok", f"RAPL, {len(domains)} domains: CPU joules are measured")
    else:
        yield Finding("energy counters", "note", f"no RAPL: {why}; CPU joules are modelled from CPU seconds")
    devices, why = open_devices()
    found = f"{len(devices)} by NVML: GPU joules are measured" if devices else f"none: {why}"
    yield Finding("GPU counters", "ok" if devices else "note", found)


def _versions() -> Iterator[Finding]:
    wrong = []
    for text in requires("ketcycle") or []:
        wanted = Requirement(text)
        marker = wanted.marker
        if marker is not None and not any(marker.evaluate({"extra": extra}) for extra in ("", "pipeline")):
            continue
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            wrong.append(f"{wanted.name} is not installed")
            continue
        if not wanted.specifier.contains(found, prereleases=True):
            wrong.append(f"{wanted.name} {found} is not {wanted.specifier}")
    if wrong:
        yield Finding("packages", "wrong", "; ".join(wrong), "install again with constraints.txt (`make setup`)")
    else:
        yield Finding("packages", "ok", f"ketcycle {version('ketcycle')}, prefect {version('prefect')}, "
                      f"qiskit {version('qiskit')}, torch {version('torch')}; all within their bounds")  # fmt: skip


def _stores(settings: Settings) -> Iterator[Finding]:
    from infra.runtime.ledger.ledger import Ledger

    none_yet = Finding("ledger", "ok", "none yet; it appears with the first quantum call")
    if not _has_ledger(settings):
        yield none_yet
    else:
        try:
            Ledger(settings.ledger, create=False)
            yield Finding("ledger", "ok", "can be read")
        except NoLedger:
            yield none_yet
        except KetcycleError as error:
            yield Finding("ledger", "wrong", str(error), "see the message")

    from infra.shared import open_evidence

    if settings.lake_url:
        yield Finding("store", "ok", settings.lake_url)  # reading the evidence shows whether the store answers
    try:
        rows = open_evidence(settings.home).sql("select count(*) n from evidence")["n"][0].as_py()
        yield Finding("evidence", "ok", f"{rows} rows")
    except KetcycleError as error:
        yield Finding("evidence", "wrong", str(error), "see the message")


def _registry(settings: Settings) -> Iterator[Finding]:
    if settings.tracking.startswith("http") or not (settings.home / DATABASE).exists():
        return
    try:
        before, missing = moved_from(settings.home), missing_models(settings.home)
    except sqlite3.Error as error:
        yield Finding(
            "model registry", "wrong", f"{settings.home / DATABASE} cannot be read: {error}", "see the message"
        )
        return
    if before is not None:
        advice = "`ketcycle doctor --fix`, or the next run, changes the addresses"
        yield Finding("model registry", "wrong", f"its addresses are of {before}: the home was moved or copied", advice)
        return
    if not missing:
        yield Finding("model registry", "ok", "the files of all versions are there")
    for item in missing:
        alias = f" ({', '.join(item.aliases)})" if item.aliases else ""
        level: Level = "wrong" if item.aliases else "note"
        advice = "point the alias to another version in the MLflow page, or train a new model" if item.aliases else ""
        found = f"{item.name} version {item.version}{alias} has no files any more"
        yield Finding("model registry", level, found, advice)


WITHOUT = {  # what a run does where no address is set
    "Prefect": "none: runs do without, `ketcycle up` starts one",
    "Dask": "own one for each run",
    "MLflow": "SQLite in the state folder",
}


def _services(settings: Settings) -> Iterator[Finding]:
    from infra.compute import read_note

    noted = read_note(settings.home)
    asked = {
        "Prefect": settings.prefect_url or environment("PREFECT_API_URL") or noted.get("prefect_url", ""),
        "Dask": settings.dask_address or noted.get("dask_address", ""),
        "MLflow": settings.tracking_uri or noted.get("mlflow_url", ""),
    }
    for name, address in asked.items():
        if not address or "://" not in address or address.startswith("sqlite"):
            yield Finding(name, "ok", WITHOUT[name])
        elif listens(address):
            yield Finding(name, "ok", f"listens at {address}")
            if name == "Dask":
                yield _workers(settings, address)
        else:
            yield Finding(
                name, "wrong", f"nothing listens at {address}", "start it (`ketcycle up`), or unset its address"
            )


def _workers(settings: Settings, address: str) -> Finding:
    """Ask every worker of a scheduler for its versions and stores, as a run does before it begins."""
    import dask
    import distributed

    from infra.compute import certificates, require_same, require_scheduler

    advice = "install and set the same on all machines; see docs/operations.md"
    try:
        require_scheduler(address)
        with (
            dask.config.set(certificates(settings.home, address)),
            distributed.Client(address, timeout=CONNECT_S, set_as_default=False) as client,
        ):
            require_same(client, settings)
            count = len(client.scheduler_info(n_workers=-1)["workers"])
    except (KetcycleError, OSError, ValueError) as error:
        return Finding("Dask workers", "wrong", f"{error or type(error).__name__}", advice)
    if count == 0:
        return Finding("Dask workers", "wrong", f"{address} has no worker", "start one: `ketcycle up --role worker`")
    return Finding("Dask workers", "ok", f"{count}, with the versions and stores of this machine")


def _backend(name: str) -> Iterator[Finding]:
    kind, _, _ = name.partition(":")
    if kind in ("aer", "noisy"):
        there = find_spec("qiskit_aer") is not None
        yield (
            Finding(f"backend {name}", "ok", "simulated here")
            if there
            else Finding(f"backend {name}", "wrong", "qiskit-aer is missing", "install again with constraints.txt")
        )
    account = Path(environment("QISKIT_IBM_ACCOUNT_FILE") or Path.home() / ".qiskit" / "qiskit-ibm.json")
    has_token = bool(environment("QISKIT_IBM_TOKEN"))
    where = "variable QISKIT_IBM_TOKEN" if has_token else str(account) if account.exists() else ""
    if kind != "ibm":
        yield Finding(
            "IBM credentials", "ok" if where else "note", f"{where}: present" if where else "none, and none needed"
        )
        return
    from infra.runtime.backends.ibm.readiness import check

    for item in check(name):
        yield Finding(item.about, "ok" if item.ok else "wrong", item.found, item.advice)


def listens(address: str) -> bool:
    """Return whether a server accepts connections at an address like http://host:port/path."""
    host, _, port = address.partition("://")[2].partition("/")[0].rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1):
            return True
    except (OSError, ValueError):
        return False
