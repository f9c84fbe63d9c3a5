"""A state folder with two stored runs, made by hand: what reports are computed from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from infra.energy.usage import Usage
from infra.evidence import Evidence, EvidenceRow, orchestration_row, stage_row
from infra.lake import Lake, write_atomic
from tasks.sections import plain
from tasks.stage import stage_module

BEGAN_S = 1_790_000_000.0
QUALITIES = {"r1": (0.9, 0.8, 0.7, 0.6), "r2": (0.9, 0.9, 0.8, 0.8)}
CPU_S = {"r1": 100.0, "r2": 200.0}


def arm(run: str, name: str, kind: str, role: str = "", **values: Any) -> EvidenceRow:
    used = values.pop("usage", Usage(cpu_s=1.0, wall_s=1.0))
    common = {"metric": "share kept", "tolerance": 0.1, "size": 40, "host": "alpha", "versions": '{"numpy": "2"}'}
    stamp = {"created_at": "2026-09-21T13:46:40+00:00"}
    return EvidenceRow(run, "curation", "representatives", "p1", name, kind=kind, role=role, usage=used, total=used, **common, **stamp, **values)  # noqa: E501  # fmt: skip


def rows(run: str) -> list[EvidenceRow]:
    common = {"host": "alpha", "versions": '{"numpy": "2"}', "created_at": "2026-09-21T13:46:40+00:00"}
    work = Usage(cpu_s=CPU_S[run], wall_s=50.0)
    circuits = Usage(cpu_s=2.0, simulation_cpu_s=1.0, qpu_s_projected=3.0, jobs=1, circuits=4, shots=400)
    return [
        stage_row(run, "curation", work, problem="prepare", decision='{"peak_rss_mb": 300.0}', **common),
        arm(run, "greedy", "classical", "incumbent", qualities=QUALITIES[run], chosen=True, oracle=(1.0,) * 4),
        arm(run, "qaoa", "quantum", "challenger", qualities=(0.7,) * 4, usage=circuits, backend="aer", quality_backend="aer"),  # noqa: E501
        arm(run, "nothing", "control", qualities=(0.1,) * 4),
        arm(run, "broken", "classical", status="failed", reason="ValueError: no"),
        orchestration_row(run, Usage(cpu_s=10.0), **common),
    ]  # fmt: skip


def datasets(lake: Lake) -> dict[str, str]:
    texts = {"a": "one two three four", "b": "one two drei four", "c": "far away"}
    candidates = pa.table({"doc_id": list(texts), "text": list(texts.values())})
    decisions = pa.Table.from_pylist(
        [
            dict(zip(("removed", "witness", "jaccard", "cosine", "subtask", "kept"), row, strict=True))
            for row in (
                ("a", "b", 0.8, None, "representatives", "b"),
                ("gone", "c", 1.0, None, "exact_duplicates", "c"),
                ("lost", "c", None, 0.9, "semantic_clusters", "c"),
            )
        ]
    )
    tables = {
        "curation/candidates": candidates,
        "curation/decisions": decisions,
    }
    return {name: str(lake.write(name, table)) for name, table in tables.items()}


def record(run: str, refs: dict[str, str]) -> dict[str, Any]:
    def stage(name: str, **facts: Any) -> dict[str, Any]:
        own = {ref: version for ref, version in refs.items() if ref.startswith(name)}
        shown = plain(stage_module(name).sections(facts))
        about = {"status": "done", "began_s": BEGAN_S, "wall_s": 50.0}
        return {"stage": name, **about, "refs": own, "facts": facts, "sections": shown}

    decision = {"arm": "greedy", "rule": "enough", "reason": "insufficient evidence (n=4, need 20)", "n": 4}
    config = {"run_id": run, "method": "auto", "backend": "aer", "profile": "smoke", "seed": int(run == "r2")}
    curation = stage("curation", headline="3 kept", removed={"representatives": 1})
    curation["decisions"] = {"representatives": {**decision, "difference": -0.05, "interval": [-0.1, 0.01]}}
    loss = 2.0 if run == "r1" else 1.75
    training = stage(
        "training",
        after={"test": loss},
        references={"validation": {"zlib": 2.5, "lzma": 2.51, "uniform": 3.4}},
        samples={"0": "pepepe", "100": "<b>tags & more</b>"},
        curve=[[0, 3.0], [2000, 2.0]],
    )
    training["refs"] |= {"training/model": f"training/model@{'0' * 15}{int(run == 'r2')}"}
    figures = {"before": {"base": 2.0}, "pruned": {"base": 2.1}}
    inference = stage("inference", bits_per_byte=figures, removed=[1], removed_units=["block 1"])
    inference["facts"]["parameters"] = {"removed_share": 0.2}
    monitoring = stage(
        "monitoring",
        windows=["w1", "w2"],
        requests={"reference": 40, "w1": 40, "w2": 40},
        drifted=[False, True],
        p_values=[0.6, 0.002],
        states=["ok", "alert"],
        announced=[None, "drift.detected"],
        alarm_level=0.01,
    )
    stages = [curation, training, inference, monitoring]
    stages += [{"stage": "finetuning", "status": "failed", "reason": "ValueError: no"}]
    found = {entry["stage"]: entry for entry in stages}
    return {"config": config, "status": "failed", "began_s": BEGAN_S, "wall_s": 60.0, "peak_mb": 400.0, "stages": found}


def make_home(folder: Path) -> Path:
    refs = datasets(Lake(folder / "lake"))
    evidence = Evidence(folder / "evidence")
    for run in ("r1", "r2"):
        evidence.append(rows(run))
        write_atomic(folder / "runs" / run / "run.json", json.dumps(record(run, refs)))
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a state folder with the runs r1 and r2, for one test alone."""
    return make_home(tmp_path / "home")


@pytest.fixture(scope="session")
def stored_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a state folder with the runs r1 and r2, only to be read."""
    return make_home(tmp_path_factory.mktemp("stored") / "home")
