"""The noisy rows of a study: each quantum arm on its smallest instances with circuits, with the noise of a device.

They have run ids of their own, so that no other row of the study's table uses them. An arm whose circuits take too long
to simulate with noise even there runs on the example of its decision, with and without noise: real data of fewer texts,
dimensions or qubits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from infra.energy.model import Coefficients
from infra.energy.usage import Usage
from infra.evidence import EvidenceRow
from tasks.contract import Kind, Subtask

LIMIT_S = 300.0  # maximum expected CPU seconds of the noisy simulation of a call
EXAMPLE = "example"  # data fingerprint and source of rows of an example, which routing ignores


def noisy_name(study_id: str) -> str:
    """Return the run id of the noisy rows of a study."""
    return f"{study_id}-noisy"


def example_name(study_id: str) -> str:
    """Return the run id of the noiseless rows of examples."""
    return f"{study_id}-example"


def kept_names(study_id: str) -> tuple[str, str]:
    """Return the run ids of the noisy rows and of the examples of a study."""
    return noisy_name(study_id), example_name(study_id)


def smallest_instances(rows: Sequence[EvidenceRow], subtask: Subtask[Any, Any], sizes: int = 1) -> dict[str, list[str]]:
    """Return the problems to run and the quantum arms to run on each.

    Args:
        rows: rows without noise.
        subtask: the decision.
        sizes: number of sizes, the smallest first; of each, the problem with the fewest two-qubit gates is taken.
    """
    found: dict[str, list[str]] = {}
    for arm in subtask.arms:
        ran = [row for row in rows if row.arm == arm.name and row.status == "done" and _used(row).circuits]
        if arm.kind is Kind.QUANTUM and ran:
            for size in sorted({row.size for row in ran})[:sizes]:
                alike = [row for row in ran if row.size == size]
                least = min(alike, key=lambda row: (_used(row).two_qubit_gates, row.problem))
                found.setdefault(least.problem, []).append(arm.name)
    return found


def without_noisy_row(noisy: Iterable[EvidenceRow]) -> list[str]:
    """Return the arms that were refused on every instance with noise."""
    rows = list(noisy)
    ran = {row.arm for row in rows if row.status == "done"}
    return sorted({row.arm for row in rows if row.status == "refused"} - ran)


def compare_noise(
    ideal: Sequence[EvidenceRow], kept: Iterable[EvidenceRow], coefficients: Coefficients
) -> list[dict[str, Any]]:
    """Return for each noisy row both qualities, with and without noise, its gates, and its surviving fidelity.

    Args:
        ideal: rows without noise.
        kept: the noisy rows, and those of examples without noise.
        coefficients: the error of a gate.
    """
    rows = list(kept)
    noisy = [row for row in rows if row.backend.startswith("noisy:")]
    ran = {row.arm for row in noisy if row.status == "done"}
    everything = [*ideal, *(row for row in rows if row.data == EXAMPLE and row not in noisy)]
    known = {(row.problem, row.arm): row for row in reversed(everything) if row.status == "done"}
    found = []
    for row in noisy:
        if row.status == "refused" and row.arm in ran:
            continue
        like = known.get((row.problem, row.arm))
        used = _used(like) if like else _used(row)
        found.append(
            {
                "arm": row.arm,
                "backend": row.backend,
                "size": row.size,
                "quality": row.qualities[0] if row.qualities else None,
                "quality_noiseless": like.qualities[0] if like and like.qualities else None,
                "best": row.oracle[0] if row.oracle else None,
                "circuits": used.circuits,
                "shots": used.shots,
                "two_qubit_gates": used.two_qubit_gates / used.circuits if used.circuits else None,
                "surviving_fidelity": coefficients.surviving_fidelity(used),
                "status": row.status,
                "reason": row.reason,
            }
        )
    return found


def _used(row: EvidenceRow) -> Usage:
    return row.usage + row.prepare
