import hashlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra import evidence as module
from infra.energy.usage import Usage
from infra.errors import LakeError
from infra.evidence import Evidence, EvidenceRow, orchestration_row, row_id, stage_row

FULL = EvidenceRow(
    run_id="run-1",
    stage="inference",
    subtask="pruning",
    problem="abc",
    arm="qaoa",
    repetition=2,
    probe=True,
    size=16,
    kind="quantum",
    role="challenger",
    arm_version="3",
    backend="noisy:fake_torino",
    calibration="2026-11-22",
    quality_backend="noisy:fake_torino",
    status="done",
    reason="shadow",
    metric="bits per byte",
    qualities=(-2.25, -math.inf, 0.1 + 0.2),
    oracle=(-2.0,),
    usage=Usage(1, 2, 3, 4, 5, 6, 7, 8, 9, 10.5, 11, 12, 13, 14.0, 15.0, 16, 17),
    prepare=Usage(cpu_s=0.5),
    total=Usage(cpu_s=99, shots=2**40),
    loops=7,
    energy_source="attributed",
    reused=True,
    chosen=True,
    method="auto",
    tolerance=0.01,
    decision='{"rule": "certified"}',
    data="fingerprint",
    unit="licences",
    twin="qaoa-exact",
    hit_rates=(0.25, 0.0, 1.0),
    versions='{"qiskit": "2.6"}',
    host="h",
)


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    return Evidence(tmp_path / "evidence")


def row(arm: str = "greedy", run: str = "run-1", **values: object) -> EvidenceRow:
    return replace(EvidenceRow(run, "inference", "pruning", "p", arm), **values)  # type: ignore[arg-type]


def test_a_row_comes_back_as_it_was(evidence: Evidence) -> None:
    evidence.append([FULL])
    assert evidence.read() == [FULL]
    assert all(getattr(FULL, f.name) for f in fields(FULL))  # no field was left at a default that hides a loss


def test_nothing_stored_is_nothing_read(evidence: Evidence) -> None:
    assert evidence.read() == []
    assert evidence.sql("select count(*) n from evidence").to_pylist() == [{"n": 0}]
    evidence.append([])
    assert not evidence.root.exists()


def test_the_latest_row_of_an_identity_wins(evidence: Evidence) -> None:
    evidence.append([row(status="pending"), row("qaoa")])
    evidence.append([row(status="done", qualities=(1.0,))])
    assert [(r.arm, r.status) for r in evidence.read()] == [("qaoa", "done"), ("greedy", "done")]
    assert evidence.read(status="pending") == []


def test_of_two_rows_in_one_call_the_later_wins(evidence: Evidence) -> None:
    evidence.append([row(reason="first"), row(reason="second")])
    assert [r.reason for r in evidence.read()] == ["second"]


def test_identity_is_run_stage_subtask_problem_arm_and_repetition() -> None:
    base = row_id("r", "s", "t", "p", "a", 0)
    others = [
        row_id(*v) for v in (("x", "s", "t", "p", "a", 0), ("r", "x", "t", "p", "a", 0), ("r", "s", "x", "p", "a", 0))
    ]
    others += [
        row_id(*v) for v in (("r", "s", "t", "x", "a", 0), ("r", "s", "t", "p", "x", 0), ("r", "s", "t", "p", "a", 1))
    ]
    assert len({base, *others, row_id("rs", "", "t", "p", "a", 0)}) == 8
    assert row(status="failed", created_at="x").row_id == row().row_id


def test_stages_and_orchestration_have_rows_of_their_own(evidence: Evidence) -> None:
    evidence.append([stage_row("r", "training", Usage(cpu_s=5)), stage_row("r", "curation", Usage(cpu_s=2))])
    evidence.append([orchestration_row("r", Usage(cpu_s=1))])
    rows = evidence.read()
    assert len(rows) == 3
    assert sum(r.total.cpu_s for r in rows) == 8
    assert [(r.stage, r.arm) for r in evidence.read(arm="orchestration")] == [("", "orchestration")]


def test_any_column_restricts(evidence: Evidence) -> None:
    evidence.append([row("a", size=3), row("b", chosen=True), row("a", run="run-2", energy_source="measured")])
    assert [r.arm for r in evidence.read("run-1")] == ["a", "b"]
    assert [r.arm for r in evidence.read(chosen=True)] == ["b"]
    assert [r.run_id for r in evidence.read(arm="a", energy_source="measured")] == ["run-2"]
    assert [r.size for r in evidence.read("run-1", size=3, subtask=None)] == [3]


