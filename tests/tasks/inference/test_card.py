from dataclasses import replace

import pytest

from infra.energy.model import Coefficients
from infra.energy.usage import Usage
from infra.evidence import EvidenceRow
from tasks.inference.card import chosen_only, decisions, describe_energy, lifecycle, model_card, reading_joules
from tasks.inference.stage import sections
from tasks.sections import Waterfall


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


def test_each_decision_is_told_from_the_arms_that_ran_beside_it() -> None:
    (pruning,) = decisions(
        [*ROWS, row("inference", "random", 4.0, subtask="pruning", kind="control")], Coefficients.load()
    )
    assert (pruning["decision"], pruning["chosen"]) == ("pruning", "greedy")
    assert pruning["quantum_j"] == pytest.approx(3 * pruning["chosen_j"], rel=0.01)
    assert pruning["classical_j"] == pytest.approx(0.4 * pruning["chosen_j"], rel=0.01)


def test_the_waterfall_adds_up_to_what_was_spent_and_to_what_serving_takes() -> None:
    coefficients, facts = Coefficients.load(), {"prefill_tokens_per_cpu_s": {"before": 1000.0, "after": 2000.0}}
    energy = describe_energy(ROWS, coefficients)
    energy["reading"] = reading_joules(facts, 50_000, coefficients)
    ledger, cost = sections({**facts, "lifecycle": energy})
    chart = ledger.chart
    assert isinstance(chart, Waterfall)
    heights = dict(chart.totals)
    assert heights == {"spent in this run": 4, "with 50,000 tokens read": 6}
    spent = sum(step.amount for step in chart.steps[:4])
    assert spent == pytest.approx(sum(joules[1] for _, _, joules, _ in energy["entries"]))
    watts = coefficients.cpu_energy_j(Usage(cpu_s=1.0), source="modelled").p50
    assert sum(step.amount for step in chart.steps) - spent == pytest.approx(25 * watts)
    assert chart.steps[-1].amount < 0
    assert cost.rows[0][:3] == ("inference", "pruning", "greedy")
    assert cost.rows[0][-1] == pytest.approx(25 * watts)
    assert reading_joules({}, 50_000, coefficients) == {}


def test_the_card_names_lineage_quality_energy_and_licences() -> None:
    facts = {"bits_per_byte": {"before": {"base": 2.0, "second": 3.0}, "pruned": {"base": 2.1, "second": 3.1}}}
    sources = [{"domain": "base", "source": "docs", "documents": 3, "bytes": 99}]
    energy = describe_energy(ROWS, Coefficients.load())
    inputs = {"finetuning/model": "finetuning/model@1"}
    about = {"run": "r", "inputs": inputs, "base": "", "sources": sources, "energy": energy}
    card = model_card("ketcycle", facts, about, {"base": "PSF-2.0"})
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "license: psf-2.0" in card
    for part in ("`finetuning/model`: `finetuning/model@1`", "| base | docs | 3 | 99 |", "Licences: base: PSF-2.0.",
                 "| pruned | 2.1000 | 3.1000 |", "| training | own work and classical arms |"):  # fmt: skip
        assert part in card
    unstated = model_card("ketcycle", facts, about, {})
    assert "Licences: base: not stated; state them with `inference.licences`." in unstated
    assert "license: other" in unstated
    assert "base model" not in card


def test_the_card_of_a_given_model_names_it_and_the_files_it_was_tuned_on() -> None:
    sources = [{"domain": "data", "source": "chats.jsonl", "documents": 3, "bytes": 99, "sha256": "00"}]
    facts = {"bits_per_byte": {"before": {"base": 2.0, "data": 3.0}}}
    energy = describe_energy(ROWS, Coefficients.load(), "smollm")
    about = {"run": "r", "inputs": {}, "base": "smollm", "sources": sources, "energy": energy}
    card = model_card("ketcycle", facts, about, {"model": "Apache-2.0"})
    for part in ("The base model `smollm` was given; what it had learned from is not known.",
                 "| data | chats.jsonl | 3 | 99 |", "data: the answers of held-out rows.",
                 "Licences: model: Apache-2.0; data: not stated; state them with `inference.licences`.",
                 "The training of smollm is not counted."):  # fmt: skip
        assert part in card
