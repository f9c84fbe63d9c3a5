"""Evidence of a decision at six sizes whose laws are known, as rows of a study."""

from __future__ import annotations

from typing import Any

from infra.energy.usage import Usage
from infra.evidence import EvidenceRow

SIZES = (4, 8, 12, 16, 24, 32)
DECISION = ("curation", "representatives")


def row(arm: str, kind: str, size: int, instance: int, used: Usage, **more: Any) -> EvidenceRow:
    stage, subtask = more.pop("decision", DECISION)
    values: dict[str, Any] = {
        "probe": True, "arm_version": "1", "backend": "aer", "quality_backend": "aer", "metric": "share of the optimum",
        "tolerance": 0.01, "qualities": (1.0,), "oracle": (1.0,), "unit": f"source {instance}",
        "created_at": "2026-11-29T12:00:00+00:00",
        "role": {"greedy": "incumbent", "qaoa": "challenger"}.get(arm, ""),
    }  # fmt: skip
    return EvidenceRow(
        "s1", stage, subtask, f"{size}-{instance}", arm, kind=kind, size=size, usage=used, total=used,
        **(values | more),
    )  # fmt: skip


def evidence(classical_s: float = 1e-3, own_s: float = 2e-3, power: float = 2.0, **more: Any) -> list[EvidenceRow]:
    """Return rows of greedy (classical_s n^power), qaoa (own_s n beside its circuits), its twin and a control."""
    found = []
    for size in SIZES:
        for instance in range(4):
            spent = classical_s * size**power
            found.append(row("greedy", "classical", size, instance, Usage(cpu_s=spent, wall_s=spent), **more))
            own, simulated = own_s * size, 1e-6 * 2.0 ** (size / 2)
            used = Usage(
                cpu_s=own + simulated, wall_s=own + simulated, simulation_cpu_s=simulated,
                qpu_s_projected=2.0 + 256 * 3.5e-4, jobs=1.0, sub_jobs=1.0, circuits=1, shots=256,
                two_qubit_gates=2 * size, qubit_shots=256 * size,
            )  # fmt: skip
            found.append(row("qaoa", "quantum", size, instance, used, twin="qaoa-exact", **more))
            found.append(row("qaoa-exact", "twin", size, instance, Usage(cpu_s=own + 10 * simulated), **more))
            found.append(row("random", "control", size, instance, Usage(cpu_s=1e-6), **({"qualities": (0.5,)} | more)))
    return found