def test_a_changed_column_does_not_bring_an_old_row_back(evidence: Evidence) -> None:
    evidence.append([row(status="pending", backend="aer")])
    evidence.append([row(status="done", backend="ibm:fez")])
    assert evidence.read(backend="aer") == []


def test_an_unknown_column_is_named(evidence: Evidence) -> None:
    with pytest.raises(LakeError, match="no column colour"):
        evidence.read(colour="red")


def test_values_are_never_sql(evidence: Evidence) -> None:
    evidence.append([row()])
    assert evidence.read(run_id="x' or 1=1 --") == []


def test_anybody_can_read_the_parts(evidence: Evidence) -> None:
    evidence.append([FULL])
    parts = duckdb.read_parquet(f"{evidence.root}/*.parquet")
    found = parts.project("usage_cpu_s, total_shots, qualities").fetchall()
    assert found == [(1.0, 2**40, [-2.25, -math.inf, 0.1 + 0.2])]


def test_sql_sees_the_latest_rows(evidence: Evidence) -> None:
    evidence.append([row(usage=Usage(cpu_s=1))])
    evidence.append([row(usage=Usage(cpu_s=3)), row("qaoa", usage=Usage(cpu_s=4))])
    assert evidence.sql("select sum(usage_cpu_s) s from evidence").to_pylist() == [{"s": 7.0}]


def test_compaction_keeps_the_latest_rows_in_one_part(evidence: Evidence) -> None:
    for i in range(5):
        evidence.append([row(reason=str(i)), row(f"arm{i}")])
    before = evidence.read()
    assert evidence.compact() == 5
    assert len(list(evidence.root.glob("*.parquet"))) == 1
    assert evidence.read() == before
    assert pq.read_metadata(next(evidence.root.glob("*.parquet"))).num_rows == 6
    assert evidence.compact() == 0


def test_a_row_appended_after_compaction_still_wins(evidence: Evidence) -> None:
    evidence.append([row(reason="old")])
    evidence.append([row("b")])
    evidence.compact()
    evidence.append([row(reason="new")])
    evidence.compact()
    assert {r.arm: r.reason for r in evidence.read()} == {"b": "", "greedy": "new"}


APPENDER = """
import sys
from pathlib import Path
from infra.evidence import Evidence, EvidenceRow
root, name, n = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
evidence = Evidence(root)
for i in range(n):
    evidence.append([EvidenceRow(name, "s", "t", str(i), arm, reason=f"v{v}") for v in range(2) for arm in "ab"])
"""


def test_appending_compacting_and_reading_at_once_loses_no_row(evidence: Evidence) -> None:
    n = 25
    run = [sys.executable, "-c", APPENDER, str(evidence.root)]
    writers = [subprocess.Popen([*run, name, str(n)]) for name in ("one", "two")]
    seen, merged = 0, 0
    while any(w.poll() is None for w in writers):
        merged += evidence.compact()
        count = len(evidence.read())
        assert count >= seen  # what was once visible stays visible
        seen = count
    assert [w.returncode for w in writers] == [0, 0]
    evidence.compact()
    rows = evidence.read()
    assert len(rows) == len({r.row_id for r in rows}) == 2 * n * 2
    assert {r.reason for r in rows} == {"v1"}
    assert merged > 0
    assert len(list(evidence.root.glob("*.parquet"))) == 1


