import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.reports.tables import export_tables
from infra.errors import BadInput
from infra.lake import Lake, check_folder, write_atomic


def test_tables_of_a_stage_are_copied_and_replaced(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    refs = {name: lake.write(name, pa.table({"x": [1]})) for name in ("curation/kept", "curation/candidates", "a/b")}
    record = {"stages": {"curation": {"refs": {name: str(ref) for name, ref in refs.items()}}}}
    write_atomic(tmp_path / "runs/one/run.json", json.dumps(record))
    out = tmp_path / "out"
    check_folder(out)
    pq.write_table(pa.table({"old": [0]}), out / "kept.parquet")
    assert export_tables(tmp_path, "one", "curation", out) == [out / "kept.parquet"]
    assert [path.name for path in out.iterdir()] == ["kept.parquet"]
    assert pq.read_table(out / "kept.parquet").to_pydict() == {"x": [1]}


def test_a_folder_that_cannot_be_made_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="cannot be made a folder"):
        check_folder(tmp_path / "file")
