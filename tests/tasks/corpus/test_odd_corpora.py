"""Inputs of other people's tools: what is in them comes back, or is named with the reason."""

import gzip
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.errors import BadInput
from tasks.corpus.documents import Layout
from tasks.corpus.formats.kinds import TABLES, expanded
from tasks.corpus.read import Reader
from tasks.curation.deduplicate import deduplicate, deduplicate_into

RUSSIAN = "Все люди рождаются свободными и равными в своем достоинстве и правах.\n"
KOREAN = "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.\n"


def read(path: Path, **options: Any) -> tuple[list[str], dict[str, str]]:
    reader = Reader("base", Layout(**options))
    texts = [document.text for batch in reader.read([path]) for document in batch]
    return texts, {item.path: item.reason for item in reader.quarantined}


def write_arrow(path: Path, table: pa.Table) -> None:
    with pa.OSFile(os.fsencode(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)),
        pa.array([{"e": [1, 2]}, None], pa.struct([("e", pa.list_(pa.int8(), 2))])),
        pa.array([[("a", 1)], [("b", None)]], pa.map_(pa.string(), pa.int32())),
        pa.array(["a", None], pa.string_view()),
        pa.array([{"v": b"\xff"}, None], pa.struct([("v", pa.binary_view())])),
        pa.array([[1], [2, 3]], pa.list_view(pa.int16())),
        pa.RunEndEncodedArray.from_arrays([1, 2], ["a", "b"]),
        pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0123456789abcdef", None], pa.binary(16))),
        pa.array([1, None], pa.duration("ms")),
        pa.array([1, None], pa.timestamp("us", "Europe/Berlin")),
    ],
    ids=lambda column: str(column.type)[:30],
)
def test_values_of_every_type_come_back(tmp_path: Path, column: pa.Array) -> None:
    write_arrow(tmp_path / "x.arrow", pa.table({"text": ["one text", "another one"], "c": column}))
    kept = deduplicate(tmp_path / "x.arrow").kept
    assert kept["c"].to_pylist() == column.to_pylist()
    if isinstance(column, pa.ExtensionArray) or pa.types.is_temporal(column.type):
        assert kept.schema.field("c").type == column.type


@pytest.mark.parametrize("kind", [pa.list_view(pa.string()), pa.string_view()])
def test_texts_in_views(tmp_path: Path, kind: pa.DataType) -> None:
    given: list[Any] = ["a", "b"] if pa.types.is_string_view(kind) else [["a"], ["b"]]
    write_arrow(tmp_path / "x.arrow", pa.table({"text": pa.array(given, kind)}))
    assert read(tmp_path) == (["a", "b"], {})


def test_values_without_a_common_type_are_written_as_they_read(tmp_path: Path) -> None:
    for name, values in {"a": pa.array([5], pa.decimal128(4, 2)), "b": pa.array(["x"])}.items():
        pq.write_table(pa.table({"text": [f"text {name}"], "n": values}), tmp_path / f"{name}.parquet")
    assert deduplicate(tmp_path).kept["n"].to_pylist() == ["5.00", "x"]


def test_ids_of_bytes_that_are_no_text_are_hexadecimal(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [b"\x00\x05" * 8, b"abc"], "text": ["a", "b"]}), tmp_path / "x.parquet")
    assert [d.doc_id for batch in Reader("base").read([tmp_path]) for d in batch] == ["0005" * 8, "abc"]


@pytest.mark.parametrize(
    ("name", "write", "what"),
    [
        ("x.zip.gz", lambda path: path.write_bytes(gzip.compress(b"PK\x03\x04" + bytes(90))), "zip archive; unpack it"),
        ("x.7z", lambda path: path.write_bytes(b"7z\xbc\xaf\x27\x1c\0\4" + bytes(90)), "7z archive; unpack it"),
        ("x.parquet", lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid x"), "Git LFS"),
    ],
)
def test_what_holds_or_stands_for_other_files_is_named(
    tmp_path: Path, name: str, write: Callable[[Path], object], what: str
) -> None:
    write(tmp_path / name)
    with pytest.raises(BadInput, match=f"{name} is not read: .*{what}"):
        deduplicate(tmp_path / name)
    (tmp_path / "y.txt").write_text("text")
    texts, aside = read(tmp_path)
    assert texts == ["text"]
    assert what in aside[name]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl", b""),
        ("x.json", b"[]"),
        ("x.csv", b"id,text\n"),
        ("x.warc.gz", b""),
        ("x.tsv.gz", gzip.compress(b"", mtime=0)),
    ],
)
def test_files_without_a_record_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert read(tmp_path) == ([], {name: "empty"})


