"""Export of the outlook: CSV, JSON, Markdown, HTML, SPDX 3.0.1, BoAmps, and an RO-Crate around them."""

from __future__ import annotations

import csv
import io
import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flows.reports.documentation.published import crate
from flows.reports.export import SPDX_FIELDS, spdx_document, spdx_time
from flows.reports.outlook.build import Outlook
from flows.reports.outlook.page import outlook_page
from flows.reports.outlook.text import markdown
from infra.energy.model import J_PER_KWH
from infra.lake import write_atomic
from infra.settings import Settings

BOAMPS = "https://github.com/Boavizta/BoAmps/tree/main/model"


def write_outlook(outlook: Outlook, loaded: Settings, folder: Path) -> list[str]:
    """Write all files of the outlook into a folder, each replaced atomically; return their paths."""
    stored = outlook.asdict()
    files = {
        "outlook.html": outlook_page(outlook),
        "outlook.md": markdown(outlook),
        "outlook.json": json.dumps(stored, indent=1),
        "outlook.csv": cells_csv(outlook),
        "outlook-rows.csv": rows_csv(outlook),
        "outlook.spdx.json": json.dumps(spdx(outlook), indent=1),
        "outlook.boamps.json": json.dumps(boamps(outlook, loaded), indent=1),
    }
    for name, text in files.items():
        write_atomic(folder / name, text)
    name = "ketcycle outlook: break-even, cost, benefit and risk of every decision"
    about = (
        f"Computed from {outlook.gathered.place}. outlook.csv: a line for each figure; outlook-rows.csv: its evidence."
    )
    described = crate(folder, name, about)
    write_atomic(folder / "ro-crate-metadata.json", json.dumps(described, indent=1))
    return [str(folder / name) for name in (*files, "ro-crate-metadata.json")]


def cells_csv(outlook: Outlook) -> str:
    """Return one line for each cell: figure, unit, kind, assumptions, and the name of its set of evidence rows."""
    out = io.StringIO()
    header = ("cell", "unit", "kind", "value", "p5", "p50", "p95", "text", "assumptions", "evidence")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    for cell in outlook.cells:
        stored = cell.asdict()
        band = stored["band"] or (None, None, None)
        writer.writerow(
            (cell.key, cell.unit, cell.kind, stored["value"], *band, cell.text, ";".join(cell.depends), cell.rows)
        )
    return out.getvalue()


