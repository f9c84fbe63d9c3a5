"""Shipped evidence and the pages made from it: published, verified, and a changed cell found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.reports.documentation import published
from flows.reports.documentation.published import SHIPPED, crate, publish, verify
from flows.study.config import StudyConfig, record_path
from infra.energy.usage import Usage
from infra.errors import BadInput
from infra.evidence import Evidence, EvidenceRow
from infra.lake import write_atomic
from infra.settings import Settings
from infra.shared import open_evidence

pytestmark = pytest.mark.slow

PAGE = """# Page

<!-- table: s1 arms -->
<!-- /table -->

One needs <!-- figure: s1 needed {} --><!-- /figure --> units; greedy keeps
<!-- figure: s1 arms.greedy.quality {:.3f} --><!-- /figure -->. It took
<!-- figure: s1 arms.greedy.energy.spent.narrow.1 {:.2g} --><!-- /figure --> J.

<!-- table: s1 notes -->
<!-- /table -->

<!-- table: s1 devices -->
<!-- /table -->
"""


def row(arm: str, kind: str, problem: int, quality: float, **more: Any) -> EvidenceRow:
    used = Usage(cpu_s=0.1, wall_s=0.1, **more)
    return EvidenceRow(
        "s1", "curation", "representatives", f"p{problem}", arm, probe=True, kind=kind, size=5, arm_version="1",
        role={"greedy": "incumbent", "qaoa": "challenger"}.get(arm, ""), backend="aer", quality_backend="aer",
        metric="kept weight / optimum", tolerance=0.01, qualities=(quality,), oracle=(1.0,),
        unit=f"source {problem % 3}",
        usage=used, total=used, host="a machine",
    )  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "docs" / "stages").mkdir(parents=True)
    (tmp_path / "README.md").write_text("# Nothing is generated here\n")
    (tmp_path / "docs" / "stages" / "curation.md").write_text(PAGE)
    return tmp_path


@pytest.fixture
def loaded(tmp_path: Path) -> Settings:
    home = tmp_path / "home"
    rows = [row("greedy", "classical", p, 0.9 + 0.01 * p) for p in range(6)]
    rows += [row("qaoa", "quantum", p, 1.0, circuits=1, shots=256, qpu_s_projected=2.1, sub_jobs=1) for p in range(6)]
    rows += [row("uniform-repair", "control", p, 1.0) for p in range(6)]
    Evidence(home / "evidence").append(rows)
    record = {
        "config": StudyConfig(study_id="s1", subtask="curation/representatives").model_dump(mode="json"),
        "status": "done",
        "wall_s": 1.0,
        "sources": {},
        "instances": [{"problem": f"p{p}", "source": f"source {p % 3}", "name": str(p), "size": 5} for p in range(6)],
    }
    write_atomic(record_path(home, "s1"), json.dumps(record))
    return Settings(home=home)


def test_published_tables_verify_and_a_changed_cell_is_named(root: Path, loaded: Settings) -> None:
    page = root / "docs" / "stages" / "curation.md"
    study = root / "docs" / "studies" / "curation-representatives.md"
    assert publish(loaded, ["s1"], root) == [page, study]
    assert "| greedy | classical | 6 (3) | 0.925 [" in study.read_text()
    text = page.read_text()
    assert "| greedy | classical | 6 (3) | 0.925 [" in text
    assert "greedy keeps\n<!-- figure: s1 arms.greedy.quality {:.3f} -->0.925<!-- /figure -->. It took" in text
    assert "| 3.47e+05 [8.2e+04, 1.5e+06] | " in text  # trapped ion: (7.83 s + 256 x .18 s) x 6.3 kW
    assert verify(loaded, root) == (12, [])
    assert publish(loaded, ["s1"], root) == []  # again changes nothing
    page.write_text(text.replace("-->0.925<", "-->0.935<").replace("| 6 (3) | 0.925 [", "| 9 (3) | 0.925 [", 1))
    _, found = verify(loaded, root)
    assert [(d.cell, d.published, d.recomputed) for d in found] == [
        ("arms, greedy, n (sources)", "9 (3)", "6 (3)"),
        ("arms.greedy.quality", "0.935", "0.925"),
    ]
    assert found[0].page == "docs/stages/curation.md"


def test_a_decision_stands_for_its_newest_study_which_takes_the_place_of_earlier_ones(
    root: Path, loaded: Settings
) -> None:
    page = root / "README.md"
    page.write_text(
        "<!-- table: curation/representatives arms --><!-- /table -->"
        "<!-- table: decisions results --><!-- /table --><!-- table: decisions devices --><!-- /table -->"
        "<!-- table: monitoring/drift arms --><!-- /table -->"
    )
    (root / "docs" / "stages" / "curation.md").unlink()
    publish(loaded, ["s1"], root)
    record = json.loads(record_path(loaded.home, "s1").read_text())
    record["config"]["study_id"] = "s2"
    write_atomic(record_path(loaded.home, "s2"), json.dumps(record))
    Evidence(loaded.home / "evidence").append(replace(r, run_id="s2") for r in open_evidence(loaded.home).read("s1"))
    publish(loaded, ["s2"], root)
    text = page.read_text()
    assert "| greedy | classical | 6 (3) | 0.925 [" in text
    assert "| `curation/representatives`, kept weight / optimum | 6 (3) | greedy 0.925, 0.31 J | qaoa +0.075 [" in text
    assert "| `curation/representatives`, qaoa | 1 | 256 | 2.1 |" in text
    assert "no study ships; `ketcycle study monitoring/drift`" in text
    assert verify(loaded, root) == (10, [])
    assert {r.run_id for r in Evidence(root / SHIPPED / "evidence").read()} == {"s2"}
    assert [path.parent.name for path in (root / SHIPPED).glob("studies/*/record.json")] == ["s2"]


def test_what_ships_names_no_machine_and_is_listed_for_an_archive(root: Path, loaded: Settings) -> None:
    publish(loaded, ["s1"], root)
    rows = Evidence(root / SHIPPED / "evidence").read()
    assert len(rows) == 18
    assert {r.host for r in rows} == {""}
    graph = crate(root / SHIPPED)["@graph"]
    parts = {entry["@id"] for entry in graph[1]["hasPart"]}
    assert "studies/s1/record.json" in parts
    assert any(name.startswith("evidence/part-") for name in parts)
    assert json.loads((root / SHIPPED / "ro-crate-metadata.json").read_text())["@graph"][1]["license"]


def test_what_cannot_be_published_is_named(root: Path, loaded: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="gone is neither a study nor a run"):
        publish(loaded, ["gone"], root)
    with pytest.raises(BadInput, match=r"no study s1 in .*studies there: none"):
        verify(loaded, root)
    publish(loaded, ["s1"], root)
    (root / "README.md").write_text("<!-- table: s1 nonsense --><!-- /table -->")
    with pytest.raises(BadInput, match="no table 'nonsense'"):
        verify(loaded, root)
    (root / "README.md").write_text("<!-- figure: s1 arms.greedy.beauty --><!-- /figure -->")
    with pytest.raises(BadInput, match=r"no value arms\.greedy\.beauty"):
        verify(loaded, root)
    monkeypatch.setattr(published, "LARGEST_MB", 1e-6)
    with pytest.raises(BadInput, match="publish fewer"):
        publish(loaded, ["s1"], root)


def test_every_generated_part_of_this_repository_follows_from_what_ships() -> None:
    assert verify(Settings())[1] == []


def test_no_execution_that_ships_failed() -> None:
    rows = Evidence(published.ROOT / SHIPPED / "evidence").read()
    assert rows
    assert not {(row.subtask, row.arm, row.reason) for row in rows if row.status == "failed"}


def test_a_case_without_evidence_says_how_to_run_it(root: Path, loaded: Settings) -> None:
    publish(loaded, ["s1"], root)
    page = root / "docs" / "cases.md"
    page.write_text("<!-- table: cases all --><!-- /table -->")
    assert publish(loaded, [], root) == [page]
    assert "`ketcycle pilot clinical`" in page.read_text()
    page.write_text("<!-- table: cases some --><!-- /table -->")
    with pytest.raises(BadInput, match="there is the table all"):
        verify(loaded, root)
