"""Deduplication as a function, without a service."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.dataset import dataset as arrow_dataset

from tasks.corpus.documents import Layout
from tasks.curation.deduplicate import deduplicate, deduplicate_into
from tasks.curation.index.shards import Recipe, Work, make_shard


def texts(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(f"word{k}" for k in rng.integers(400, size=80)) for _ in range(count)]


@pytest.fixture(scope="module")
def table() -> pa.Table:
    one, two, three = texts(3)
    rows = [one, two, one.replace("word", "word", 1), f"{two} end", three, one.replace(" ", "  ")]
    return pa.table({"n": pa.array(range(6), pa.int16()), "text": rows, "tags": [["a"]] * 6})


def test_a_table_comes_back_without_its_duplicates(table: pa.Table) -> None:
    found = deduplicate(table)
    assert found.kept["n"].to_pylist() == [0, 3, 4]
    assert found.kept.schema.field("n").type == pa.int16()
    rows = {row["n"]: row for row in found.dropped.to_pylist()}
    assert rows.keys() == {1, 2, 5}
    assert (rows[2]["ketcycle_reason"], rows[2]["ketcycle_jaccard"]) == ("exact_duplicates", 1.0)
    assert rows[1]["ketcycle_witness"] == found.kept["ketcycle_id"].to_pylist()[1]
    assert rows[1]["ketcycle_jaccard"] == pytest.approx(76 / 77)
    assert found.edges.num_rows == 1
    assert found.components["component"].to_pylist() == [0, 0]


@pytest.mark.parametrize("kind", ["pandas", "reader", "paths", "paths as text", "dataset of Arrow", "streamed"])
def test_other_sources(table: pa.Table, tmp_path: Path, kind: str) -> None:
    (tmp_path / "x.jsonl").write_text(table.to_pandas().to_json(orient="records", lines=True))
    source = {
        "pandas": pd.DataFrame(table.to_pandas()),
        "reader": table.to_reader(2),
        "paths": [tmp_path / "x.jsonl"],
        "paths as text": str(tmp_path),
        "dataset of Arrow": arrow_dataset(table),
        "streamed": pytest.importorskip("datasets").Dataset(table).to_iterable_dataset()
        if kind == "streamed"
        else None,
    }[kind]
    assert deduplicate(source).kept["n"].to_pylist() == [0, 3, 4]


def test_weights_and_columns_of_the_users_own(table: pa.Table) -> None:
    own = table.rename_columns(["n", "body text", "tags"]).append_column("quality", [[1.0, 5.0, 1.0, 2.0, 1.0, 1.0]])
    found = deduplicate(own, layout=Layout(text_column="body text", weight_column="quality", columns=("n",)))
    assert found.kept.column_names[:2] == ["body text", "n"]
    assert found.kept["n"].to_pylist() == [0, 1, 4]


def test_what_is_no_table_or_has_no_text_is_refused() -> None:
    with pytest.raises(ValueError, match="a int is no table and no path"):
        deduplicate(5)
    with pytest.raises(ValueError, match=r"no document can be read .*columns: a; name one"):
        deduplicate(pa.table({"a": [1]}))
    with pytest.raises(ValueError, match="a Series is no table"):
        deduplicate(pd.Series(["a"]))
    with pytest.raises(ValueError, match="above 0 and at most 1, not 70"):
        deduplicate("x", threshold=70)


def test_a_large_table_is_read_in_shards_and_keeps_its_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.curation.deduplicate.SHARD_BYTES", 2**20)
    made: list[Any] = []

    def counted(root: Path, work: Work, recipe: Recipe) -> Path:
        made.append(work.pieces[0].groups)
        return make_shard(root, work, recipe)

    monkeypatch.setattr("tasks.curation.deduplicate.make_shard", counted)
    number = pa.array([None if k == 3000 else [k, 1] for k in range(4000)], pa.list_(pa.int32(), 2))
    given = pa.table({"text": [f"{k} {text}" for k, text in enumerate(texts(4000))], "n": number})
    found = deduplicate(given)
    assert made == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert found.kept["n"].to_pylist() == number.to_pylist()
    assert found.kept["ketcycle_id"].to_pylist()[-1] == "table.arrow#0003999"


def test_the_same_into_a_folder(table: pa.Table, tmp_path: Path) -> None:
    facts = deduplicate_into(table.to_reader(2), tmp_path / "out")
    assert facts["documents_kept"] == {"base": 3}
    found = deduplicate(table)
    kept, dropped = (pq.read_table(tmp_path / "out" / f"{name}.parquet") for name in ("kept", "dropped"))
    assert kept.to_pylist() == found.kept.to_pylist()
    assert dropped["n"].to_pylist() == found.dropped["n"].to_pylist()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"{name}.parquet" for name in ("kept", "dropped", "edges", "components", "decisions", "quarantined")
    }


@pytest.mark.parametrize("library", ["duckdb", "datasets", "polars"])
def test_the_examples_of_the_page(table: pa.Table, library: str) -> None:
    module = pytest.importorskip(library)
    if library == "duckdb":
        source = module.sql("select * from rows", connection=holding(module, table))
    else:
        source = module.Dataset(table) if library == "datasets" else module.from_arrow(table)
    assert deduplicate(source).kept["n"].to_pylist() == [0, 3, 4]


def holding(duckdb: Any, table: pa.Table) -> Any:
    connection = duckdb.connect()
    connection.register("rows", table)
    return connection
