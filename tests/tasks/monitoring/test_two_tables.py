"""`ketcycle drift` as a person types it: two tables, one walked table, and input that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from flows.cli import app


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("tables"), np.random.default_rng(0)

    def put(name: str, n: int, shift: float) -> None:
        table = pa.table({"x": rng.normal(shift, size=n), "y": rng.normal(size=n), "same": [1] * n})
        pq.write_table(table, folder / name)

    put("calm.parquet", 120, 0.0)
    put("also.parquet", 40, 0.0)
    put("moved.parquet", 40, 2.0)
    put("few.parquet", 8, 0.0)
    both = [pq.read_table(folder / name) for name in ("calm.parquet", "calm.parquet", "moved.parquet", "moved.parquet")]
    pq.write_table(pa.concat_tables(both), folder / "stream.parquet")
    (folder / "text.parquet").write_text("no Parquet")
    return folder


def drift(tables: Path, *arguments: str) -> Any:
    names = [str(tables / a) if a.endswith((".parquet", ".html")) else a for a in arguments]
    return CliRunner().invoke(app, ["drift", *names, "--home", str(tables / "home")])


def test_every_arm_says_what_it_found_and_what_it_spent(tables: Path) -> None:
    done = drift(tables, "--reference", "calm.parquet", "--current", "moved.parquet", "--shots", "32", "--json",
                 "--html", "page.html")  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["verdict"] == "drift"
    assert found["moved"][0]["feature"] == "x"
    (view,) = found["views"]
    rows = {row["arm"]: row for row in view["arms"]}
    assert set(rows) == {
        "kernel-pool", "mmd-rbf", "ks-bonferroni", "quantum-kernel-exact", "quantum-kernel-linear",
        "quantum-kernel-linear-exact", "iqp-kernel-exact", "projected-kernel", "projected-kernel-exact",
        "mmd-rbf-components",
    }  # fmt: skip
    assert rows["kernel-pool"]["p_value"] == 1 / 500
    assert rows["kernel-pool"]["energy_j"][1] > 0
    circuits = rows["quantum-kernel-linear"]["circuits"]
    assert circuits == 80
    assert rows["quantum-kernel-linear"]["shots"] == 32 * circuits
    assert any(note.startswith("not run: quantum-kernel (") for note in found["notes"])
    assert found["left_out"] == [{"column": "same", "why": "it is constant (1)", "harmless": True}]
    assert found["profiles"][0]["column"] == "x"
    page = (tables / "page.html").read_text()
    assert "Features by drift" in page
    assert page.count("<svg") == 2  # overlaid histograms of x and y


def test_the_circuits_of_all_pairs_run_when_they_are_asked_for(tables: Path) -> None:
    done = drift(tables, "--reference", "calm.parquet", "--current", "also.parquet", "--arms", "quantum-kernel",
                 "--rows", "12", "--shots", "16", "--json")  # fmt: skip
    found = json.loads(done.stdout)
    rows = {row["arm"]: row for row in found["views"][0]["arms"]}
    assert set(rows) == {"kernel-pool", "quantum-kernel"}
    assert rows["quantum-kernel"]["circuits"] == 24 * 23 // 2
    assert found["verdict"] == "no drift"


def test_segments_json_and_prometheus_say_the_same(tables: Path) -> None:
    rng = np.random.default_rng(1)
    plan = rng.choice(["a", "b"], 200)
    for name, shift in (("before.csv", 0.0), ("now.csv", 3.0)):
        rows = [f"{x:.4f};{p}" for x, p in zip(rng.normal(shift * (plan == "b"), 1), plan, strict=True)]
        (tables / name).write_text("\n".join(["x;plan", *rows]) + "\n")
    paths = ("--reference", str(tables / "before.csv"), "--current", str(tables / "now.csv"))
    done = drift(
        tables, *paths, "--by", "plan", "--arms", "kernel-pool", "--prometheus", str(tables / "d.prom"), "--json"
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [(s["value"], len(s["features"])) for s in found["segments"]] == [("b", 1), ("a", 0)]
    families = {family.name: family for family in text_string_to_metric_families((tables / "d.prom").read_text())}
    verdicts = {s.labels["verdict"]: s.value for s in families["ketcycle_drift_verdict"].samples}
    assert verdicts == {"drift": 1.0, "schema drift": 0.0, "incomplete": 0.0, "no drift": 0.0}
    effects = {s.labels["feature"]: s.value for s in families["ketcycle_drift_effect"].samples}
    assert effects == {row["feature"]: pytest.approx(row["distance"]) for row in found["moved"]}
    assert {s.labels["segment"]: s.value for s in families["ketcycle_drift_segment_drifted"].samples} == {
        "a": 0,
        "b": 1,
    }


def test_a_walk_prints_the_change_points(tables: Path) -> None:
    done = drift(tables, "--current", "stream.parquet", "--stream", "--window", "20", "--html", "walk.html")
    assert done.exit_code == 0, done.output
    assert "change points (rows): 240" in done.output
    assert "<svg" in (tables / "walk.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--current", "nothing.parquet", "--reference", "calm.parquet"), "there is no file"),
        (("--current", "text.parquet", "--reference", "calm.parquet"), "is no Parquet file, nor by its name CSV"),
        (("--current", "also.parquet", "--reference", "calm.parquet", "--by", "z"), "no column 'z' to divide it by"),
        (("--current", "also.parquet", "--reference", "calm.parquet", "--effect", "2"), "the effect is a share"),
        (("--current", "also.parquet", "--stream", "--by", "x"), "leave --stream out"),
        (("--current", "calm.parquet"), "give --reference, or --stream"),
        (("--current", "few.parquet", "--reference", "calm.parquet"), "has 8 rows; at least 20"),
        (("--current", "also.parquet", "--reference", "calm.parquet", "--columns", "z"), "'z' is not in both"),
        (("--current", "also.parquet", "--reference", "calm.parquet", "--columns", "same"), "constant"),
        (("--current", "also.parquet", "--reference", "calm.parquet", "--arms", "oracle"), "no arm 'oracle'"),
        (("--current", "also.parquet", "--reference", "calm.parquet", "--level", "1"), "between 0 and 1"),
        (("--current", "also.parquet", "--stream", "--window", "20"), "need at least 100"),
    ],
)
def test_what_cannot_be_used_is_refused_in_words(tables: Path, arguments: tuple[str, ...], said: str) -> None:
    done = drift(tables, *arguments)
    assert done.exit_code == 2
    assert said in done.output.replace("\n", " ")
