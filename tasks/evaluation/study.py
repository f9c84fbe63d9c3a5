"""The table of a study, computed from its stored evidence: intervals, verdicts, energies, headroom, predictions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from infra.energy.model import Coefficients
from infra.energy.usage import Usage
from infra.errors import BadInput
from infra.evidence import Evidence, EvidenceRow
from infra.settings import Settings
from infra.shared import open_evidence
from tasks import policy
from tasks.contract import Kind, Subtask
from tasks.evaluation.arms import decision_report
from tasks.evaluation.headroom import headroom
from tasks.evaluation.paired import Row, T, _best_values, against, merge, qualities, student
from tasks.evaluation.predictions import score
from tasks.records import trials
from tasks.terms import terms


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
    challenger = subtask.challenger.name if subtask.challenger else None
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
        "challenger": challenger,
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
        "against": [against(values, challenger, other) for other in _shown_beside(subtask, values) if challenger],
        "routing": routing(evidence, subtask, rows[0], about.values(), config["objective"]),
        "headroom": headroom(loaded.home, subtask, values, best, reports),
        "predictions": score(terms(subtask.key).predictions, values, incumbent, verdicts),
        "break_even": str(Coefficients.load().break_even()),
    }


STATISTICS = (
    "n is the number of instances; repeats are nested in them and averaged. Quality: mean with 95 % bootstrap "
    "interval over instances. Difference: paired on the same instance, mean with 95 % Student interval. Verdict: "
    "tasks/policy.py at n = 20, 40, 80 with alpha .025, .0125, .0125, Holm over the arms that may be chosen; it looks "
    "at the first execution of each instance. P hit: share of the instances within the tolerance of the optimum (or of "
    "the best value seen); joules to solution = joules x ln .01 / ln(1 - P hit)."
)


def judge_study(subtask: Subtask[Any, Any], rows: Sequence[EvidenceRow], objective: Any) -> dict[str, policy.Verdict]:
    """Return the verdict on every arm that may be chosen, over all instances of the study whatever their size."""
    first = rows[0]
    setting = policy.Setting(f"{first.backend} {first.calibration}", 0, first.data, objective)
    everything = [replace(trial, bucket=0) for trial in trials(rows, objective)]
    eligible = [a.name for a in subtask.arms[1:] if a.kind is not Kind.CONTROL or a.does_nothing]
    paired = {name: policy.pair(subtask, setting, everything, name) for name in eligible}
    return policy.judge({k: p for k, p in paired.items() if p.n}, policy.certified(setting.uses))


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


def _count(items: Iterable[T]) -> dict[T, int]:
    return dict(sorted(Counter(items).items()))
