from dataclasses import replace

import pytest

from infra.energy.model import Coefficients
from infra.energy.usage import Usage
from infra.evidence import EvidenceRow
from tasks.inference.card import chosen_only, describe_energy, lifecycle, model_card


def row(stage: str, arm: str, cpu_s: float, **other: object) -> EvidenceRow:
    return replace(EvidenceRow("r", stage=stage, arm=arm, total=Usage(cpu_s=cpu_s)), **other)  # type: ignore[arg-type]


ROWS = [
    row("training", "stage", 100.0),
    row("inference", "greedy", 10.0, subtask="pruning", kind="classical", chosen=True),
    row("inference", "qaoa", 30.0, subtask="pruning", kind="quantum"),
    row("", "orchestration", 20.0),
]


def test_the_ledger_adds_up_and_keeps_circuits_and_orchestration_apart() -> None:
    entries = lifecycle(ROWS, coefficients := Coefficients.load())
    assert [(e.stage, e.part, e.cpu_s) for e in entries] == [
        ("training", "classical", 100.0),
        ("inference", "classical", 10.0),
        ("inference", "quantum", 30.0),
        ("", "overhead", 20.0),
    ]
    whole = coefficients.cpu_energy_j(Usage(cpu_s=160.0), source="modelled")
    assert sum(e.joules[1] for e in entries) == pytest.approx(whole.p50, rel=0.02)
    assert all(e.joules[0] < e.joules[1] < e.joules[2] for e in entries)


def test_making_the_model_leaves_out_arms_that_ran_beside() -> None:
    assert [r.arm for r in chosen_only(ROWS)] == ["stage", "greedy", "orchestration"]
    found = describe_energy(ROWS, Coefficients.load())
    assert found["made_j"][1] == pytest.approx(130 * 3.1, rel=0.3)
    assert "(modelled; CPU and memory)" in found["sentence"]


def test_the_card_names_lineage_quality_energy_and_licences() -> None:
    facts = {"bits_per_byte": {"before": {"base": 2.0, "second": 3.0}, "pruned": {"base": 2.1, "second": 3.1}}}
    sources = [{"domain": "base", "source": "docs", "documents": 3, "bytes": 99}]
    energy = describe_energy(ROWS, Coefficients.load())
    about = {"run": "r", "inputs": {"finetuning/model": "finetuning/model@1"}, "sources": sources, "energy": energy}
    card = model_card("ketcycle", facts, about, {"base": "PSF-2.0"})
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "license: psf-2.0" in card
    for part in ("`finetuning/model`: `finetuning/model@1`", "| base | docs | 3 | 99 |", "Licences: base: PSF-2.0.",
                 "| pruned | 2.1000 | 3.1000 |", "| training | own work and classical arms |"):  # fmt: skip
        assert part in card
    unstated = model_card("ketcycle", facts, about, {})
    assert "Licences: base: not stated; state them with `inference.licences`." in unstated
    assert "license: other" in unstated
