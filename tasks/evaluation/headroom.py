"""What any solver on any hardware could save at a decision."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from infra.energy.model import Coefficients
from tasks.contract import STAGES, Subtask
from tasks.evaluation.paired import Row


def headroom(
    home: Path,
    subtask: Subtask[Any, Any],
    values: Mapping[str, Mapping[str, float]],
    best: Mapping[str, float],
    reports: Mapping[str, Row],
) -> dict[str, Any]:
    """Return what any solver on any hardware could gain here (PROTOCOL section 2).

    The *effect* is the incumbent's mean distance to the oracle, relative to the oracle; the *share* is what the
    decision took of the energy of the newest complete run of this home. A solver of no energy saves at most the
    share; a perfect solution changes what comes after by at most effect x share of the energy.
    """
    its = values.get(subtask.incumbent.name, {})
    optimum = np.array([best[p] for p in its])
    gap = float((optimum - np.array(list(its.values()))).mean()) if len(its) else None
    effect = gap / abs(float(optimum.mean())) if gap is not None and optimum.mean() else None
    share = energy_share(home, subtask)
    challenger = reports.get(subtask.challenger.name) if subtask.challenger else None
    return {
        "oracle": float(optimum.mean()) if len(its) else None,
        "gap": gap,
        "effect": effect,
        "share": share,
        "bound": effect * share["share"] if effect is not None and share else None,
        "inverse_break_even": inverse_break_even(challenger) if challenger else None,
    }


def energy_share(home: Path, subtask: Subtask[Any, Any]) -> dict[str, Any] | None:
    """Return the share of a decision in the energy of the newest complete run; None where no run is complete."""
    for path in sorted((home / "runs").glob("*/report.json"), key=lambda p: p.stat().st_mtime, reverse=True):
        report = json.loads(path.read_text())
        if report["status"] != "done" or {s["stage"] for s in report["stages"]} != set(STAGES):
            continue
        joules: dict[str, float] = {}
        rest = report["orchestration"]["energy"]["narrow"][1] if report["orchestration"] else 0.0
        for stage in report["stages"]:
            rest += stage["energy"]["narrow"][1] if stage["energy"] else 0.0
            for found in stage["subtasks"]:
                taken = [r for r in found["rows"] if r["arm"] == found["chosen"]]
                joules[f"{stage['stage']}/{found['name']}"] = sum(r["energy"]["spent"]["narrow"][1] for r in taken)
        if subtask.key in joules:
            mine, whole = joules[subtask.key], rest + sum(joules.values())
            return {"run": report["run_id"], "profile": report["profile"], "share": mine / whole, "joules": mine}
    return None


def inverse_break_even(challenger: Row) -> dict[str, Any] | None:
    """Return where the challenger's circuits would cost as little as the best classical arm of the same quality."""
    best, power = challenger["energy"]["best_classical"], challenger["energy"]["break_even_power_w"]
    if not best or not power or not challenger["circuits"]:
        return None
    allowed_s = best["narrow"][1] / Coefficients.load().value("break_even.system_power")
    gates = challenger["two_qubit_gates"] / challenger["circuits"]
    return {
        "against": best["arm"],
        "system_power_w": power[1],
        "shots_per_s": challenger["shots"] / allowed_s,
        "shots_per_s_projected": challenger["shots"] / challenger["qpu_s_projected"],
        "two_qubit_gates": gates,
        "two_qubit_error": -math.expm1(math.log(0.5) / gates) if gates else None,
    }
