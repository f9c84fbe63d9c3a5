"""The values of a study, from its stored evidence: intervals, verdicts, energies, headroom, predictions."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from flows.reports.conversion import Conversion
from flows.reports.figures import Arm, arms_of, decision_report
from flows.study.noisy import compare_noise, kept_names
from infra import runs
from infra.energy.model import Coefficients
from infra.energy.usage import Usage
from infra.errors import BadInput
from infra.evidence import EvidenceRow
from infra.settings import Objective, Settings
from infra.shared import open_evidence
from tasks import policy
from tasks.contract import STAGES, Kind, Subtask
from tasks.evaluation.figures import ArmFigures, Solved
from tasks.evaluation.headroom import Headroom, Share, best_values, headroom, two_qubit_error
from tasks.evaluation.paired import paired
from tasks.evaluation.predictions import ALWAYS_HALF, Predicted, brier, score
from tasks.evaluation.rules import Pairs, Verdict, certified
from tasks.records import Costs, trials
from tasks.statistics import mean_interval

Row = Mapping[str, Any]
T = TypeVar("T", int, str)

STATISTICS = (
    "Short arms are looped in five interleaved blocks on every instance, to 1 s an instance or 20 s over more than 20. "
    "n is the number of instances; repetitions are nested in them and averaged. Intervals are two-sided 95 % Student "
    "intervals, clustered by the unit of independence. Difference: paired on the same instance. Verdict: "
    "tasks/evaluation/rules.py at once, twice and four times the smallest n that can certify, with alpha .025, .0125, "
    ".0125, Holm over the arms that may be chosen; it looks at the first execution of each instance. P hit: the "
    "probability that one execution comes within the tolerance of the optimum (or of the best value seen), by the "
    "method's own randomness, averaged over instances; joules to solution = mean over the solved instances of "
    "joules x ln .01 / ln(1 - P hit)."
)


def build_study(loaded: Settings, subtask: Subtask[Any, Any], record: Row) -> dict[str, Any]:
    """Return the values of a study from the stored evidence.

    Args:
        loaded: the settings.
        subtask: the decision.
        record: the stored record: config, status, sources and instances.

    Raises:
        BadInput: no instance is finished.
    """
    config = record["config"]
    about = {item["problem"]: item for item in record["instances"]}
    everything = open_evidence(loaded.home).read(stage=subtask.stage, subtask=subtask.name)
    rows = [row for row in everything if row.run_id == config["study_id"] and row.problem in about]
    if not rows:
        raise BadInput(f"study {config['study_id']} has no finished instance yet")
    conversion = Conversion.of_rows(loaded, Coefficients.load(), rows)
    incumbent = subtask.incumbent.name
    arms = arms_of(rows, conversion.coefficients)
    report = decision_report(arms, {"arm": incumbent}, conversion)
    figures = {name: arm.figures for name, arm in arms.items()}
    known: Costs = {}
    pairs = study_pairs(subtask, rows, config["objective"], known)
    verdicts = policy.judge(pairs, certified(policy.Setting("", 0, "").uses))
    best = best_values(figures)
    kept = [row for name in kept_names(config["study_id"]) for row in everything if row.run_id == name]
    challenger = subtask.challenger.name if subtask.challenger else None
    return {
        **_described(subtask, record, [*about.values()], rows),
        "statistics": STATISTICS,
        "needed": policy.needed(pairs),
        "best_classical": report["best_classical"],
        "saturated_by": report["saturated_by"],
        "arms": [
            row
            | _compared(figures[row["arm"]], subtask, figures, verdicts, about)
            | {"total": _total(arms[row["arm"]])}
            for row in report["rows"]
        ],
        "oracle": _oracle(figures.get(incumbent), best, proven=any(row.oracle for row in rows)),
        "against": [_against(figures, challenger, other) for other in _shown_beside(subtask, figures)]
        if challenger in figures
        else [],
        "routing": routing(everything, subtask, rows[0], about.values(), config["objective"], known),
        "headroom": _headroom(loaded.home, subtask, figures, best, report["rows"]),
        "noisy": compare_noise(rows, kept, conversion.coefficients),
        "unfinished": _unfinished(rows),
        "predictions": _predicted(subtask, figures, verdicts),
        "measures": _measured(rows),
        "break_even": str(conversion.coefficients.break_even()),
    }


def _described(
    subtask: Subtask[Any, Any], record: Row, instances: Sequence[Row], rows: Sequence[EvidenceRow]
) -> dict[str, Any]:
    """Return the subject of the study: decision, backend, and instances by source and size."""
    config, challenger = record["config"], subtask.challenger
    buckets = _count(policy.size_bucket(item["size"]) for item in instances)
    return {
        "study": config["study_id"],
        "subtask": subtask.key,
        "metric": subtask.metric,
        "tolerance": subtask.tolerance,
        "incumbent": subtask.incumbent.name,
        "challenger": challenger.name if challenger else None,
        "twin": challenger.twin if challenger else "",
        "backend": rows[0].backend,
        "record": dict(record),
        "instances": len(instances),
        "units": len({row.unit or row.problem for row in rows}),
        "sources": _count(item["source"] for item in instances),
        "buckets": {policy.sizes_of(bucket): n for bucket, n in buckets.items()},
        "repeats": config["repeats"],
        "counts": subtask.counts,
        "mean_size": float(np.mean([item["size"] for item in instances])),
    }


def _measured(rows: Sequence[EvidenceRow]) -> dict[str, dict[str, float]]:
    """Return the mean over instances of each further value, by its name and the arm."""
    values: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        for name, found in json.loads(row.measures).items():
            values.setdefault(name, {}).setdefault(row.arm, []).extend(found)
    return {name: {arm: float(np.mean(of)) for arm, of in arms.items()} for name, arms in values.items()}


def _unfinished(rows: Sequence[EvidenceRow]) -> list[dict[str, Any]]:
    """Return the arms that ended without a solution and on how many instances, by state and reason.

    Reasons that differ only in their numbers are one, and the first of them is given.
    """
    found: dict[tuple[str, str], list[EvidenceRow]] = {}
    for row in rows:
        if row.status != "done":
            found.setdefault((row.status, re.sub(r"[\d,.]+", "0", row.reason)), []).append(row)
    return [
        {
            "status": status,
            "reason": " ".join(of[0].reason.split()),
            "arms": sorted({row.arm for row in of}),
            "instances": len({row.problem for row in of}),
        }
        for (status, _), of in sorted(found.items())
    ]


def study_pairs(
    subtask: Subtask[Any, Any], rows: Sequence[EvidenceRow], objective: Objective, known: Costs | None = None
) -> dict[str, Pairs]:
    """Return the paired evidence of every arm that may be chosen, over all instances whatever their size."""
    first = rows[0]
    setting = policy.Setting(f"{first.backend} {first.calibration}", 0, first.data, objective)
    everything = [replace(trial, bucket=0) for trial in trials(rows, objective, known)]
    found = {name: policy.pair(subtask, setting, everything, name) for name in policy.may_replace(subtask)}
    return {name: pairs for name, pairs in found.items() if pairs.n}


def _compared(
    arm: ArmFigures,
    subtask: Subtask[Any, Any],
    figures: Mapping[str, ArmFigures],
    verdicts: Mapping[str, Verdict],
    about: Mapping[str, Row],
) -> dict[str, Any]:
    incumbent = figures.get(subtask.incumbent.name)
    found = paired(arm, incumbent, subtask.tolerance) if incumbent else None
    verdict = verdicts.get(arm.arm)
    return {
        "paired": found.n if found else 0,
        "of_sources": len({about[_problem(s)]["source"] for s in arm.solved}),
        "difference": found.mean if found else None,
        "difference_interval": list(found.interval) if found and found.interval else None,
        "wins": found.wins if found else 0,
        "losses": found.losses if found else 0,
        "verdict": _verdict(arm.arm, subtask, verdict),
        "certified": verdict.holds if verdict else None,
    }


def _problem(solved: Solved) -> str:
    return solved.instance.rpartition("/")[0]


def _verdict(name: str, subtask: Subtask[Any, Any], verdict: Verdict | None) -> str:
    if name == subtask.incumbent.name:
        return "incumbent"
    if verdict is None:
        return "control, never chosen" if subtask.arm(name).kind is Kind.CONTROL else "no evidence"
    return f"{'certified' if verdict.holds else 'not certified'}: {verdict.reason}"


def _oracle(incumbent: ArmFigures | None, best: Mapping[str, float], *, proven: bool) -> dict[str, Any]:
    """Return the row of the best possible solution of each instance, at no energy."""
    solved = incumbent.solved if incumbent else ()
    gaps = np.array([best[s.instance] - s.quality for s in solved])
    interval = mean_interval(gaps, [s.unit for s in solved])
    return {
        "proven": proven,
        "n": len(gaps),
        "quality": float(np.mean([best[s.instance] for s in solved])) if solved else None,
        "difference": float(gaps.mean()) if solved else None,
        "difference_interval": list(interval) if interval else None,
    }


def _against(figures: Mapping[str, ArmFigures], arm: str, other: str) -> dict[str, Any]:
    found = paired(figures[arm], figures[other])
    return {
        "arm": arm,
        "other": other,
        "n": found.n,
        "difference": found.mean,
        "interval": list(found.interval) if found.interval else None,
    }


def _shown_beside(subtask: Subtask[Any, Any], figures: Mapping[str, ArmFigures]) -> list[str]:
    """Return the arms that the challenger is always compared with: its twins and the best control."""
    ran = [arm for arm in subtask.arms if arm.name in figures and figures[arm.name].solved]
    controls = [arm.name for arm in ran if arm.kind is Kind.CONTROL]
    best = sorted(controls, key=lambda name: -(figures[name].quality or 0.0))[:1]
    return [*best, *(arm.name for arm in ran if arm.kind in (Kind.TWIN, Kind.DEQUANTISED))]


def _total(arm: Arm) -> dict[str, float]:
    total = sum((row.usage + row.prepare for row in arm.rows if row.status == "done"), Usage())
    return {"circuits": total.circuits, "shots": total.shots, "qpu_s_projected": total.qpu_s_projected}


def routing(
    everything: Sequence[EvidenceRow],
    subtask: Subtask[Any, Any],
    like: EvidenceRow,
    instances: Iterable[Row],
    objective: Objective,
    known: Costs | None = None,
) -> list[dict[str, Any]]:
    """Return the arm that `--method auto` would choose now in each size bucket, from all evidence of the decision.

    `elsewhere` is its choice in an installation that did not pay for these executions, as after they were published.
    """
    found, answers = trials([row for row in everything if row.backend == like.backend], objective, known), []
    free = [replace(trial, spent=0.0) for trial in found]
    for bucket in sorted({policy.size_bucket(item["size"]) for item in instances}):
        setting = policy.Setting(f"{like.backend} {like.calibration}", bucket, like.data, objective)
        here, elsewhere = (
            policy.choose(subtask, setting, seen, np.random.default_rng(0)).decision for seen in (found, free)
        )
        sizes = policy.sizes_of(bucket)
        answers.append(
            {"sizes": sizes, "arm": here.arm, "n": here.n, "reason": here.reason, "elsewhere": elsewhere.arm}
        )
    return answers


def _headroom(
    home: Path,
    subtask: Subtask[Any, Any],
    figures: Mapping[str, ArmFigures],
    best: Mapping[str, float],
    rows: Sequence[Row],
) -> dict[str, Any]:
    found = headroom(figures.get(subtask.incumbent.name), best, energy_share(home, subtask.key))
    challenger = next((row for row in rows if row["role"] == "challenger"), None)
    return {**_plain(found), "inverse_break_even": inverse_break_even(challenger) if challenger else None}


def _plain(found: Headroom) -> dict[str, Any]:
    share = found.share
    return {
        **asdict(found),
        "share": asdict(share) | {"share": share.share} if share else None,
        "bound": found.bound,
    }


def energy_share(home: Path, key: str) -> Share | None:
    """Return the share of a decision in the energy of the newest complete run; None where no run is complete."""
    for report in runs.reports(home):
        if report["status"] != "done" or {s["stage"] for s in report["stages"]} != set(STAGES):
            continue
        joules: dict[str, float] = {}
        rest = report["orchestration"]["energy"]["narrow"][1] if report["orchestration"] else 0.0
        for stage in report["stages"]:
            rest += stage["energy"]["narrow"][1] if stage["energy"] else 0.0
            for found in stage["subtasks"]:
                taken = [r for r in found["rows"] if r["arm"] == found["chosen"]]
                joules[f"{stage['stage']}/{found['name']}"] = sum(r["energy"]["spent"]["narrow"][1] for r in taken)
        if key in joules:
            return Share(report["run_id"], report["profile"], joules[key], rest + sum(joules.values()))
    return None


def inverse_break_even(challenger: Row) -> dict[str, Any] | None:
    """Return the device figures at which the challenger costs as much as the best classical arm of the same quality.

    `system_power_w`, `shots_per_s` and `two_qubit_error` are None where the arm's own CPU alone takes more than the
    best classical arm; then `own_j_to_save` says by how much, and `power_without_own_w` what power would be left.
    """
    energy = challenger["energy"]
    best, even = energy["best_classical"], energy["break_even"]
    if not best or not even or not challenger["circuits"]:
        return None
    narrow, reference_w = even["narrow"], Coefficients.load().value("break_even.system_power")
    left_j = narrow["best"] - narrow["own"]
    gates = challenger["two_qubit_gates"] / challenger["circuits"]
    exists = narrow["at"] is not None
    return {
        "against": best["arm"],
        "system_power_w": narrow["at"][1] if exists else None,
        "shots_per_s": challenger["shots"] * reference_w / left_j if exists else None,
        "shots_per_s_projected": challenger["shots"] / challenger["qpu_s_projected"]
        if challenger["qpu_s_projected"]
        else None,
        "own_j": narrow["own"],
        "best_j": narrow["best"],
        "own_j_to_save": narrow["to_save"],
        "power_without_own_w": narrow["without_own"][1],
        "price_usd_per_s": even["price"]["at"][1] if even["price"]["at"] else None,
        "time_factor": even["time"]["at"][1] if even["time"]["at"] else None,
        "two_qubit_gates": gates,
        "two_qubit_error": two_qubit_error(gates),
    }


def read_predictions(stored: Mapping[str, Any]) -> tuple[str, dict[str, Predicted]] | None:
    """Return the predicted verdict and the predictions by arm, from `Terms.predictions`; None where there are none."""
    if not stored:
        return None
    arms = {arm: Predicted(arm, entry["difference"], entry.get("certified")) for arm, entry in stored["arms"].items()}
    return stored["verdict"], arms


def _predicted(
    subtask: Subtask[Any, Any], figures: Mapping[str, ArmFigures], verdicts: Mapping[str, Verdict]
) -> dict[str, Any] | None:
    predicted = read_predictions(subtask.predictions)
    if predicted is None or subtask.incumbent.name not in figures:
        return None
    verdict, arms = predicted
    scored = score(arms, figures, subtask.incumbent.name, {name: v.holds for name, v in verdicts.items()})
    return {
        "verdict": verdict,
        "brier": brier(scored),
        "brier_of_a_half": ALWAYS_HALF,
        "arms": [
            {
                "arm": s.predicted.arm,
                "probability": s.predicted.certified,
                "outcome": s.outcome,
                "predicted": s.predicted.difference,
                "difference": s.difference,
            }
            for s in scored
        ],
    }


def _count(items: Iterable[T]) -> dict[T, int]:
    return dict(sorted(Counter(items).items()))
