"""Two runs side by side, from their records and their stored evidence; ratios of energies under shared draws."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Group
from rich.text import Text

from flows.reports.conversion import points
from flows.reports.figures import Arm, arms_of
from flows.reports.text import band, difference, number, table
from infra import runs
from infra.energy.derive import energy_draws
from infra.energy.model import SEED, Band, Coefficients
from infra.energy.usage import Usage
from infra.evidence import EvidenceRow
from infra.shared import open_evidence
from tasks.evaluation.paired import paired

Row = Mapping[str, Any]
Array = NDArray[np.float64]

# Where stages note bits per byte of the model; * stands for every method.
MODEL_FACTS = (("training", "after"), ("finetuning", "*", "after"), ("inference", "bits_per_byte"))


def compare(home: Path, first: str, second: str, coefficients: Coefficients) -> dict[str, Any]:
    """Return what differs between two runs; ratios and differences are the second's against the first's.

    Raises:
        BadInput: there is no such run.
    """
    records = [runs.read(home, name)[1] for name in (first, second)]
    evidence = open_evidence(home)
    rows = [evidence.read(run_id=name) for name in (first, second)]
    machines = [{row.host for row in part if row.host} for part in rows]
    same_host = machines[0] == machines[1]
    # On one host the model's error of the power is the same for both runs; of two hosts each has its own.
    draws = (coefficients, coefficients if same_host else coefficients.redrawn(SEED + 1))
    return {
        "runs": [first, second],
        "status": [record["status"] for record in records],
        "hosts": [sorted(names) for names in machines],
        "shared_draws": same_host,
        "coefficients": coefficients.hash,
        "parameters": _parameters(records),
        "stages": _stages(records, rows, draws),
        "decisions": _decisions(records, rows, coefficients),
        "lake": _lake(records),
        "model": _model(records),
    }


def _parameters(records: Sequence[Row]) -> dict[str, list[Any]]:
    configs = [record["config"] for record in records]
    names = [name for name in dict.fromkeys([*configs[0], *configs[1]]) if name != "run_id"]
    return {n: [c.get(n) for c in configs] for n in names if configs[0].get(n) != configs[1].get(n)}


def _stages(
    records: Sequence[Row], rows: Sequence[Sequence[EvidenceRow]], draws: tuple[Coefficients, Coefficients]
) -> list[dict[str, Any]]:
    grouped: list[dict[str, list[EvidenceRow]]] = []
    for part in rows:
        by_stage: dict[str, list[EvidenceRow]] = defaultdict(list)
        for row in part:
            by_stage[row.stage or "orchestration"].append(row)
            by_stage["all"].append(row)
        grouped.append(by_stage)
    names = [*dict.fromkeys([*records[0]["stages"], *records[1]["stages"]]), "orchestration", "all"]
    found = []
    for name in names:
        parts = [group.get(name, []) for group in grouped]
        spent = [points(Band.of(energy_draws(part, c))) if part else None for part, c in zip(parts, draws, strict=True)]
        energies = [_residual_draws(part, c) for part, c in zip(parts, draws, strict=True)]
        wall = [record["stages"].get(name, {}).get("wall_s") for record in records]
        both = all(parts)
        found.append(
            {
                "stage": name,
                "wall_s": [record.get("wall_s") for record in records] if name == "all" else wall,
                "cpu_s": [sum(row.total.cpu_s for row in part) for part in parts],
                "energy_j": spent,
                "source": [" and ".join(sorted({row.energy_source for row in part})) for part in parts],
                "energy_ratio": points(Band.of(energies[1] / energies[0])) if both and energies[0].min() > 0 else None,
                "probability_less": float(np.mean(energies[1] < energies[0])) if both else None,
            }
        )
    return found


def _residual_draws(rows: Iterable[EvidenceRow], coefficients: Coefficients) -> Array:
    """Return draws of joules for a ratio: an arm in both runs has one residual, different arms have their own."""
    totals: dict[tuple[str, str], Usage] = defaultdict(Usage)
    for row in rows:
        totals[f"{row.stage}/{row.subtask}/{row.arm}", row.energy_source] += row.total
    parts = [coefficients.cpu_energy_draws(u, "narrow", workload, source) for (workload, source), u in totals.items()]
    return np.asarray(np.sum(parts, axis=0)) if parts else np.zeros(1)


def _decisions(
    records: Sequence[Row], rows: Sequence[Sequence[EvidenceRow]], coefficients: Coefficients
) -> list[dict[str, Any]]:
    grouped: list[dict[tuple[str, str], list[EvidenceRow]]] = []
    for part in rows:
        by_decision: dict[tuple[str, str], list[EvidenceRow]] = defaultdict(list)
        for row in part:
            if row.subtask and not row.probe:
                by_decision[row.stage, row.subtask].append(row)
        grouped.append(by_decision)
    found = []
    for stage, subtask in dict.fromkeys([*grouped[0], *grouped[1]]):
        both = [part.get((stage, subtask), []) for part in grouped]
        decided = [record["stages"].get(stage, {}).get("decisions", {}).get(subtask, {}) for record in records]
        problems = [sorted({row.problem for row in part}) for part in both]
        first, second = (arms_of(part, coefficients) for part in both)
        found.append(
            {
                "stage": stage,
                "subtask": subtask,
                "metric": next(row for part in both for row in part).metric,
                "chosen": [decision.get("arm") for decision in decided],
                "same_problem": problems[0] == problems[1],
                "arms": [_pair(name, first.get(name), second.get(name)) for name in dict.fromkeys([*first, *second])],
            }
        )
    return found


def _pair(name: str, first: Arm | None, second: Arm | None) -> dict[str, Any]:
    both = (first, second)
    difference = paired(second.figures, first.figures) if first and second else None
    return {
        "arm": name,
        "quality": [arm.figures.quality if arm else None for arm in both],
        "status": [arm.figures.status if arm else None for arm in both],
        "n": difference.n if difference else 0,
        "difference": difference.mean if difference else None,
        "interval": list(difference.interval) if difference and difference.interval else None,
    }


def _lake(records: Sequence[Row]) -> dict[str, dict[str, Any]]:
    refs = [
        {n: r for stage in record["stages"].values() for n, r in stage.get("refs", {}).items()} for record in records
    ]
    versions = {n: [part.get(n, "@").split("@")[1] or None for part in refs] for n in sorted({*refs[0], *refs[1]})}
    return {n: {"versions": pair, "equal": pair[0] == pair[1]} for n, pair in versions.items()}


def _model(records: Sequence[Row]) -> dict[str, list[float | None]]:
    figures = [dict(_figures(record)) for record in records]
    return {name: [part.get(name) for part in figures] for name in dict.fromkeys([*figures[0], *figures[1]])}


def _figures(run: Row) -> Iterator[tuple[str, float]]:
    for stage, *path in MODEL_FACTS:
        for names, found in _followed(run["stages"].get(stage, {}).get("facts", {}), path):
            yield from _numbers(" ".join((stage, *names)), found)


def _followed(found: Any, path: Sequence[str]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not path:
        yield (), found
    elif isinstance(found, Mapping):
        for name in sorted(found) if path[0] == "*" else found.keys() & {path[0]}:
            for rest, value in _followed(found[name], path[1:]):
                yield (name, *rest), value


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(f"{name} {key}", inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name.replace("_", " "), float(value)


def render(found: Row) -> Group:
    """Return the result of `compare` as tables."""
    a, b = found["runs"]
    draws = "shared draws" if found["shared_draws"] else "draws of their own, since the hosts differ"
    parts: list[Any] = [
        table("Parameters that differ", ("parameter", a, b), _differing(found["parameters"])),
        table(
            f"Stages: ratio is {b} / {a}, from {draws}",
            ("stage", "wall s", "wall s", "CPU s", "CPU s", *["J [p5, p95]"] * 2, "J ratio [p5, p95]", "P(less)"),
            [_stage_pair(stage) for stage in found["stages"]],
        ),
    ]
    for decision in found["decisions"]:
        problem = "same problem" if decision["same_problem"] else "other problem, so nothing is paired"
        chosen = " and ".join(str(arm or "-") for arm in dict.fromkeys(decision["chosen"]))
        parts.append(
            table(
                f"{decision['subtask']}: chosen {chosen}; {problem}; {decision['metric']}, higher is better",
                ("arm", a, b, "difference [95 %]", "n"),
                [_arm_pair(arm) for arm in decision["arms"]],
            )
        )
    equal = [name for name, pair in found["lake"].items() if pair["equal"]]
    other = [(n, *map(str, pair["versions"])) for n, pair in found["lake"].items() if not pair["equal"]]
    parts += [
        table("Model, bits per byte", ("figure", a, b, "difference"), [_figure(*i) for i in found["model"].items()]),
        table("Lake versions that differ", ("data set", a, b), other),
        Text(f"equal versions: {', '.join(equal) or 'none'}"),
        Text(f"energy: narrow boundary, coefficients {found['coefficients']}"),
    ]
    return Group(*parts)


def _differing(parameters: Mapping[str, Sequence[Any]]) -> list[tuple[str, ...]]:
    return [(name, *(json.dumps(value) for value in pair)) for name, pair in parameters.items()] or [("none", "", "")]


def _stage_pair(stage: Row) -> tuple[str, ...]:
    energies = [
        f"{band(energy)} {source}" if energy else "-"
        for energy, source in zip(stage["energy_j"], stage["source"], strict=True)
    ]
    cells = [stage["stage"], *map(number, stage["wall_s"]), *map(number, stage["cpu_s"]), *energies]
    return (*cells, band(stage["energy_ratio"]), number(stage["probability_less"]))


def _arm_pair(arm: Row) -> tuple[str, ...]:
    qualities = [
        number(quality, 5) if quality is not None else (status or "-")
        for quality, status in zip(arm["quality"], arm["status"], strict=True)
    ]
    return (arm["arm"], *qualities, difference(arm["difference"], arm["interval"]), str(arm["n"] or "-"))


def _figure(name: str, pair: Sequence[float | None]) -> tuple[str, ...]:
    first, second = pair
    gained = None if first is None or second is None else second - first
    return (name, number(first, 4), number(second, 4), number(gained))