@pytest.mark.parametrize(
    ("text", "encoding"), [(RUSSIAN, "utf-16-le"), (RUSSIAN, "utf-16-be"), (KOREAN, "iso2022_kr"), (KOREAN, "utf-16")]
)
def test_encodings_that_look_like_no_text(tmp_path: Path, text: str, encoding: str) -> None:
    (tmp_path / "x.txt").write_bytes((text * 3).encode(encoding))
    assert read(tmp_path) == ([text * 3], {})


def test_bytes_that_are_no_page_are_put_aside(tmp_path: Path) -> None:
    (tmp_path / "x.html").write_bytes(bytes(range(256)) * 20)
    assert read(tmp_path) == ([], {"x.html": "binary"})


ONE, TWO = ({"text": name} for name in ("one", "two"))


@pytest.mark.parametrize("longest", [2**20, 40])
@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"train": [ONE], "test": [TWO]}, ""),
        ([[ONE], [TWO]], ""),
        ({"features": [{"properties": ONE}, {"properties": TWO}]}, "properties.text"),
        ({"data": {"train": [ONE], "test": [TWO], "sizes": [1, 1]}}, ""),
    ],
)
def test_all_lists_of_a_document_are_read(tmp_path: Path, value: Any, path: str, longest: int) -> None:
    (tmp_path / "x.json").write_text(json.dumps(value))
    if longest == 40 and isinstance(value, list):
        pytest.skip("lists in a list are held whole")
    assert read(tmp_path, text_column=path, max_line=longest) == (["one", "two"], {})


def test_a_path_through_lists_of_lists(tmp_path: Path) -> None:
    value = {"data": [{"paragraphs": [{"context": "one"}, {"context": "two"}]}]}
    (tmp_path / "x.json").write_text(json.dumps(value))
    assert read(tmp_path, text_column="data.paragraphs.context") == (["one\n\ntwo"], {})
    assert read(tmp_path, text_column="context") == (["one", "two"], {})