def test_a_reader_that_listed_parts_before_a_compaction_reads_again(
    evidence: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    evidence.append([row("a")])
    evidence.append([row("b")])
    list_parts, times = evidence._parts, []

    def list_then_compact() -> list[Path]:
        parts = list_parts()
        times.append(1)
        if len(times) == 1:
            Evidence(evidence.root).compact()
        return parts

    monkeypatch.setattr(evidence, "_parts", list_then_compact)
    assert [r.arm for r in evidence.read()] == ["a", "b"]
    assert len(times) == 2


def test_a_writer_that_dies_leaves_nothing_visible(evidence: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk_full(_: int) -> None:
        raise OSError(28, "No space left on device")

    evidence.append([row("a")])
    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space"):
        evidence.append([row("b")])
    assert [r.arm for r in evidence.read()] == ["a"]
    assert [p.name for p in evidence.root.iterdir() if p.name.startswith(".part")] == []


def test_what_a_killed_writer_left_is_swept_away(evidence: Evidence) -> None:
    evidence.append([row()])
    old, new = evidence.root / ".part-old.parquet", evidence.root / ".part-new.parquet"
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (0, 0))
    evidence.compact()
    assert (old.exists(), new.exists()) == (False, True)
    assert len(evidence.read()) == 1


def test_a_damaged_part_is_an_error_not_a_gap(evidence: Evidence) -> None:
    evidence.append([row()])
    evidence.read()
    part = next(evidence.root.glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-20] + b"x" * 20)
    with pytest.raises((LakeError, duckdb.Error)):
        evidence.read()
    with pytest.raises(LakeError, match="damaged"):
        Evidence(evidence.root).read()


@pytest.mark.parametrize("how", ["read", "append", "compact"])
def test_another_schema_version_is_refused_with_both(evidence: Evidence, how: str) -> None:
    evidence.root.mkdir()
    foreign = pa.table({"row_id": ["x"]}).replace_schema_metadata({"ketcycle.evidence": "999"})
    pq.write_table(foreign, evidence.root / "part-0-x.parquet")
    pq.write_table(foreign, evidence.root / "part-1-x.parquet")
    acts: dict[str, Callable[[], object]] = {"read": evidence.read, "compact": evidence.compact}
    acts["append"] = lambda: evidence.append([row()])
    with pytest.raises(LakeError, match=f"schema 999.*{module.SCHEMA_VERSION}"):
        acts[how]()
    assert len(list(evidence.root.glob("*.parquet"))) == 2


def test_parts_of_the_first_schema_are_read_beside_new_ones(evidence: Evidence) -> None:
    old, new = row("old", qualities=(0.5,)), row("new", unit="licences", hit_rates=(0.5,))
    evidence.append([old])
    [part] = evidence.root.glob("part-*.parquet")
    table = pq.read_table(part).drop_columns(["unit", "twin", "hit_rates", "measures"])
    pq.write_table(table.replace_schema_metadata({"ketcycle.evidence": "1"}), part)
    assert Evidence(evidence.root).read() == [old]
    evidence.append([new])
    assert Evidence(evidence.root).read() == [old, new]
    assert evidence.compact() == 2
    assert Evidence(evidence.root).read() == [old, new]
    assert evidence.sql("select count(*) n from evidence where unit is null").to_pylist() == [{"n": 1}]


def test_parts_without_dollars_are_read_beside_new_ones(evidence: Evidence) -> None:
    old, new = row("old"), row("new", usage=Usage(cpu_s=1.0, usd_billed=0.55), total=Usage(usd_billed=0.55))
    evidence.append([old])
    [part] = evidence.root.glob("part-*.parquet")
    table = pq.read_table(part)
    table = table.drop_columns([name for name in table.column_names if name.endswith("usd_billed")])
    pq.write_table(table.replace_schema_metadata({"ketcycle.evidence": "4"}), part)
    evidence.append([new])
    assert Evidence(evidence.root).read() == [old, new]
    assert evidence.compact() == 2
    assert Evidence(evidence.root).read() == [old, new]
    assert evidence.sql("select sum(total_usd_billed) usd from evidence").to_pylist() == [{"usd": 0.55}]


def test_a_change_of_columns_needs_a_new_schema_version() -> None:
    columns = json.dumps([(f.name, str(f.type)) for f in module._SCHEMA])
    digest = hashlib.sha256(columns.encode()).hexdigest()[:8]
    assert {digest: module.SCHEMA_VERSION} == {"57a0ed73": 5}, "raise SCHEMA_VERSION and note the new digest here"


def test_rows_stream_in_batches(evidence: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH", 8)
    evidence.append([row(str(i)) for i in range(100)])
    stream = evidence.scan()
    assert next(stream).arm == "0"
    assert sum(1 for _ in stream) == 99


def test_reading_a_run_of_many_parts_is_fast(evidence: Evidence) -> None:
    for i in range(60):
        evidence.append([row(f"{i}-{j}") for j in range(10)])
    start = time.process_time()
    assert len(evidence.read("run-1")) == 600
    assert time.process_time() - start < 5
