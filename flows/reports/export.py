"""Export of the evidence: CSV, and SPDX 3.0.1 with the energy fields of its AI profile."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flows.reports.conversion import open_grid
from infra import runs
from infra.energy.carbon import Grid
from infra.energy.derive import Derived, Span, derive, working_times
from infra.energy.model import J_PER_KWH, Band, Coefficients
from infra.errors import BadInput
from infra.evidence import EvidenceRow
from infra.lake import write_atomic
from infra.settings import Settings
from infra.shared import open_evidence

# Stages by energy field; https://spdx.github.io/spdx-spec/v3.0.1/model/AI/Classes/EnergyConsumption
SPDX_FIELDS = {
    "ai_trainingEnergyConsumption": ("training",),
    "ai_finetuningEnergyConsumption": ("finetuning",),
    "ai_inferenceEnergyConsumption": ("inference", "monitoring"),
}
CONTEXT = "https://spdx.org/rdf/3.0.1/spdx-context.jsonld"
MODELS = ("inference/model", "finetuning/model", "training/model")


def export_csv(loaded: Settings, path: Path, coefficients: Coefficients, run_id: str | None = None) -> int:
    """Write one line for each evidence row, with raw and derived columns; return the number of lines.

    Raises:
        BadInput: there is no such evidence, or the carbon series does not cover the time of the work.
    """
    evidence, grid = open_evidence(loaded.home), open_grid(loaded, coefficients)
    spans = working_times(evidence.scan(run_id))
    if not spans:
        raise BadInput(f"no evidence of run {run_id or '(any)'} in {evidence.root}; try ketcycle evidence")
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("w", newline="", encoding="utf-8") as stream:
        writer: csv.DictWriter[str] | None = None
        for row in evidence.scan(run_id):
            line = {**_raw(row), **_derived(row, coefficients, grid, spans), "coefficients": coefficients.hash}
            if writer is None:
                writer = csv.DictWriter(stream, list(line))
                writer.writeheader()
            writer.writerow(line)
    temporary.replace(path)
    return len(spans)


def _raw(row: EvidenceRow) -> dict[str, Any]:
    return {k: ";".join(map(repr, v)) if isinstance(v, list) else v for k, v in row.asdict().items()}


def _derived(
    row: EvidenceRow, coefficients: Coefficients, grid: Grid, spans: Mapping[str, Span]
) -> dict[str, float | str]:
    """Return the total of the execution, and the joules of one solution, shared values included."""
    spent = derive([row], coefficients, grid, spans)
    one = coefficients.cpu_energy_j(row.usage + row.prepare, "narrow", row.energy_source)
    projected = coefficients.qpu_energy_j(replace(row.usage + row.prepare, qpu_s_billed=0.0))
    return {
        **_points("spent_energy", "j", spent.energy_j),
        **_points("spent_energy_wide", "j", spent.energy_wide_j),
        **_points("spent_qpu_modelled", "j", spent.qpu_j),
        "spent_cost_usd": spent.cost_usd,
        **_points("spent_carbon", "gco2e", spent.gco2),
        **_points("solution_energy", "j", one),
        **_points("solution_qpu_projected", "j", projected),
    }


def _points(name: str, unit: str, band: Band) -> dict[str, float]:
    return {f"{name}_p5_{unit}": band.p5, f"{name}_p50_{unit}": band.p50, f"{name}_p95_{unit}": band.p95}


def export_spdx(loaded: Settings, path: Path, coefficients: Coefficients, run_id: str | None = None) -> int:
    """Write an SPDX 3.0.1 document with one AI package for the model of each run; return the number of packages.

    Raises:
        BadInput: no run left a model, or the carbon series does not cover the time of the work.
    """
    names = [run_id] if run_id else sorted(runs.names(loaded.home))
    records = [runs.read(loaded.home, name) for name in names]
    models = [(name, run, ref) for name, run in records if (ref := _model(run))]
    if not models:
        raise BadInput(f"no run in {loaded.home / 'runs'} left a model to describe; try ketcycle run")
    evidence, grid = open_evidence(loaded.home), open_grid(loaded, coefficients)
    packages = []
    for name, run, ref in models:
        rows = evidence.read(run_id=name)
        packages.append(_package(name, run, ref, _energies(rows, coefficients, grid), coefficients))
    write_atomic(path, json.dumps(spdx_document(packages), indent=1))
    return len(packages)


def _model(run: Mapping[str, Any]) -> str | None:
    refs = {n: r for stage in run["stages"].values() for n, r in stage.get("refs", {}).items()}
    return next((refs[name] for name in MODELS if name in refs), None)


def _energies(rows: Sequence[EvidenceRow], coefficients: Coefficients, grid: Grid) -> dict[str, Derived]:
    """Return the energy of the model's production by stage, and that of the shadow arms."""
    groups: dict[str, list[EvidenceRow]] = defaultdict(list)
    for row in rows:
        shadow = bool(row.subtask) and not row.chosen
        groups["shadow arms" if shadow else row.stage or "orchestration"].append(row)
    spans = working_times(rows)
    return {name: derive(part, coefficients, grid, spans) for name, part in groups.items()}


