from __future__ import annotations

import bz2
import gzip
import lzma
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from infra.errors import BadInput
from tasks.monitoring.tables import reading
from tasks.monitoring.tables.flat import flatten
from tasks.monitoring.tables.reading import BATCH, Batches, open_passing, open_table, sample_rows

PLAIN = {"n": [1.5, 2.5], "plan": ["free", "pro"], "day": [date(2026, 1, 2), date(2026, 1, 3)]}
DIALECTS = {
    "comma.csv": b"n,plan,day\n1.5,free,2026-01-02\n2.5,pro,2026-01-03\n",
    "semicolon.csv": b"n;plan;day\n1.5;free;2026-01-02\n2.5;pro;2026-01-03\n",
    "decimal comma.csv": b"n;plan;day\n1,5;free;2026-01-02\n2,5;pro;2026-01-03\n",
    "pipe.txt": b"n|plan|day\r\n1.5|free|2026-01-02\r\n2.5|pro|2026-01-03\r\n",
    "tab.tsv": b"n\tplan\tday\n1.5\tfree\t2026-01-02\n2.5\tpro\t2026-01-03\n",
    "mark.csv": b"\xef\xbb\xbfn,plan,day\n1.5,free,2026-01-02\n2.5,pro,2026-01-03\n",
    "quoted.csv": b'"n","plan","day"\n"1.5","free","2026-01-02"\n"2.5","pro","2026-01-03"\n',
    "packed.csv.gz": gzip.compress(b"n,plan,day\n1.5,free,2026-01-02\n2.5,pro,2026-01-03\n"),
    "lines.jsonl": b'{"n": 1.5, "plan": "free", "day": "2026-01-02"}\n{"n": 2.5, "plan": "pro", "day": "2026-01-03"}\n',
}


