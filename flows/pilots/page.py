"""The page of a pilot, from the stored evidence of its study: published numbers, our numbers, and verdicts."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from flows.reports.conversion import points
from flows.reports.figures import arms_of
from flows.study.noisy import noisy_name
from flows.study.table import build_study
from infra.energy.model import Coefficients
from infra.energy.usage import Usage
from infra.evidence import EvidenceRow
from infra.settings import Settings
from infra.shared import open_evidence
from tasks.contract import Kind, Subtask
from tasks.evaluation.claims import UNIFORM, Compared, Verdict, better, meets, reproduced, score
from tasks.evaluation.classical import best_classical
from tasks.evaluation.figures import ArmFigures
from tasks.evaluation.paired import paired
from tasks.pilots.claim import Number, Published, Seen, plain_sections, published
from tasks.registry import find_subtask
from tasks.statistics import mean_interval

SMOKE = "only the full profile is judged"
Row = Mapping[str, Any]


def build_page(loaded: Settings, record: Row, study: Row | None = None) -> dict[str, Any]:
    """Return the page of a pilot as plain values.

    Args:
        loaded: the settings.
        record: the stored record of its study.
        study: the values of its study, where they are known.

    Raises:
        BadInput: no instance is finished.
    """
    config = record["config"]
    subtask = find_subtask(config["subtask"])
    claim, study = published(subtask.name), study or build_study(loaded, subtask, record)
    about = {item["problem"]: item for item in record["instances"]}
    evidence, study_id = open_evidence(loaded.home), config["study_id"]
    rows = [row for row in evidence.read(run_id=study_id) if row.problem in about]
    noisy = [row for row in evidence.read(run_id=noisy_name(study_id)) if row.problem in about]
    seen = averaged(rows, about) + [replace(entry, noisy=True) for entry in averaged(noisy, about)]
    coefficients = Coefficients.load()
    arms = arms_of(rows, coefficients)
    figures = {name: arm.figures for name, arm in arms.items()}
    numbers = [compare(number, seen) for number in claim.numbers]
    judgeable = claim.unjudgeable if config["profile"] == "full" else SMOKE
    verdicts = {"reproduced": reproduced(numbers, judgeable), "better": _better(subtask, figures, config["profile"])}
    return {
        "pilot": subtask.name,
        "profile": config["profile"],
        "study": study,
        **claim.model_dump(exclude={"numbers", "predicted"}),
        "numbers": [asdict(number) for number in numbers],
        "classical": {
            "same features": _best(figures, subtask.tolerance, [n for n in figures if n not in claim.all_features]),
            "all features": _best(figures, subtask.tolerance, list(figures)),
        },
        "controls": [_said(figures[arm.name]) for arm in subtask.arms if _is_control(arm.kind) and arm.name in figures],
        "qpu_usd": {
            name: points(coefficients.projected_cost_usd(arm.used)) for name, arm in arms.items() if arm.used.circuits
        },
        "verdicts": {name: asdict(verdict) for name, verdict in verdicts.items()},
        "predicted": _scored(claim, verdicts) if config["profile"] == "full" else [],
        "sections": plain_sections(subtask.name, seen),
    }


def averaged(rows: Sequence[EvidenceRow], about: Mapping[str, Row]) -> list[Seen]:
    """Return one entry for each executed arm and instance, averaged over repetitions."""
    found: dict[tuple[str, str], list[EvidenceRow]] = defaultdict(list)
    for row in rows:
        if row.status == "done" and row.qualities:
            found[row.problem, row.arm].append(row)
    return [_seen(same, about[problem]) for (problem, _), same in found.items()]


def _seen(same: Sequence[EvidenceRow], about: Row) -> Seen:
    first = same[0]
    measured = [json.loads(row.measures) for row in same]
    used = sum((row.usage + row.prepare for row in same), Usage()).scaled(1 / len(same))
    return Seen(
        source=about["source"],
        name=about["name"],
        unit=first.unit,
        size=first.size,
        arm=first.arm,
        kind=first.kind,
        quality=float(np.mean([row.qualities[0] for row in same])),
        measures={name: float(np.mean([values[name][0] for values in measured])) for name in measured[0]},
        circuits=used.circuits,
        shots=used.shots,
        two_qubit_gates=used.two_qubit_gates,
        qpu_s=used.qpu_s_projected,
    )


def compare(number: Number, seen: Sequence[Seen]) -> Compared:
    """Return a published number with ours: the mean over the instances that it names."""
    chosen = [
        s for s in seen if s.noisy == number.noisy and number.source in ("", s.source) and number.contains in s.name
    ]

    def values(arm: str) -> dict[tuple[str, str], float]:
        return {
            (s.source, s.name): s.measures[number.measure] if number.measure else s.quality
            for s in chosen
            if s.arm == arm and (not number.measure or number.measure in s.measures)
        }

    ours, units = values(number.arm), {(s.source, s.name): s.unit for s in chosen}
    if number.against:
        theirs = values(number.against)
        both = [key for key in ours if key in theirs]
        scale = float(np.mean([theirs[key] for key in both])) if number.relative and both else 1.0
        ours = {key: (ours[key] - theirs[key]) / scale for key in both}
    array, its_units = np.array(list(ours.values())), [units[key] for key in ours]
    mean = float(array.mean()) if len(array) else None
    bar = f"within {number.within:g}" if number.within else f"at least {number.least:g}" if number.least else "-"
    met = meets(mean, number.published, number.within, number.least)
    interval = mean_interval(array, its_units) if len(array) else None
    arm = f"{number.arm} - {number.against}" if number.against else number.arm
    return Compared(number.name, arm, number.published, mean, interval, len(array), len(set(its_units)), bar, met,
                    number.judged)  # fmt: skip


def _better(subtask: Subtask[Any, Any], figures: Mapping[str, ArmFigures], profile: str) -> Verdict:
    best = best_classical(list(figures.values()), subtask.tolerance)
    if profile != "full":
        return Verdict("undecided", SMOKE)
    if best is None or subtask.challenger is None or subtask.challenger.name not in figures:
        return Verdict("undecided", "the quantum arm or the classical arms were not run")
    return better(paired(figures[subtask.challenger.name], best.reference, subtask.tolerance), subtask.tolerance)


def _best(figures: Mapping[str, ArmFigures], tolerance: float, names: Sequence[str]) -> dict[str, Any] | None:
    found = best_classical([figures[name] for name in names], tolerance)
    return _said(found.reference) if found else None


def _said(arm: ArmFigures) -> dict[str, Any]:
    interval = mean_interval(np.array([s.quality for s in arm.solved]), [s.unit for s in arm.solved])
    return {
        "arm": arm.arm,
        "quality": arm.quality,
        "interval": interval,
        "n": len(arm.solved),
        "energy_j": arm.energy_j,
    }


def _is_control(kind: Kind) -> bool:
    return kind is Kind.CONTROL


def _scored(claim: Published, verdicts: Mapping[str, Verdict]) -> list[dict[str, Any]]:
    """Return each prediction with the outcome and its score."""
    return [
        {
            "verdict": name,
            "predicted": dict(claim.predicted[name]),
            "answer": verdict.answer,
            "score": score(claim.predicted[name], verdict.answer),
            "uniform": UNIFORM,
        }
        for name, verdict in verdicts.items()
    ]
