"""The table of a study, computed from its stored evidence: intervals, verdicts, energies, headroom, predictions."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml
from numpy.typing import NDArray

from flows.report import decision_report
from infra.energy.model import Coefficients
from infra.energy.usage import Usage
from infra.errors import BadInput
from infra.evidence import Evidence, EvidenceRow
from infra.settings import Settings
from infra.shared import open_evidence
from tasks import policy
from tasks.contract import Kind, Subtask
from tasks.settle import trials
from tasks.stage import STAGES
from tasks.statistics import lower_mean

Row = Mapping[str, Any]
Array = NDArray[np.float64]
T = TypeVar("T", int, str)
PREDICTIONS = Path(policy.__file__).parent / "predictions.yaml"
WEAKEST = ("measured", "attributed", "modelled")


def build_study(loaded: Settings, subtask: Subtask[Any, Any], record: Row) -> dict[str, Any]:
    """Return the study's table from the stored evidence.

    Args:
        loaded: the settings.
        subtask: the decision.
        record: what the flow noted: config, status, sources and instances.
    """
    config = record["config"]
    about = {item["problem"]: item for item in record["instances"]}
    evidence = open_evidence(loaded.home)
    rows = [row for row in evidence.read(run_id=config["study_id"]) if row.problem in about]
    merged = merge(rows)
    if not merged:
        raise BadInput(f"study {config['study_id']} has no finished instance yet")
    verdicts = judge_study(subtask, rows, config["objective"])
    incumbent = subtask.incumbent.name
    reports = {
        found["arm"]: found for found in decision_report(loaded, list(merged.values()), {"arm": incumbent})["rows"]
    }
    values = qualities(rows)
    best = _best_values(rows, values)
    buckets = _count(policy.size_bucket(item["size"]) for item in about.values())
    return {
        "study": config["study_id"],
        "subtask": subtask.key,
        "metric": subtask.metric,
        "tolerance": subtask.tolerance,
        "incumbent": incumbent,
        "challenger": subtask.challenger.name,
        "backend": rows[0].backend,
        "record": dict(record),
        "instances": len(about),
        "sources": _count(item["source"] for item in about.values()),
        "buckets": {policy.sizes_of(bucket): n for bucket, n in buckets.items()},
        "repeats": config["repeats"],
        "statistics": STATISTICS,
        "arms": [
            reports[name] | _compared(name, subtask, values, verdicts, best, about) | {"total": _total(rows, name)}
            for name in merged
        ],
        "oracle": _oracle(values.get(incumbent, {}), best, proven=any(row.oracle for row in rows)),
        "against": [against(values, subtask.challenger.name, other) for other in _shown_beside(subtask, values)],
        "routing": routing(evidence, subtask, rows[0], about.values(), config["objective"]),
        "headroom": headroom(loaded.home, subtask, values, best, reports),
        "predictions": score(subtask.key, values, incumbent, verdicts),
        "break_even": str(Coefficients.load().break_even()),
    }


STATISTICS = (
    "n is the number of instances; repeats are nested in them and averaged. Quality: mean with 95 % bootstrap "
    "interval over instances. Difference: paired on the same instance, mean with 95 % Student interval. Verdict: "
    "tasks/policy.py at n = 20, 40, 80 with alpha .025, .0125, .0125, Holm over the arms that may be chosen; it looks "
    "at the first execution of each instance. P hit: share of the instances within the tolerance of the optimum (or of "
    "the best value seen); joules to solution = joules x ln .01 / ln(1 - P hit)."
)


def qualities(rows: Iterable[EvidenceRow]) -> dict[str, dict[str, float]]:
    """Return the quality of each arm on each instance, the mean over its repeats."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.status == "done" and row.qualities:
            found[row.arm][row.problem].append(float(np.mean(row.qualities)))
    return {arm: {problem: float(np.mean(v)) for problem, v in by.items()} for arm, by in found.items()}