def read_whole(path: Path) -> pa.Table:
    return sample_rows(open_table(path), np.random.default_rng(0), 100_000).table


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_gives_the_same_table(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(DIALECTS[name])
    assert read_whole(tmp_path / name).to_pydict() == PLAIN


def test_latin_letters_missing_values_and_texts_with_separators_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("n,café\n1,été\nNA,b\n".encode("latin-1"))
    assert read_whole(path).to_pydict() == {"n": [1, None], "café": ["été", "b"]}
    path.write_text('text,n\n"one; two, three",1\n"a ""word""; b",2\n')
    assert read_whole(path).to_pydict() == {"text": ["one; two, three", 'a "word"; b'], "n": [1, 2]}


def test_a_type_that_changes_late_is_no_surprise(tmp_path: Path) -> None:
    path = tmp_path / "late.csv"
    path.write_text("n\n" + "1\n" * 50_000 + "2.5\n")
    assert read_whole(path)["n"].type == pa.float64()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.csv", None, "there is no file"),
        ("text.parquet", b"no Parquet", "is no Parquet file, nor by its name CSV"),
        ("empty.csv", b"", "is empty"),
        ("one.csv", b"a;b\n1\n2\n", "separate its columns|cannot be read"),
        ("bad.jsonl", b'{"a": 1}\n{"a"', "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_words(
    name: str, content: bytes | None, said: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=said):
        read_whole(tmp_path / name)


def test_a_folder_of_parts_is_one_table(tmp_path: Path) -> None:
    for k in range(3):
        pq.write_table(pa.table({"x": [k, k + 10]}), tmp_path / f"part-{k}.parquet")
    assert read_whole(tmp_path)["x"].to_pylist() == [0, 10, 1, 11, 2, 12]
    pq.write_table(pa.table({"y": [1]}), tmp_path / "part-3.parquet")
    with pytest.raises(BadInput, match="has other columns or types"):
        read_whole(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="holds no"):
        open_table(tmp_path / "empty")


def test_frames_of_pandas_and_arrow_are_tables() -> None:
    frame = pd.DataFrame({"c": pd.Categorical(["a", "b", None]), "x": [1, None, 3]})
    sample = sample_rows(open_table(frame), np.random.default_rng(0))
    assert sample.table.to_pydict() == {"c": ["a", "b", None], "x": [1.0, None, 3.0]}
    with pytest.raises(BadInput, match="the reference is a list"):
        open_table([1, 2], "reference")
    with pytest.raises(BadInput, match="cannot be read as an Arrow table"):
        open_table(pd.Series([1, "a", {}]))
    with pytest.raises(BadInput, match="more than one column named 'x'"):
        open_table(pa.table([[1], [2]], names=["x", "x"]))


def batches(count: int, size: int) -> Batches:
    schema = pa.schema([("row", pa.int64())])
    parts = (pa.record_batch([pa.array(range(k * size, (k + 1) * size))], schema=schema) for k in range(count))
    return Batches(schema, parts)


def test_the_sample_is_uniform_without_replacement_and_keeps_the_order() -> None:
    counts = np.zeros(200)
    for seed in range(100):
        sample = sample_rows(batches(20, 10), np.random.default_rng(seed), rows=20)
        rows = sample.table["row"].to_numpy()
        assert (len(rows), sample.total) == (20, 200)
        assert (np.diff(rows) > 0).all()
        counts[rows] += 1
    # Every row is drawn with probability .1, so 100 samples hold it 10 times, with a standard deviation of 3.
    assert abs(counts.mean() - 10) < 1e-9
    assert np.abs(counts - 10).max() < 5 * 3
    assert 2.3 < counts.std() < 3.7


def test_memory_grows_with_the_sample_and_not_with_the_table() -> None:
    before = pa.total_allocated_bytes()
    seen: list[int] = []

    def watched() -> Any:
        for batch in batches(60, BATCH).batches:
            seen.append(pa.total_allocated_bytes() - before)
            yield batch

    sample = sample_rows(Batches(pa.schema([("row", pa.int64())]), watched()), np.random.default_rng(0), rows=5_000)
    assert sample.total == 60 * BATCH
    assert max(seen[30:]) < 8 * BATCH * 3  # the table takes sixty batches


def test_of_long_rows_fewer_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BYTES", 3_000_000)
    parts = (pa.record_batch([pa.array(["x" * 1_000] * 500)], names=["t"]) for _ in range(20))
    sample = sample_rows(Batches(pa.schema([("t", pa.string())]), parts), np.random.default_rng(0))
    assert (sample.table.num_rows, sample.total) == (2_988, 10_000)  # 1,004 bytes a row with its offset


def values(seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"age": rng.normal(40, 10, 60).round(2), "plan": rng.choice(["free", "pro"], 60)})


@pytest.mark.parametrize(
    "dialect",
    [
        {"sep": "\t"},
        {"sep": "|"},
        {"sep": ";", "decimal": ","},
        {"sep": "\t", "decimal": ","},
        {"sep": "|", "decimal": ","},
        {"decimal": ",", "quoting": 2},
        {"sep": "^"},
        {"sep": ":"},
        {"sep": " "},
        {"encoding": "utf-8-sig"},
        {"encoding": "utf-16"},
        {"encoding": "utf-16-le"},
        {"encoding": "utf-16-be"},
        {"encoding": "latin-1"},
        {"lineterminator": "\r"},
        {"quotechar": "'", "quoting": 1},
    ],
    ids=str,
)
def test_a_csv_of_any_dialect_has_its_columns_and_numbers(tmp_path: Path, dialect: dict[str, Any]) -> None:
    frame = values(1)
    frame.to_csv(tmp_path / "t.csv", index=False, **dialect)
    table = read_whole(tmp_path / "t.csv")
    assert table.schema.names == ["age", "plan"]
    assert table["age"].to_pylist() == pytest.approx(frame["age"].tolist())
    assert table["plan"].to_pylist() == frame["plan"].tolist()