def test_a_value_that_is_no_text_is_named_by_its_type(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": 5}\n')
    reader = Reader("base")
    assert not list(reader.read([tmp_path]))
    assert reader.quarantined[0].detail == "its value is a number; fields: text"


def test_other_endings_delimiters_and_names(tmp_path: Path) -> None:
    (tmp_path / "a.jl").write_text('{"text": "a"}\n')
    (tmp_path / "b.csv").write_text("id\x01text\n1\x01b\n2\x01b\n")
    folder = os.fsencode(tmp_path) + b"/c\xff"
    Path(os.fsdecode(folder)).mkdir()
    pq.write_table(pa.table({"text": ["c"]}), tmp_path / "x.parquet")
    (tmp_path / "x.parquet").rename(os.fsdecode(folder + b"/\xfe.parquet"))
    assert read(tmp_path) == (["a", "b", "b", "c"], {})
    (tmp_path / "a.jl").write_text("x = 1\n")
    assert read(tmp_path, code=True)[0][0] == "x = 1\n"


def test_patterns_name_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c.md", "[x].txt"):
        (tmp_path / name).write_text(name)
    assert [path.name for path in expanded(tmp_path / "?.txt")] == ["a.txt", "b.txt"]
    assert expanded(tmp_path / "[x].txt") == [tmp_path / "[x].txt"]
    assert deduplicate(f"{tmp_path}/?.txt").kept["text"].to_pylist() == ["a.txt", "b.txt"]
    with pytest.raises(FileNotFoundError, match=r"there is no .*\.xml; give files or folders"):
        deduplicate(f"{tmp_path}/*.xml")


def test_tables_of_an_earlier_curation_are_no_corpus(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a text")
    deduplicate_into(tmp_path, tmp_path / "out")
    facts = deduplicate_into(tmp_path, tmp_path / "out")
    assert (facts["documents_read"], facts["skipped_files"]) == ({"base": 1}, {".parquet": 6})
    assert read(tmp_path / "out") == (["a text"], dict.fromkeys(TABLES[1:], "table of an earlier curation"))


def test_lists_of_fixed_size_that_other_files_have_not(tmp_path: Path) -> None:
    pairs = pa.array([[1, 2]], pa.list_(pa.int8(), 2))
    for name, columns in {
        "a": {"e": pairs, "s": pa.StructArray.from_arrays([pairs], ["e"])},
        "b": {"s": pa.array([{"f": 1}])},
    }.items():
        pq.write_table(pa.table({"text": [f"text {name}"], **columns}), tmp_path / f"{name}.parquet")
    kept = deduplicate(tmp_path).kept
    assert kept["e"].to_pylist() == [[1, 2], None]
    assert kept["s"].to_pylist() == [{"e": [1, 2], "f": None}, {"e": None, "f": 1}]


def test_a_long_field_in_the_first_rows_of_a_table(tmp_path: Path) -> None:
    long = "a, b " * 40_000
    (tmp_path / "x.csv").write_text(f'id,text\n1,"{long}"\n2,"say ""b"""\n')
    assert read(tmp_path) == ([long, 'say "b"'], {})


def test_the_older_form_of_lzma(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl.lzma").write_bytes(lzma.compress(b'{"text": "a"}\n', lzma.FORMAT_ALONE))
    assert read(tmp_path) == (["a"], {})


@pytest.mark.parametrize("declared", ["ascii", "iso-8859-1", "windows-1251", "utf-8", "gb2312"])
def test_a_page_that_was_converted_to_utf8_below_its_old_label(tmp_path: Path, declared: str) -> None:
    text = "größer als über Straße — schön" if declared != "gb2312" else "联通"  # valid as UTF-8 in GB 2312, by chance
    data = f"<html><meta charset={declared}><body><p>{text}</p></body></html>"
    (tmp_path / "x.html").write_bytes(data.encode(declared if declared == "gb2312" else "utf-8"))
    assert read(tmp_path)[0] == [text]


def test_records_of_an_archive_without_a_type(tmp_path: Path) -> None:
    def record(kind: str, body: str) -> str:
        return f"WARC/1.0\nWARC-Type: {kind}\nWARC-Target-URI: http://a\nContent-Length: {len(body)}\n\n{body}\n\n"

    page = "HTTP/1.1 200 OK\r\n\r\n<!DOCTYPE html><body><p>of a page</p></body>"
    other = "HTTP/1.1 200 OK\r\n\r\nbody { color: red }"
    whole = record("conversion", "converted") + record("response", page) + record("response", other)
    (tmp_path / "x.warc").write_text(whole)
    assert read(tmp_path) == (["converted", "of a page"], {})


def test_missing_items_of_a_list_are_no_texts(tmp_path: Path) -> None:
    turns = pa.array(
        [[{"t": "a"}, {"t": None}, {"t": "b"}], [{"t": None}], None], pa.list_(pa.struct([("t", pa.string())]))
    )
    pq.write_table(pa.table({"turns": turns}), tmp_path / "x.parquet")
    assert read(tmp_path, text_column="turns.t") == (["a\n\nb", "", ""], {})
    texts, aside = read(tmp_path, text_column="turns.t", list_rows=True)
    assert (texts, len(aside)) == (["a", "b"], 2)


@pytest.mark.parametrize("before", [0, 250], ids=["first row", "later row"])
def test_a_cell_longer_than_the_lines_from_which_the_dialect_is_found_out(tmp_path: Path, before: int) -> None:
    long = "a line of a very long cell\n" * 2000
    rows = "".join(f"{k},plain {k}\n" for k in range(before))
    (tmp_path / "b.csv").write_text(f'id,text\n{rows}x,"{long}"\ny,"short, with a comma"\n')
    texts, aside = read(tmp_path / "b.csv")
    assert (texts[before:], aside) == ([long, "short, with a comma"], {})


def test_a_mark_that_is_never_closed_costs_its_row_also_in_a_long_table(tmp_path: Path) -> None:
    rows = [f"{k},{'5' if k != 7 else chr(34) + 'open'} inches" for k in range(3000)]
    (tmp_path / "a.csv").write_text("id,text\n" + "\n".join(rows))
    texts, aside = read(tmp_path / "a.csv")
    assert len(texts) + len(aside) == 3000
    assert len(texts) >= 2999


def test_records_that_follow_one_another_on_a_line_and_raw_control_characters_are_read(tmp_path: Path) -> None:
    lines = ['{"text": "one"}{"text": "two"}', '{"text": "three"},', '{"text": "a\ttab"}', '{"text": "whole"} {"te']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    texts, aside = read(tmp_path / "a.jsonl")
    assert (texts, aside) == (["one", "two", "three", "a\ttab", "whole"], {"a.jsonl:4": "not JSON"})
    (tmp_path / "b.json").write_text('[{"text": "two\nlines"}, {"text": "open\n}, {"text": "good"}]')
    assert read(tmp_path / "b.json") == (["two\nlines", "good"], {"b.json#1": "not JSON"})


def test_extension_types_that_hold_text_are_read_as_text(tmp_path: Path) -> None:
    values = pa.ExtensionArray.from_storage(pa.json_(pa.string()), pa.array(['{"a": 1}', None]))
    pq.write_table(pa.table({"text": values}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet")[0] == ['{"a": 1}', ""]
    ids = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0123456789abcdef"], pa.binary(16)))
    pq.write_table(pa.table({"text": ids}), tmp_path / "b.parquet")
    assert read(tmp_path / "b.parquet")[1] == {"b.parquet": "no text column"}


def test_a_nul_makes_another_text() -> None:
    found = deduplicate(pa.table({"text": ["a b", "a \0 b", "a\0b", "a  b"]}))
    assert found.kept["text"].to_pylist() == ["a b", "a \0 b", "a\0b"]


def test_files_of_unknown_formats_are_in_the_result_and_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "x.orc").write_bytes(b"ORC\0")
    with pytest.raises(ValueError, match=r"x\.orc: unknown ending \(\.orc\)"):
        deduplicate(tmp_path)
    (tmp_path / "a.txt").write_text("a text")
    rows = deduplicate(tmp_path).quarantined.to_pylist()
    assert [(row["path"], row["reason"]) for row in rows] == [("x.orc", "unknown ending")]


def test_a_pipe_given_by_name_is_refused_with_the_reason(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(BadInput, match=r"pipe\.txt is not read: no regular file"):
        deduplicate(tmp_path / "pipe.txt")


def test_tables_in_the_folder_of_the_corpus_are_not_read_the_next_time(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the text of the first file")
    for _ in range(2):
        facts = deduplicate_into(tmp_path, tmp_path)
        assert (facts["documents_read"], facts["removed"]) == ({"base": 1}, {})
    (tmp_path / "a.txt").unlink()  # nothing but the tables is left
    assert deduplicate_into(tmp_path, tmp_path)["documents_kept"] == {"base": 1}


def test_surrogate_pairs_written_as_two_halves_are_one_character(tmp_path: Path) -> None:
    halves = "\ud83d\ude00".encode("utf-8", "surrogatepass")
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "smile ' + halves + b'"}\n')
    assert read(tmp_path) == (["smile \U0001f600"], {})


def test_a_delimiter_behind_a_backslash_is_part_of_its_cell(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text\n1,one\\, two\n2,plain\n")
    assert read(tmp_path) == (["one, two", "plain"], {})
    (tmp_path / "a.csv").write_text("id,text,path\n1,one,C:\\\n2,C:\\dir\\,x\n")
    assert read(tmp_path) == (["one", "C:\\dir\\"], {})


def test_an_output_folder_whose_name_is_no_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a text")
    with pytest.raises(BadInput, match=r"o\\xe9 is no UTF-8; write to another one"):
        deduplicate_into(tmp_path / "a.txt", tmp_path / os.fsdecode(b"o\xe9"))
