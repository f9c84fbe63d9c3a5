"""Curation into a folder, in this process, against the same corpus through the stage."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from infra.errors import BadInput
from tasks.curation import stage
from tasks.curation.direct import curate
from tasks.curation.options import Options
from tasks.stage import Context, State


def test_the_folder_holds_what_the_stage_decides(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{k}" for k in rng.integers(300, size=90)) for _ in range(6)]
    texts += [texts[0].replace(" ", "  "), f"{texts[1]} end", f"{texts[1]} other end", "short"]
    rows = [{"n": k, "text": text} for k, text in enumerate(texts)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "no json\n")
    given = {"corpus": (str(tmp_path / "x.jsonl"),), "alone": True, "languages": ("any",)}
    out = tmp_path / "out"
    out.mkdir()
    facts = curate(Options(**given), out, tmp_path / "index")
    context = Context("run", "curation", tmp_path / "home", 0, {**given, "representatives": {"posed": 0}})
    state = stage.publish(context, stage.prepare(context, State()))
    kept, dropped = (pq.read_table(out / f"{name}.parquet") for name in ("kept", "dropped"))
    lake = context.lake
    assert kept["ketcycle_id"].to_pylist() == lake.read(state.refs["curation/kept"])["doc_id"].to_pylist()
    theirs = lake.read(state.refs["curation/dropped"]).select(["doc_id", "reason", "detail"]).to_pylist()
    ours = dropped.select(["ketcycle_id", "ketcycle_reason", "ketcycle_detail"]).to_pylist()
    assert sorted(tuple(row.values()) for row in ours) == sorted(tuple(row.values()) for row in theirs)
    decisions = lake.read(state.refs["curation/decisions"]).sort_by("removed")
    assert pq.read_table(out / "decisions.parquet").sort_by("removed").equals(decisions)
    assert facts["documents_read"]["base"] == kept.num_rows + dropped.num_rows == 10
    assert facts["dropped_by_rule"] == state.facts["dropped_by_rule"] == {"length": 1}
    (aside,) = pq.read_table(out / "quarantined.parquet").to_pylist()
    assert (aside["path"], aside["reason"], aside["record"]) == ("x.jsonl:11", "not JSON", "no json")
    assert state.facts["exchanged_bytes"]["keys"] == 8 * 8 * 32  # eight candidates in 32 bands
    with pytest.raises(BadInput, match="no rules 'nosuch'"):
        curate(Options(**given, rules="nosuch"), out, tmp_path / "index")