def test_marks_of_thousands_are_no_decimal_commas(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n" + '"1,234",x\n"56,789",y\n' * 20)
    assert read_whole(tmp_path / "t.csv")["a"].to_pylist()[:2] == ["1,234", "56,789"]


def test_a_line_with_other_columns_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n" + "1,x\n" * 200 + "1,2,3,4\n")
    with pytest.raises(BadInput, match=r"line 202 of .*another number of columns"):
        read_whole(tmp_path / "t.csv")


def test_intervals_of_pandas_become_their_ends() -> None:
    frame = pd.DataFrame({"v": pd.cut(np.arange(40.0), 4)})
    assert flatten(read_whole(frame)).schema.names == ["v.left", "v.right"]


def test_files_are_known_by_their_first_bytes_and_unpacked(tmp_path: Path) -> None:
    csv, lines = b"n,c\n1,a\n2,b\n", b'{"n": 1, "c": "a"}\n{"n": 2, "c": "b"}\n'
    files = {"a.csv.bz2": bz2.compress(csv), "a.csv.xz": lzma.compress(csv), "a.jsonl.xz": lzma.compress(lines)}
    files |= {
        "a.dat": csv,
        "plain": csv,
        "lines": lines,
        "A.CSV": csv,
        "list": b"[" + lines.replace(b"\n{", b",{") + b"]",
    }
    expected = {"n": [1, 2], "c": ["a", "b"]}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        assert read_whole(tmp_path / name).to_pydict() == expected, name
    feather.write_feather(pa.table(expected), str(tmp_path / "a.feather"))
    with pa.OSFile(str(tmp_path / "stream"), "wb") as sink, pa.ipc.new_stream(sink, pa.table(expected).schema) as out:
        out.write_table(pa.table(expected))
    assert all(read_whole(tmp_path / name).to_pydict() == expected for name in ("a.feather", "stream"))
    (tmp_path / "bad.csv.bz2").write_bytes(bz2.compress(csv * 9999)[:-20])
    with pytest.raises(BadInput, match=r"bad.csv.bz2 cannot be unpacked"):
        read_whole(tmp_path / "bad.csv.bz2")


def test_a_folder_as_spark_writes_it(tmp_path: Path) -> None:
    tables = pa.table({"x": pa.array([1], pa.int32()), "y": ["a"]}), pa.table({"y": ["b"], "x": pa.array([2**40])})
    for k, table in enumerate(tables):
        (tmp_path / f"_day={k}").mkdir()
        pq.write_table(table, tmp_path / f"_day={k}" / f"part-{k}.snappy.parquet")
    (tmp_path / "_temporary").mkdir()
    pq.write_table(pa.table({"z": [1]}), tmp_path / "_temporary" / "part.parquet")
    (tmp_path / "_SUCCESS").touch()
    assert read_whole(tmp_path).to_pydict() == {"x": [1, 2**40], "y": ["a", "b"]}


def test_a_line_with_other_cells_is_named_though_nothing_fits(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n" + "1,2\n" * 50 + "1,2,3\n" + "1,2\n" * 50)
    with pytest.raises(BadInput, match=r"line 52 of .*x.csv has another number of columns"):
        read_whole(tmp_path / "x.csv")


def test_a_table_that_is_walked_gives_a_sample_and_its_rows_in_order(tmp_path: Path) -> None:
    table = pa.table({"x": range(3 * BATCH), "plan": pa.array(["a", "b", None] * BATCH).dictionary_encode()})
    pq.write_table(table, tmp_path / "t.parquet")
    found = open_passing(tmp_path / "t.parquet", np.random.default_rng(0))
    parts = list(found.batches)
    assert len(parts) == 3
    assert pa.concat_tables(parts).to_pydict() == table.to_pydict()
    assert found.sample.total == table.num_rows
    assert found.sample.table.schema == parts[0].schema
