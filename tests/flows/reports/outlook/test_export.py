"""What is written of the outlook: one page without anything from elsewhere, and the formats of others."""

from __future__ import annotations

import csv
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))

from scaled import evidence

from flows.cli import app
from flows.reports.documentation.published import write_pages
from flows.reports.outlook.build import Outlook, build_outlook
from flows.reports.outlook.evidence import grouped
from flows.reports.outlook.export import write_outlook
from flows.reports.outlook.tables import MAKERS
from infra.errors import BadInput
from infra.evidence import Evidence
from infra.settings import Settings
from tasks.outlook.assumptions import load_assumptions

LOADED = Settings(home=Path("nowhere"))
ROWS = [
    replace(row, usage=replace(row.usage, usd_billed=0.5 * row.usage.circuits))
    for row in evidence(decision=("inference", "pruning"))
]


@pytest.fixture(scope="module")
def found() -> Outlook:
    return build_outlook(LOADED, load_assumptions(n=200), ("inference",), evidence=grouped(ROWS, "a test"))


@pytest.fixture(scope="module")
def folder(found: Outlook, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("outlook")
    paths = write_outlook(found, LOADED, target)
    assert sorted(paths) == sorted(str(path) for path in target.iterdir())
    return target


def test_the_page_needs_nothing_from_elsewhere(folder: Path):
    page = (folder / "outlook.html").read_text()
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page)
    assert "<script" not in page
    assert page.count("<svg") >= 2
    for table in MAKERS:
        assert f'id="{table}"' in page, table


def test_every_figure_leads_to_its_evidence_rows(folder: Path):
    page = (folder / "outlook.html").read_text()
    targets = set(re.findall(r'class="cell" href="#([^"]+)"', page))
    assert targets
    assert targets <= set(re.findall(r' id="([^"]+)"', page))
    for row in ROWS:
        assert row.row_id in page
    with (folder / "outlook.csv").open() as stream:
        cells = list(csv.DictReader(stream))
    with (folder / "outlook-rows.csv").open() as stream:
        sets = {line["evidence"] for line in csv.DictReader(stream)}
    assert {cell["evidence"] for cell in cells} - {""} == sets
    assert all(cell["evidence"] for cell in cells if cell["cell"].startswith("inference/"))


def test_json_and_csv_hold_the_same_cells(found: Outlook, folder: Path):
    stored = json.loads((folder / "outlook.json").read_text())
    with (folder / "outlook.csv").open() as stream:
        lines = {line["cell"]: line for line in csv.DictReader(stream)}
    assert [cell["key"] for cell in stored["cells"]] == list(lines) == [cell.key for cell in found.cells]
    for cell in stored["cells"]:
        written = lines[cell["key"]]["value"]
        assert (float(written) if written else None) == cell["value"]
    assert stored["assumptions"]["site.day_rate"]["source"]
    assert stored["draws"] == 200


def test_spdx_has_the_energy_of_both_roads_in_kilowatt_hours(found: Outlook, folder: Path):
    graph = json.loads((folder / "outlook.spdx.json").read_text())["@graph"]
    packages = {item["spdxId"]: item for item in graph if item["type"] == "ai_AIPackage"}
    cells: Any = found.cells  # of joules none is empty here
    base = "inference/pruning/qaoa"
    quantum = cells[f"{base}/energy/own"].value + cells[f"{base}/superconducting/energy/device"].value
    for name, joules in (("classical", cells[f"{base}/energy/best classical"].value), ("quantum", quantum)):
        (entry,) = packages[f"urn:ketcycle:outlook:{name}"]["ai_energyConsumption"]["ai_inferenceEnergyConsumption"]
        assert float(entry["ai_energyQuantity"]) == pytest.approx(joules / 3.6e6, rel=1e-3)
        assert entry["ai_energyUnit"] == "kilowattHour"


def test_boamps_has_what_its_schema_requires(folder: Path):
    # required properties of report_schema.json, algorithm, dataset and hardware schemas of Boavizta/BoAmps
    report = json.loads((folder / "outlook.boamps.json").read_text())
    assert report.keys() >= {"task", "measures", "infrastructure"}
    assert report["task"].keys() >= {"taskStage", "taskFamily", "algorithms", "dataset"}
    assert all(item.keys() >= {"dataUsage", "dataType"} for item in report["task"]["dataset"])
    assert report["infrastructure"]["infraType"] in ("publicCloud", "privateCloud", "onPremise", "other")
    assert all(item.keys() >= {"componentType", "nbComponent"} for item in report["infrastructure"]["components"])
    assert report["header"]["publisher"]["confidentialityLevel"] == "public"
    assert all(measure["powerConsumption"] > 0 for measure in report["measures"])


def test_the_crate_describes_every_file(folder: Path):
    graph = json.loads((folder / "ro-crate-metadata.json").read_text())["@graph"]
    files = {item["@id"] for item in graph if item["@type"] == "File"}
    assert files == {path.name for path in folder.iterdir()} - {"ro-crate-metadata.json"}


def test_the_command_reads_the_home_and_a_readers_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KETCYCLE_HOME", str(tmp_path))  # the command sets it for its children
    Evidence(tmp_path / "evidence").append(ROWS)
    site = tmp_path / "site.yaml"
    site.write_text("site: {years: {value: 5, unit: years, distribution: {kind: fixed}, source: us, year: 2026}}")
    arguments = ["outlook", "--home", str(tmp_path), "--stage", "inference", "--site", str(site), "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    stored = json.loads(done.stdout)
    assert stored["evidence"] == str(tmp_path)
    assert stored["assumptions"]["site.years"]["value"] == 5
    assert (tmp_path / "outlook" / "outlook.html").exists()
    wrong = CliRunner().invoke(app, [*arguments[:-1], "--hardware", str(tmp_path / "none.yaml")])
    assert wrong.exit_code == 2
    assert "none.yaml" in wrong.output


def test_pages_are_written_from_the_evidence_that_ships(tmp_path: Path):
    (tmp_path / "docs" / "evidence").mkdir(parents=True)
    Evidence(tmp_path / "docs" / "evidence" / "evidence").append(ROWS)
    page = tmp_path / "README.md"
    page.write_text(
        "<!-- figure: outlook cost {} --><!-- /figure -->\n\n"
        "<!-- table: outlook roadmap: stage; verdict -->\n<!-- /table -->\n"
    )
    assert write_pages(LOADED, tmp_path) == [page]
    assert "-->One QPU-second at $1.60 must replace 39 vCPU-hours" in page.read_text()
    assert "| curation | undecidable today |" in page.read_text()
    assert write_pages(LOADED, tmp_path) == []
    page.write_text("<!-- table: outlook roadmap: colour -->\n<!-- /table -->\n")
    with pytest.raises(BadInput, match="no column 'colour'; it has stage"):
        write_pages(LOADED, tmp_path)
    page.write_text("<!-- table: outlook weather -->\n<!-- /table -->\n")
    with pytest.raises(BadInput, match="no table 'weather' of the outlook"):
        write_pages(LOADED, tmp_path)
