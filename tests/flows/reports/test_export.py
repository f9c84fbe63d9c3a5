"""Exports of stored evidence: CSV, and SPDX 3.0.1 checked against the property lists of its specification."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.reports.export import export_csv, export_spdx
from infra.energy.model import Coefficients
from infra.energy.usage import Usage
from infra.errors import BadInput
from infra.evidence import Evidence
from infra.settings import Settings

C = Coefficients.load()
KWH = 3.6e6

# "All properties" of the classes at https://spdx.github.io/spdx-spec/v3.0.1/model/, names as in its JSON-LD context.
ELEMENT = {"spdxId", "type", "creationInfo", "name", "summary", "description", "comment", "verifiedUsing", "externalRef", "externalIdentifier", "extension"}  # noqa: E501  # fmt: skip
ARTIFACT = {"originatedBy", "suppliedBy", "builtTime", "releaseTime", "validUntilTime", "standardName", "supportLevel"}
PACKAGE = {
    f"software_{name}"
    for name in ("additionalPurpose", "attributionText", "contentIdentifier", "copyrightText", "primaryPurpose",
                 "downloadLocation", "homePage", "packageUrl", "packageVersion", "sourceInfo")
}  # fmt: skip
AI = {
    f"ai_{name}"
    for name in ("autonomyType", "domain", "energyConsumption", "hyperparameter", "informationAboutApplication",
                 "informationAboutTraining", "limitation", "metric", "metricDecisionThreshold",
                 "modelDataPreprocessing", "modelExplainability", "safetyRiskAssessment", "standardCompliance",
                 "typeOfModel", "useSensitivePersonalInformation")
}  # fmt: skip
ENERGY = {"ai_finetuningEnergyConsumption", "ai_inferenceEnergyConsumption", "ai_trainingEnergyConsumption"}
REQUIRED = {
    "creationInfo", "suppliedBy", "releaseTime", "software_primaryPurpose", "software_packageVersion",
    "software_downloadLocation",
}  # minCount 1 by AIPackage's external properties  # fmt: skip
PROPERTIES = {
    "ai_AIPackage": ELEMENT | ARTIFACT | PACKAGE | AI,
    "ai_EnergyConsumption": {"type"} | ENERGY,
    "ai_EnergyConsumptionDescription": {"type", "ai_energyQuantity", "ai_energyUnit"},
    "DictionaryEntry": {"type", "key", "value"},
    "CreationInfo": {"type", "@id", "specVersion", "created", "createdBy", "createdUsing", "comment"},
    "SpdxDocument": ELEMENT | {"element", "rootElement", "profileConformance", "dataLicense", "import", "namespaceMap"},
    "SoftwareAgent": ELEMENT,
    "Tool": ELEMENT,
}


def objects(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        return [value, *(o for inner in value.values() for o in objects(inner))]
    return [o for inner in value for o in objects(inner)] if isinstance(value, list) else []


@pytest.fixture(scope="module")
def document(stored_home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("spdx") / "models.spdx.json"
    assert export_spdx(Settings(home=stored_home), path, C) == 2
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def packages(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [entry for entry in document["@graph"] if entry["type"] == "ai_AIPackage"]


def test_every_object_has_the_properties_of_its_class_and_no_others(document: dict[str, Any]) -> None:
    assert document.keys() == {"@context", "@graph"}
    assert document["@context"] == "https://spdx.org/rdf/3.0.1/spdx-context.jsonld"
    for entry in objects(document["@graph"]):
        assert entry.keys() <= PROPERTIES[entry["type"]], entry["type"]
    for package in packages(document):
        assert package.keys() >= REQUIRED


def test_what_is_referred_to_is_there(document: dict[str, Any]) -> None:
    entries = {entry.get("spdxId", entry.get("@id")): entry for entry in document["@graph"]}
    [root] = [entry for entry in document["@graph"] if entry["type"] == "SpdxDocument"]
    assert root["rootElement"] == [package["spdxId"] for package in packages(document)]
    assert set(root["element"]) <= entries.keys()
    creation = entries["_:creation"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", creation["created"])
    assert {entries[name]["type"] for name in creation["createdBy"]} == {"SoftwareAgent"}
    assert all(
        package["suppliedBy"] in entries and package["creationInfo"] in entries for package in packages(document)
    )


def test_quantities_are_decimal_kilowatt_hours_of_the_stage(home: Path, tmp_path: Path) -> None:
    evidence = Evidence(home / "evidence")
    from infra.evidence import EvidenceRow, stage_row

    half_an_hour = Usage(cpu_s=1800.0)
    beside = EvidenceRow("r1", "training", "batches", "p", "other", usage=half_an_hour, total=half_an_hour)
    evidence.append([stage_row("r1", "training", Usage(cpu_s=3600.0), problem="train"), beside])
    path = tmp_path / "one.spdx.json"
    assert export_spdx(Settings(home=home), path, C, "r1") == 1
    [package] = packages(json.loads(path.read_text()))
    [quantity] = package["ai_energyConsumption"]["ai_trainingEnergyConsumption"]
    assert quantity["ai_energyUnit"] == "kilowattHour"
    assert re.fullmatch(r"-?[0-9]+(\.[0-9]*)?", quantity["ai_energyQuantity"])  # xsd:decimal: no exponent
    assert float(quantity["ai_energyQuantity"]) == pytest.approx(3600 * 3.1 / KWH, rel=1e-3)
    assert "ai_finetuningEnergyConsumption" not in package["ai_energyConsumption"]
    text = package["ai_informationAboutTraining"]
    assert "shadow arms" in text
    assert "modelled" in text
    assert C.hash in text


def test_the_version_is_that_of_the_model_in_the_lake(document: dict[str, Any]) -> None:
    assert [package["software_packageVersion"] for package in packages(document)] == ["0" * 16, "0" * 15 + "1"]


def test_csv_has_a_line_for_each_row_with_units_in_the_names(stored_home: Path, tmp_path: Path) -> None:
    path = tmp_path / "evidence.csv"
    assert export_csv(Settings(home=stored_home), path, C, "r1") == 6
    with path.open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [line["arm"] for line in lines] == ["stage", "greedy", "qaoa", "nothing", "broken", "orchestration"]
    greedy, qaoa = lines[1], lines[2]
    assert float(greedy["spent_energy_p50_j"]) == pytest.approx(3.1, rel=1e-3)
    assert float(greedy["spent_carbon_p50_gco2e"]) == pytest.approx(3.1 * 344.1 / KWH, rel=1e-3)
    assert float(greedy["spent_cost_usd"]) == pytest.approx(0.0408 / 3600)
    assert greedy["qualities"] == "0.9;0.8;0.7;0.6"
    assert float(qaoa["total_qpu_s_projected"]) == 3.0
    assert float(qaoa["spent_qpu_modelled_p50_j"]) == 0.0  # nothing was billed
    projected = C.qpu_energy_j(Usage(qpu_s_projected=3.0, jobs=1))
    assert float(qaoa["solution_qpu_projected_p50_j"]) == pytest.approx(projected.p50)
    assert greedy["coefficients"] == C.hash
    assert list(tmp_path.iterdir()) == [path]


def test_an_export_of_nothing_is_refused(stored_home: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no evidence of run r9"):
        export_csv(Settings(home=stored_home), tmp_path / "e.csv", C, "r9")
    with pytest.raises(BadInput, match="no run r9"):
        export_spdx(Settings(home=stored_home), tmp_path / "e.json", C, "r9")
    with pytest.raises(BadInput, match="left a model"):
        export_spdx(Settings(home=tmp_path), tmp_path / "e.json", C)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["xml", "e.xml"], "csv or spdx, not 'xml'"), (["csv", "/no/such/folder/e.csv"], "no folder /no/such/folder")],
)
def test_what_cannot_be_exported_is_the_user_s_mistake(stored_home: Path, arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["evidence", "--export", *arguments, "--home", str(stored_home)])
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())