def rows_csv(outlook: Outlook) -> str:
    """Return one line for each evidence row of each named set that cells refer to."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("evidence", "row_id"))
    used = dict.fromkeys(cell.rows for cell in outlook.cells if cell.rows)
    writer.writerows((name, row) for name in used for row in outlook.gathered.row_sets[name])
    return out.getvalue()


def _road(outlook: Outlook, part: str) -> dict[str, float]:
    """Return the median joules of one decision of each kind by stage: `best classical`, or `quantum` on the device."""
    device = outlook.assumptions.hardware.default
    found: dict[str, float] = {}
    for decision in outlook.decisions:
        for arm in decision["arms"][:1]:
            base = f"{decision['decision']}/{arm['arm']}"
            keys = ["energy/best classical"] if part == "best classical" else ["energy/own", f"{device}/energy/device"]
            joules = [cell.value or 0.0 for key in keys if (cell := outlook.cells.get(f"{base}/{key}"))]
            stage = decision["decision"].partition("/")[0]
            found[stage] = found.get(stage, 0.0) + sum(joules)
    return found


def spdx(outlook: Outlook) -> dict[str, Any]:
    """Return an SPDX 3.0.1 document with the energy of both methods in the fields of the AI profile."""
    packages = []
    for name, part in (("classical", "best classical"), ("quantum, projected", "quantum")):
        joules = _road(outlook, part)
        consumption: dict[str, Any] = {"type": "ai_EnergyConsumption"}
        for field, stages in SPDX_FIELDS.items():
            known = [joules[stage] for stage in stages if stage in joules]
            if known:
                consumption[field] = [_quantity(sum(known))]
        packages.append(_package(outlook, name, joules, consumption))
    return spdx_document(packages)


def _quantity(joules: float) -> dict[str, str]:
    kwh = f"{joules / J_PER_KWH:.12f}"
    return {"type": "ai_EnergyConsumptionDescription", "ai_energyQuantity": kwh, "ai_energyUnit": "kilowattHour"}


def _package(
    outlook: Outlook, name: str, joules: Mapping[str, float], consumption: Mapping[str, Any]
) -> dict[str, Any]:
    rest = {stage: value for stage, value in joules.items() if all(stage not in s for s in SPDX_FIELDS.values())}
    beside = "; ".join(f"{stage} {value / J_PER_KWH:.3g}" for stage, value in rest.items()) or "nothing"
    return {
        "type": "ai_AIPackage",
        "spdxId": f"urn:ketcycle:outlook:{name.partition(',')[0]}",
        "creationInfo": "_:creation",
        "name": f"decisions of a language model's life, {name}",
        "suppliedBy": "urn:ketcycle:agent",
        "releaseTime": spdx_time(datetime.now(UTC).timestamp()),
        "software_primaryPurpose": "model",
        "software_packageVersion": version("ketcycle"),
        "software_downloadLocation": "urn:ketcycle:outlook",
        "ai_typeOfModel": ["causal language model"],
        "ai_informationAboutTraining": (
            "Energy of one decision of each kind at the largest size of the evidence, median of "
            f"{outlook.assumptions.n} draws, narrow boundary, kWh; not in any field: {beside}. Modelled from CPU "
            f"seconds; QPU seconds projected. Assumptions {outlook.assumptions.hash}."
        ),
        "ai_energyConsumption": dict(consumption),
    }


def boamps(outlook: Outlook, loaded: Settings) -> dict[str, Any]:
    """Return a BoAmps report (Boavizta): every decision once by its classical method, each as one measure."""
    measures = [
        {
            "measurementMethod": f"ketcycle CPU-time model, {stage}",
            "version": version("ketcycle"),
            "cpuTrackingMode": "CPU seconds x joules per CPU second",
            "unit": "kWh",
            "powerConsumption": joules / J_PER_KWH,
        }
        for stage, joules in _road(outlook, "best classical").items()
    ]
    return {
        "header": {
            "licensing": "Apache-2.0",
            "formatVersion": "0.1",
            "formatVersionSpecificationUri": BOAMPS,
            "reportDatetime": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}",
            "reportStatus": "final",
            "publisher": {"name": "ketcycle", "projectName": "ketcycle outlook", "confidentialityLevel": "public"},
        },
        "task": {
            "taskStage": "+".join(outlook.stages),
            "taskFamily": "decisions of a language model's life",
            "nbRequest": 1,
            "algorithms": [
                {"algorithmType": "optimisation", "algorithmName": f"{d['decision']}: {d['best_classical']}"}
                for d in outlook.decisions
                if d["best_classical"]
            ]
            or [{"algorithmType": "optimisation"}],
            "dataset": [{"dataUsage": "input", "dataType": "text"}],
            "taskDescription": f"One decision of each kind at the largest size in {outlook.gathered.place}; modelled.",
        },
        "measures": measures or [{"measurementMethod": "none: no evidence", "unit": "kWh", "powerConsumption": 0.0}],
        "system": {"os": platform.system().lower()},
        "software": {"language": "python", "version": platform.python_version()},
        "infrastructure": {"infraType": "other", "components": [{"componentType": "cpu", "nbComponent": 1}]},
        "environment": {
            "country": loaded.country,
            "powerSourceCarbonIntensity": outlook.assumptions.file.carbon.intensity(loaded.country),
        },
        "quality": "low",
    }