def _package(
    name: str, run: Mapping[str, Any], ref: str, energies: Mapping[str, Derived], coefficients: Coefficients
) -> dict[str, Any]:
    consumption: dict[str, Any] = {"type": "ai_EnergyConsumption"}
    for field, stages in SPDX_FIELDS.items():
        if found := [_quantity(energies[stage]) for stage in stages if stage in energies]:
            consumption[field] = found
    ended_s = run.get("began_s", 0.0) + (run.get("wall_s") or 0.0)
    return {
        "type": "ai_AIPackage",
        "spdxId": f"urn:ketcycle:run:{name}:model",
        "creationInfo": "_:creation",
        "name": f"model of ketcycle run {name}",
        "suppliedBy": "urn:ketcycle:agent",
        "releaseTime": spdx_time(ended_s),
        "software_primaryPurpose": "model",
        "software_packageVersion": ref.partition("@")[2],
        "software_downloadLocation": f"urn:ketcycle:lake:{ref}",
        "ai_typeOfModel": ["causal language model"],
        "ai_hyperparameter": [
            {"type": "DictionaryEntry", "key": key, "value": str(value)}
            for key, value in run["config"].items()
            if key in ("profile", "method", "backend", "seed", "objective")
        ],
        "ai_informationAboutTraining": _method(energies, coefficients),
        "ai_energyConsumption": consumption,
    }


def _quantity(derived: Derived) -> dict[str, str]:
    kwh = (derived.energy_j.p50 + derived.qpu_j.p50) / J_PER_KWH
    return {"type": "ai_EnergyConsumptionDescription", "ai_energyQuantity": f"{kwh:.12f}", "ai_energyUnit": "kilowattHour"}  # fmt: skip  # noqa: E501


def _method(energies: Mapping[str, Derived], coefficients: Coefficients) -> str:
    """Return the method of the quantities, with their bands and exclusions; SPDX has no field for these."""
    listed = {stage for stages in SPDX_FIELDS.values() for stage in stages}
    parts = [f"{name} {_kwh(found)}" for name, found in energies.items() if name in listed]
    rest = [f"{name} {_kwh(found)}" for name, found in energies.items() if name not in listed]
    return (
        f"Energy quantities are medians in kWh with [5 %, 95 %] bands: {'; '.join(parts)}. Boundary: CPU package, DRAM "
        "and GPU, and QPU systems for the seconds they billed; the wide boundary to the building is given after the "
        "band. Each stage counts its own work and the arms that were chosen; inference holds pruning, recovery and the "
        f"served requests. Not in any quantity: {'; '.join(rest)}. Coefficients {coefficients.version} "
        f"({coefficients.hash})."
    )


def _kwh(derived: Derived) -> str:
    points = (derived.energy_j.p50, derived.energy_j.p5, derived.energy_j.p95, derived.energy_wide_j.p50)
    middle, low, high, wide = (f"{j / J_PER_KWH:.3g}" for j in points)
    return f"{middle} [{low}, {high}] {derived.source}, wide {wide}"


def spdx_document(packages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return an SPDX 3.0.1 document of AI packages."""
    ids = [package["spdxId"] for package in packages]
    creation = {
        "type": "CreationInfo",
        "@id": "_:creation",
        "specVersion": "3.0.1",
        "created": spdx_time(datetime.now(UTC).timestamp()),
        "createdBy": ["urn:ketcycle:agent"],
        "createdUsing": ["urn:ketcycle:tool"],
    }
    shared = [
        {"type": "SoftwareAgent", "spdxId": "urn:ketcycle:agent", "creationInfo": "_:creation", "name": "ketcycle"},
        {"type": "Tool", "spdxId": "urn:ketcycle:tool", "creationInfo": "_:creation", "name": f"ketcycle {version('ketcycle')}"},  # noqa: E501
    ]  # fmt: skip
    document = {
        "type": "SpdxDocument",
        "spdxId": "urn:ketcycle:document",
        "creationInfo": "_:creation",
        "profileConformance": ["core", "software", "ai"],
        "rootElement": ids,
        "element": [*(entry["spdxId"] for entry in shared), *ids],
    }
    return {"@context": CONTEXT, "@graph": [creation, *shared, document, *packages]}


def spdx_time(seconds: float) -> str:
    """Return seconds since the epoch in the time format of SPDX."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