def merge(rows: Sequence[EvidenceRow]) -> dict[str, EvidenceRow]:
    """Return one row for each arm: the mean usage of a solve, one quality and one optimum for each instance."""
    by_arm: dict[str, list[EvidenceRow]] = defaultdict(list)
    for row in rows:
        by_arm[row.arm].append(row)
    values = qualities(rows)
    optimum = {row.problem: float(np.mean(row.oracle)) for row in rows if row.oracle}
    merged = {}
    for arm, of_arm in by_arm.items():
        done = [row for row in of_arm if row.status == "done"]
        share = 1 / len(done) if done else 0.0
        problems = sorted(values.get(arm, {}))
        merged[arm] = replace(
            of_arm[0],
            problem="all",
            status="done" if done else of_arm[0].status,
            reason=of_arm[0].reason if not done else "",
            qualities=tuple(values[arm][p] for p in problems) if problems else (),
            oracle=tuple(optimum[p] for p in problems) if all(p in optimum for p in problems) else (),
            usage=sum((row.usage for row in done), Usage()).scaled(share),
            prepare=sum((row.prepare for row in done), Usage()).scaled(share),
            total=sum((row.total for row in of_arm), Usage()),
            loops=sum(row.loops for row in done),
            energy_source=max((row.energy_source for row in of_arm), key=WEAKEST.index),
        )
    return merged


def judge_study(subtask: Subtask[Any, Any], rows: Sequence[EvidenceRow], objective: Any) -> dict[str, policy.Verdict]:
    """Return the verdict on every arm that may be chosen, over all instances of the study whatever their size."""
    first = rows[0]
    setting = policy.Setting(f"{first.backend} {first.calibration}", 0, first.data, objective)
    everything = [replace(trial, bucket=0) for trial in trials(rows, objective)]
    eligible = [a.name for a in subtask.arms[1:] if a.kind is not Kind.CONTROL or a.does_nothing]
    paired = {name: policy.pair(subtask, setting, everything, name) for name in eligible}
    return policy.judge({k: p for k, p in paired.items() if p.n}, policy.certified(setting.uses))


