"""Reports from stored evidence; figures against closed forms of the coefficients' centres."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows.reports.run.report import build_report, remake
from flows.reports.run.text import full_tables, markdown
from infra import runs
from infra.energy.usage import Usage
from infra.errors import BadInput
from infra.evidence import Evidence, EvidenceRow
from infra.settings import Settings

W_CORE, DEU = 3.1, 344.1


def report(home: Path, run: str = "r1", **settings: Any) -> dict[str, Any]:
    return build_report(Settings(home=home, **settings), *runs.read(home, run))


def test_the_joules_of_a_stage_are_those_of_its_work_and_of_all_its_arms(home: Path) -> None:
    curation = report(home)["stages"][0]
    assert curation["energy"]["narrow"][1] == pytest.approx(100 * W_CORE, rel=1e-3)
    assert curation["spent"]["narrow"][1] == pytest.approx(105 * W_CORE, rel=1e-3)
    assert curation["spent"]["source"] == "modelled"


def test_the_run_is_the_sum_of_stages_and_orchestration(home: Path) -> None:
    found = report(home)
    parts = [stage["spent"]["narrow"][1] for stage in found["stages"] if stage["spent"]]
    parts.append(found["orchestration"]["energy"]["narrow"][1])
    assert found["spent"]["narrow"][1] == pytest.approx(sum(parts))
    assert found["cpu_s"] == pytest.approx(115)
    assert found["gco2"][1] == pytest.approx(115 * W_CORE * DEU / 3.6e6, rel=1e-3)


def test_a_decision_holds_rule_n_difference_and_interval(home: Path) -> None:
    decision = report(home)["stages"][0]["subtasks"][0]
    assert (decision["n"], decision["difference"], decision["interval"]) == (4, -0.05, [-0.1, 0.01])
    text = markdown(report(home))
    assert (
        "| representatives | greedy | enough | 4 | -0.05 [-0.1, 0.01] | insufficient evidence (n=4, need 20) |" in text
    )


def test_no_energy_stands_without_its_word(home: Path) -> None:
    cells = [
        line for line in markdown(report(home)).splitlines() if line.startswith("| representatives | qaoa (quantum")
    ]
    [cell] = cells
    assert cell.count("modelled") == 4
    assert "modelled, projected time" in cell
    assert "3 projected" in cell


def test_a_quantum_arm_has_no_best_classical_where_none_is_as_good(home: Path) -> None:
    found = {row["arm"]: row for row in report(home)["stages"][0]["subtasks"][0]["rows"]}
    assert found["qaoa"]["energy"]["best_classical"]["arm"] == "greedy"
    assert found["broken"]["quality"] is None
    assert found["qaoa"]["energy"]["qpu"]["projected"] is True


def test_energies_of_different_sources_are_not_compared_silently(home: Path) -> None:
    used = Usage(cpu_s=1, package_j=2.0, counted_cpu_s=1)
    row = EvidenceRow("r1", "curation", "representatives", "p1", "measured-arm", kind="classical", usage=used, total=used, energy_source="attributed")  # noqa: E501  # fmt: skip
    Evidence(home / "evidence").append([row])
    text = markdown(report(home))
    assert "Energies of different sources (attributed, modelled) do not compare." in text


def test_an_attributed_counter_has_a_wider_band_than_a_measured_one(home: Path) -> None:
    used = Usage(cpu_s=1, package_j=2.0, counted_cpu_s=1)
    evidence = Evidence(home / "evidence")
    for name, source in (("m", "measured"), ("a", "attributed")):
        evidence.append([EvidenceRow("r3", "curation", "representatives", "p1", name, usage=used, total=used, energy_source=source)])  # noqa: E501  # fmt: skip
    run = json.loads((home / "runs/r1/run.json").read_text())
    rows = build_report(Settings(home=home), "r3", run)["stages"][0]["subtasks"][0]["rows"]
    bands = {row["arm"]: row["energy"]["spent"]["narrow"] for row in rows}
    assert bands["m"][1] == pytest.approx(2.0, rel=0.01)
    assert bands["a"][2] - bands["a"][0] > 2 * (bands["m"][2] - bands["m"][0])


def test_billed_seconds_are_energy_cost_and_carbon_of_the_run(home: Path) -> None:
    used = Usage(cpu_s=1.0, qpu_s_billed=2.0, circuits=1)
    row = EvidenceRow("r1", "curation", "representatives", "p1", "device", kind="quantum", backend="ibm:x", usage=used, total=used)  # noqa: E501  # fmt: skip
    Evidence(home / "evidence").append([row])
    found = report(home)
    assert found["qpu"]["billed_s"] == 2.0
    assert found["qpu"]["energy"][1] == pytest.approx(2 * 18_000, rel=1e-3)
    assert found["cost_usd"] == pytest.approx(2 * 1.6 + 116 * 0.0408 / 3600)
    assert found["gco2"][1] == pytest.approx((36_000 * 383.5 + 116 * W_CORE * DEU) / 3.6e6, rel=0.02)


def test_dollars_that_a_provider_billed_are_cost_and_no_energy(home: Path) -> None:
    used = Usage(cpu_s=1.0, usd_billed=0.55, circuits=1)
    row = EvidenceRow("r1", "curation", "representatives", "p1", "device", kind="quantum", backend="provider:a:b", usage=used, total=used)  # noqa: E501  # fmt: skip
    Evidence(home / "evidence").append([row])
    found = report(home)
    assert found["cost_usd"] == pytest.approx(0.55 + 116 * 0.0408 / 3600)
    assert found["qpu"] is None
    arms = {arm["arm"]: arm for stage in found["stages"] for decision in stage["subtasks"] for arm in decision["rows"]}
    assert arms["device"]["cost_usd"] == pytest.approx(0.55 + 0.0408 / 3600)


def test_a_series_that_does_not_cover_the_run_is_named_and_the_yearly_mean_used(home: Path, tmp_path: Path) -> None:
    series = tmp_path / "s.csv"
    series.write_text("time,gco2_per_kwh\n2020-01-01T00:00:00Z,100\n2020-01-01T01:00:00Z,100\n")
    found = report(home, carbon_series=series)
    assert found["carbon"]["source"] == "yearly mean of DEU"
    assert "s.csv covers 2020-01-01 00:00 UTC" in found["carbon"]["note"]
    assert found["gco2"] == report(home)["gco2"]


def test_a_series_of_the_time_counts_by_the_hour(home: Path, tmp_path: Path) -> None:
    series = tmp_path / "s.csv"  # the rows end at 13:46:40, the stage's work of 50 s began in the same hour
    series.write_text("time,gco2_per_kwh\n2026-09-21T13:00:00Z,100\n2026-09-21T14:00:00Z,900\n")
    found = report(home, carbon_series=series)
    assert found["carbon"] == {"source": "by the hour from s.csv", "note": ""}
    assert found["gco2"][1] == pytest.approx(report(home)["gco2"][1] * 100 / DEU)


def test_a_report_without_decisions_shows_no_empty_tables(home: Path) -> None:
    found = report(home)
    found["stages"] = [{**stage, "subtasks": []} for stage in found["stages"]]
    assert "No decision was made." in markdown(found)
    assert "Three energies" not in markdown(found)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(full_tables(found))
    assert "Three energies" not in (text := console.export_text())
    assert "run r1" in text


def test_remaking_writes_all_three_files(home: Path) -> None:
    path = remake(Settings(home=home), "r1")
    assert path == home / "runs/r1/report.html"
    assert {p.name for p in path.parent.glob("report.*")} == {"report.json", "report.md", "report.html"}


def test_an_unknown_run_is_named_with_those_there_are(home: Path) -> None:
    with pytest.raises(BadInput, match=r"no run r9.*runs there: r1, r2"):
        runs.read(home, "r9")
