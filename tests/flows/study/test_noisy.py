from __future__ import annotations

from typing import Any

import pytest

from flows.reports.outlook.evidence import grouped
from flows.reports.study.cells import noisy_cells
from flows.study.noisy import EXAMPLE, compare_noise, smallest_instances, without_noisy_row
from infra.energy.model import Coefficients
from infra.energy.usage import Usage
from infra.evidence import EvidenceRow
from tasks.curation.representatives.subtask import REPRESENTATIVES


def row(arm: str, problem: str, size: int, *, circuits: int = 1, **more: Any) -> EvidenceRow:
    usage = Usage(circuits=circuits, shots=256 * circuits, two_qubit_gates=100 * circuits)
    values: dict[str, Any] = {"backend": "aer", "qualities": (0.9,), "oracle": (1.0,), "usage": usage, **more}
    return EvidenceRow(run_id="s", subtask="representatives", problem=problem, arm=arm, size=size, **values)


IDEAL = [
    row("greedy", "small", 3, circuits=0),
    row("qaoa", "small", 3, circuits=0),  # solved by reductions
    row("qaoa", "middle", 8),
    row("qaoa", "large", 20),
    row("recursive-qaoa", "large", 20),
    row("warm-start-qaoa", "middle", 8, status="failed"),
]


def test_an_arm_gets_its_smallest_instance_with_circuits() -> None:
    assert smallest_instances(IDEAL, REPRESENTATIVES) == {"middle": ["qaoa"], "large": ["recursive-qaoa"]}


def test_quality_with_noise_stands_beside_the_noiseless_one_and_the_surviving_fidelity() -> None:
    coefficients = Coefficients.load()
    noisy = [
        row("qaoa", "middle", 8, backend="noisy:fake_torino", qualities=(0.7,)),
        row(
            "recursive-qaoa",
            "large",
            20,
            backend="noisy:fake_torino",
            status="refused",
            reason="too long",
            qualities=(),
        ),
    ]
    first, second = compare_noise(IDEAL, noisy, coefficients)
    assert (first["quality"], first["quality_noiseless"], first["best"]) == (0.7, 0.9, 1.0)
    error = coefficients.value("qpu.two_qubit_error")
    assert first["surviving_fidelity"] == pytest.approx((1 - error) ** 100)
    assert second["quality"] is None
    cells = noisy_cells({"noisy": [first, second]})
    assert cells[0][:5] == ("qaoa", "noisy:fake_torino", "8", "0.7", "0.9")
    assert cells[1][3] == "refused: too long"


def test_an_arm_that_is_refused_on_its_smallest_instance_runs_on_the_example() -> None:
    refused = row("qaoa", "middle", 8, backend="noisy:fake_torino", status="refused", reason="too long")
    assert without_noisy_row([refused]) == ["qaoa"]
    of_example = [
        row("qaoa", "example", 3, data=EXAMPLE, qualities=(0.8,)),
        row("qaoa", "example", 3, data=EXAMPLE, backend="noisy:fake_torino", qualities=(0.6,)),
    ]
    assert without_noisy_row([refused, *of_example]) == []
    (found,) = compare_noise(IDEAL, [refused, *of_example], Coefficients.load())
    assert (found["size"], found["quality"], found["quality_noiseless"]) == (3, 0.6, 0.8)
    used = grouped([*IDEAL, *of_example], "here").decisions["/representatives"]
    assert not any(r.data == EXAMPLE for r in used), "an example is no evidence of how costs grow"