def _best_values(rows: Sequence[EvidenceRow], values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the proven optimum of each instance, or the best value that any arm reached."""
    proven = {row.problem: float(np.mean(row.oracle)) for row in rows if row.oracle}
    problems = {problem for by in values.values() for problem in by}
    return {p: proven.get(p, max(by[p] for by in values.values() if p in by)) for p in problems}


def student(values: Array) -> list[float] | None:
    """Return the two-sided 95 % Student interval of a mean, None for fewer than two values."""
    if len(values) < 2:
        return None
    low = lower_mean(values, 0.025)
    return [low, 2 * float(values.mean()) - low]


def _compared(
    name: str,
    subtask: Subtask[Any, Any],
    values: Mapping[str, Mapping[str, float]],
    verdicts: Mapping[str, policy.Verdict],
    best: Mapping[str, float],
    about: Mapping[str, Row],
) -> dict[str, Any]:
    mine, its = values.get(name, {}), values.get(subtask.incumbent.name, {})
    both = sorted(mine.keys() & its.keys())
    difference = np.array([mine[p] - its[p] for p in both])
    hits = [mine[p] >= best[p] - subtask.tolerance for p in mine]
    verdict = verdicts.get(name)
    return {
        "paired": len(both),
        "of_sources": len({about[p]["source"] for p in mine}),
        "difference": float(difference.mean()) if len(both) else None,
        "difference_interval": student(difference),
        "wins": int((difference > subtask.tolerance).sum()),
        "losses": int((difference < -subtask.tolerance).sum()),
        "p_hit": float(np.mean(hits)) if hits else None,
        "verdict": _verdict(name, subtask, verdict),
        "certified": verdict.holds if verdict else None,
    }


def _verdict(name: str, subtask: Subtask[Any, Any], verdict: policy.Verdict | None) -> str:
    if name == subtask.incumbent.name:
        return "incumbent"
    if verdict is None:
        return "control, never chosen" if subtask.arm(name).kind is Kind.CONTROL else "no evidence"
    return f"{'certified' if verdict.holds else 'not certified'}: {verdict.reason}"


def _oracle(its: Mapping[str, float], best: Mapping[str, float], *, proven: bool) -> dict[str, Any]:
    """Return the row of the best possible solution of each instance, at no energy."""
    gaps = np.array([best[p] - q for p, q in its.items()])
    return {
        "proven": proven,
        "n": len(gaps),
        "quality": float(np.mean([best[p] for p in its])) if len(gaps) else None,
        "difference": float(gaps.mean()) if len(gaps) else None,
        "difference_interval": student(gaps),
    }


def _shown_beside(subtask: Subtask[Any, Any], values: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return what the challenger is always compared with: its twins and the control that came out best."""
    ran = [arm for arm in subtask.arms if values.get(arm.name)]
    controls = [arm.name for arm in ran if arm.kind is Kind.CONTROL]
    best = sorted(controls, key=lambda name: -float(np.mean(list(values[name].values()))))[:1]
    return [*best, *(arm.name for arm in ran if arm.kind in (Kind.TWIN, Kind.DEQUANTISED))]


def against(values: Mapping[str, Mapping[str, float]], arm: str, other: str) -> dict[str, Any]:
    """Return the paired difference of two arms."""
    mine, its = values.get(arm, {}), values.get(other, {})
    difference = np.array([mine[p] - its[p] for p in sorted(mine.keys() & its.keys())])
    mean = float(difference.mean()) if len(difference) else None
    return {"arm": arm, "other": other, "n": len(difference), "difference": mean, "interval": student(difference)}


def _total(rows: Iterable[EvidenceRow], arm: str) -> dict[str, float]:
    total = sum((row.usage + row.prepare for row in rows if row.arm == arm and row.status == "done"), Usage())
    return {"circuits": total.circuits, "shots": total.shots, "qpu_s_projected": total.qpu_s_projected}


def routing(
    evidence: Evidence, subtask: Subtask[Any, Any], like: EvidenceRow, instances: Iterable[Row], objective: Any
) -> list[dict[str, Any]]:
    """Return what `--method auto` would now decide in each size bucket, from all evidence of the home."""
    rows = evidence.read(stage=subtask.stage, subtask=subtask.name, backend=like.backend)
    found, answers = trials(rows, objective), []
    for bucket in sorted({policy.size_bucket(item["size"]) for item in instances}):
        setting = policy.Setting(f"{like.backend} {like.calibration}", bucket, like.data, objective)
        decision = policy.choose(subtask, setting, found, np.random.default_rng(0)).decision
        answers.append(
            {"sizes": policy.sizes_of(bucket), "arm": decision.arm, "n": decision.n, "reason": decision.reason}
        )
    return answers


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
    challenger = reports.get(subtask.challenger.name)
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


def score(
    key: str,
    values: Mapping[str, Mapping[str, float]],
    incumbent: str,
    verdicts: Mapping[str, policy.Verdict],
    path: Path = PREDICTIONS,
) -> dict[str, Any] | None:
    """Score what was predicted before the study: Brier score of the verdicts, error of the differences."""
    predicted = (yaml.safe_load(path.read_text()) or {}).get(key)
    if not predicted or incumbent not in values:
        return None
    rows = []
    for arm, entry in predicted["arms"].items():
        both = sorted(values.get(arm, {}).keys() & values[incumbent].keys())
        if not both:
            continue
        seen = float(np.mean([values[arm][p] - values[incumbent][p] for p in both]))
        outcome = float(verdicts[arm].holds) if arm in verdicts else None
        rows.append({"arm": arm, "probability": entry.get("certified"), "outcome": outcome,
                     "predicted": entry["difference"], "difference": seen})  # fmt: skip
    judged = [(r["probability"], r["outcome"]) for r in rows if None not in (r["probability"], r["outcome"])]
    return {
        "verdict": predicted["verdict"],
        "brier": float(np.mean([(p - o) ** 2 for p, o in judged])) if judged else None,
        "brier_of_a_half": 0.25,
        "arms": rows,
    }


def _count(items: Iterable[T]) -> dict[T, int]:
    return dict(sorted(Counter(items).items()))
