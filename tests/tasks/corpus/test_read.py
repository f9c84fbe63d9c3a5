import bz2
import gzip
import json
import lzma
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.corpus import read
from tasks.corpus.documents import GIVEN, Document, Layout, Piece
from tasks.corpus.formats.kinds import Found, find_files
from tasks.corpus.passages import MOST
from tasks.corpus.read import Reader
from tasks.corpus.tabular import json_records


def documents(reader: Reader, *paths: Path) -> list[Document]:
    return [document for batch in reader.read(paths) for document in batch]


def reasons(reader: Reader) -> dict[str, str]:
    return {item.path: item.reason for item in reader.quarantined}


def test_every_format_of_a_folder_is_read_in_the_order_of_paths(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_text("plain")
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as stream:
        stream.write('{"text": "packed"}\n\n{"text": "second"}\n')
    pq.write_table(pa.table({"body": ["column"]}), tmp_path / "c.parquet")
    with pa.CompressedOutputStream(pa.OSFile(str(tmp_path / "d.ndjson.zst"), "wb"), "zstd") as out:
        out.write(b'{"content": "zstandard"}\n')
    (tmp_path / "sub" / "e.md").write_text("# nested")
    (tmp_path / "image.png").write_bytes(b"\x89PNG\0")
    (tmp_path / ".hidden.txt").write_text("hidden")
    reader = Reader("base")
    found = documents(reader, tmp_path)
    assert [(d.doc_id, d.text) for d in found] == [
        ("a.txt", "plain"),
        ("b.jsonl.gz#0000000", "packed"),
        ("b.jsonl.gz#0000002", "second"),
        ("c.parquet#0000000", "column"),
        ("d.ndjson.zst#0000000", "zstandard"),
        ("sub/e.md", "# nested"),
    ]
    assert {d.domain for d in found} == {"base"}
    assert {(q.path, q.reason) for q in reader.quarantined} == {
        ("image.png", "unknown ending"),
        (".hidden.txt", "hidden file or marker"),
    }


def test_given_ids_sources_and_labels_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"id": 7, "text": "a", "source": "web", "label": "l"}\n{"id": null, "text": "b"}\n')
    first, second = documents(Reader("base"), path)
    assert (first.doc_id, first.source, first.label) == ("7", "web", "l")
    assert (second.doc_id, second.source, second.label) == ("x.jsonl#0000001", "x.jsonl", "")


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": ["no"], "abstract": ["yes"], "doi": ["10.1"]}), path)
    (found,) = documents(Reader("base", Layout(text_column="abstract", id_column="doi")), path)
    assert (found.doc_id, found.text) == ("10.1", "yes")


def test_equal_ids_become_unique_over_files_and_domains(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text('{"id": "x", "text": "a"}\n{"id": "x", "text": "b"}\n')
    seen: dict[str, int] = {}
    ids = [d.doc_id for domain in ("base", "second") for d in documents(Reader(domain, seen=seen), tmp_path)]
    assert len(set(ids)) == len(ids) == 8
    assert ids[0] == "x"


def test_damaged_files_are_put_aside_and_the_rest_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(b"this is no gzip")
    whole = gzip.compress(b"".join(b'{"text": "%d"}\n' % k for k in range(20_000)))
    (tmp_path / "b.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "c.parquet").write_bytes(b"PAR1 but not really PAR1")
    (tmp_path / "d.parquet").write_bytes(b"")
    (tmp_path / "e.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd broken")
    (tmp_path / "f.txt").write_bytes(b"zero \0 bytes")
    (tmp_path / "g.txt").write_text("fine")
    reader = Reader("base")
    found = documents(reader, tmp_path)
    assert reasons(reader) == {
        "a.jsonl.gz:1": "not JSON",
        "b.jsonl.gz": "unreadable",
        "c.parquet": "unreadable",
        "d.parquet": "unreadable",
        "e.jsonl.zst": "unreadable",
        "f.txt": "binary",
    }
    assert found[-1].text == "fine"
    # the whole documents before the damage are kept
    before = [d for d in found if d.doc_id.startswith("b.")]
    assert before
    assert [d.text for d in before] == [str(k) for k in range(len(before))]


def test_lines_that_are_no_documents_are_put_aside_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(
        '{"text": "a"}\nnot json\n[1, 2]\n{"other": "b"}\n{"text": 5}\n{"text": null}\n' + "[" * 5000 + "\n"
    )
    reader = Reader("base")
    assert [d.text for d in documents(reader, path)] == ["a", ""]
    assert reasons(reader) == {
        "x.jsonl:2": "not JSON",
        "x.jsonl:3": "not JSON",
        "x.jsonl:4": "no text column",
        "x.jsonl:5": "no text column",
        "x.jsonl:7": "not JSON",
    }


def test_many_bad_lines_are_counted_and_those_behind_them_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read, "MOST_ASIDE", 3)
    (tmp_path / "x.jsonl").write_text("{\n" * 10 + '{"text": "fine"}\n')
    reader = Reader("base")
    assert [d.text for d in documents(reader, tmp_path)] == ["fine"]
    assert [(item.reason, item.count) for item in reader.quarantined] == [("not JSON", 1)] * 3 + [("not JSON", 7)]


def test_a_table_without_text_names_its_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1], "b": ["x"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": [1.5]}), tmp_path / "b.parquet")
    reader = Reader("base")
    assert not documents(reader, tmp_path)
    assert [item.detail for item in reader.quarantined] == [
        "columns: a, b; name one with --text-column",
        "text holds double, not text",
    ]


@pytest.mark.parametrize(
    ("name", "before", "between", "after"),
    [
        ("x.jsonl", "", "\n", "\n"),
        ("x.json", "[", ", ", "]"),
        ("x.json", '{"version": 1, "data": [', ", ", '], "end": {}}'),
        ("x.json", '{"result": {"items": [', ",\n ", "]}}"),
    ],
)
def test_records_beyond_the_limit_give_the_passages_of_their_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, before: str, between: str, after: str
) -> None:
    monkeypatch.setattr(json_records, "CHUNK", 5000)
    text = "".join(f'{k} \u00e9\u4e2d\U0001f600 \\ "quoted" line\n\n' for k in range(6000))
    rows = [{"id": 7, "text": text, "meta": {"a": [1, "]"]}}, {"id": 8, "text": "after"}, {"id": 9, "html": text}]
    for ascii_only in (True, False):
        (tmp_path / name).write_text(
            before + between.join(json.dumps(r, ensure_ascii=ascii_only) for r in rows) + after
        )
        reader = Reader("base", Layout(max_line=10_000))
        *parts, last = documents(reader, tmp_path)
        assert "".join(d.text for d in parts) == text
        assert [d.doc_id for d in parts[:2]] == ["7#00000", "7#00001"]
        assert (last.doc_id, last.text) == ("8", "after")
        assert [item.reason for item in reader.quarantined] == ["record too long"]


def test_other_encodings_are_read_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("na\u00efve caf\u00e9".encode("latin-1"))
    (tmp_path / "b.txt").write_bytes("\ufeffmarked".encode())
    (tmp_path / "c.txt").write_bytes("sixteen".encode("utf-16"))
    (tmp_path / "d.txt").write_bytes("a true \ufffd stays".encode())
    (tmp_path / "e.jsonl").write_bytes(b'{"text": "caf\xe9"}\n{"text": "\\ud800 lone"}\n')
    found = {d.doc_id: d for d in documents(Reader("base"), tmp_path)}
    assert (found["a.txt"].text, found["a.txt"].replaced) == ("na\u00efve caf\u00e9", 0)
    assert (found["b.txt"].text, found["b.txt"].replaced) == ("marked", 0)
    assert (found["c.txt"].text, found["c.txt"].replaced) == ("sixteen", 0)
    assert found["d.txt"].replaced == 0
    assert (found["e.jsonl#0000000"].text, found["e.jsonl#0000000"].replaced) == ("caf\u00e9", 0)
    for document in found.values():
        document.text.encode()


def test_an_empty_file_is_an_empty_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"")
    (tmp_path / "b.jsonl").write_bytes(b"")
    assert [(d.doc_id, d.text) for d in documents(Reader("base"), tmp_path)] == [("a.txt", "")]


def test_a_long_text_file_is_cut_at_blank_lines_and_nothing_is_lost(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    text = "".join(f"Paragraph {k}: " + f"größer{rng.integers(999)} " * (k % 90) + "\n\n" for k in range(600))
    (tmp_path / "book.txt").write_text(text)
    found = documents(Reader("base"), tmp_path)
    assert len(found) > 10
    assert "".join(d.text for d in found) == text
    assert all(len(d.text.encode()) <= MOST and d.text.startswith("Paragraph") for d in found)
    assert found[1].doc_id == "book.txt#00001"


def test_a_long_line_is_cut_between_characters(tmp_path: Path) -> None:
    text = "ä€𝄞" * 8000
    (tmp_path / "line.txt").write_text(text)
    found = documents(Reader("base"), tmp_path)
    assert "".join(d.text for d in found) == text
    assert not sum(d.replaced for d in found)


def test_a_path_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no"):
        documents(Reader("base"), tmp_path / "nowhere")


def test_batches_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\n' * 700)
    assert [len(batch) for batch in Reader("base").read([tmp_path])] == [256, 256, 188]


def columns(path: Path, **layout: Any) -> tuple[pa.Table, Reader]:
    """The documents of a file with the user's columns."""
    reader = Reader("base", Layout(**layout))
    batches = list(reader.batches(reader._pieces([path])))
    return pa.concat_tables([pa.Table.from_batches([b]) for b in batches], promote_options="permissive"), reader


def test_an_insertion_at_the_head_moves_the_first_passages_only(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    text = "".join(" ".join(f"w{k}" for k in rng.integers(5000, size=60)) + "\n\n" for _ in range(400))
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.txt").write_text("A preface of some words.\n\n" + text)
    found = documents(Reader("base"), tmp_path)
    one, two = ({d.text for d in found if d.source == name} for name in ("a.txt", "b.txt"))
    assert len(one) > 10
    assert len(one & two) >= len(one) - 2


def test_the_users_columns_come_along_with_their_types(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": pa.array([7, 8], pa.int32()),
            "text": ["a", "b"],
            "domain": ["law", None],
            "embedding": pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2)),
            "meta": [{"lang": "en", "score": 0.5}, {"lang": "de", "score": None}],
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    found, reader = columns(tmp_path)
    assert found["doc_id"].to_pylist() == ["7", "8"]
    for name in ("id", "domain", "embedding", "meta"):
        assert found[GIVEN + name].to_pylist() == table[name].to_pylist()
        assert found.schema.field(GIVEN + name).type == table.schema.field(name).type
    assert (reader.named, reader.text_names) == (2, {"text"})
    assert columns(tmp_path, columns=("domain",))[0].column_names[6:] == [GIVEN + "domain"]


@pytest.mark.parametrize("kind", ["dictionary", "binary", "view", "nested", "list", "chat"])
def test_texts_of_every_type_are_read(tmp_path: Path, kind: str) -> None:
    texts, path, expected = ["naïve", None], "text", ["naïve", ""]
    column: Any = {
        "dictionary": lambda: pa.array(texts).dictionary_encode(),
        "binary": lambda: pa.array(["naïve".encode("latin-1"), None], pa.binary()),
        "view": lambda: pa.array(texts, pa.string_view()),
        "nested": lambda: pa.array([{"body": "naïve"}, None]),
        "list": lambda: pa.array([["naïve", "b"], None]),
        "chat": lambda: pa.array([[{"role": "u", "content": "naïve"}, {"role": "a", "content": "b"}], None]),
    }[kind]()
    path = {"nested": "text.body", "chat": "text.content"}.get(kind, "text")
    expected[0] = "naïve\n\nb" if kind in ("list", "chat") else "naïve"
    pq.write_table(pa.table({"text": column}), tmp_path / "x.parquet")
    found, _ = columns(tmp_path, text_column=path)
    assert found["text"].to_pylist() == expected
    if kind == "list":
        each, _ = columns(tmp_path, text_column=path, list_rows=True)
        assert each["text"].to_pylist() == ["naïve", "b"]
        assert each["doc_id"].to_pylist() == ["x.parquet#0000000#0", "x.parquet#0000000#1"]


def test_odd_ids_are_what_they_mean(tmp_path: Path) -> None:
    for name, ids in {"f": [7.0, float("nan"), 0.5], "b": [b"abc", None, b"\xff"]}.items():
        pq.write_table(pa.table({"id": ids, "text": ["x"] * 3}), tmp_path / f"{name}.parquet")
    lone = '{"id": "\\ud800", "text": "b", "source": "\\udc00"}'
    (tmp_path / "j.jsonl").write_text('{"id": {"k": 1}, "text": "a"}\n' + lone)
    found = [d.doc_id for d in documents(Reader("base"), tmp_path)]
    assert found[:3] == ["abc", "b.parquet#0000001", "\\xff"]
    assert found[3:6] == ["7", "f.parquet#0000001", "0.5"]
    assert found[6:] == ['{"k": 1}', "\ufffd"]


def test_bad_utf8_and_repeated_columns_in_parquet_cost_nothing_else(tmp_path: Path) -> None:
    bad = pa.array([b"good", b"b\xc3\xa9d \xff\xfe", None], pa.binary()).view(pa.string())
    table = pa.Table.from_arrays([bad, bad, pa.array([1, 2, 3])], names=["text", "other", "text"])
    pq.write_table(table, tmp_path / "x.parquet")
    found, reader = columns(tmp_path)
    assert found["text"].to_pylist() == ["good", "béd \ufffd\ufffd", ""]
    assert found["replaced"].to_pylist() == [0, 2, 0]
    assert found[GIVEN + "text~2"].to_pylist() == [1, 2, 3]
    assert not reader.quarantined


JSON = {
    "array.json": '[{"text": "a"},\n {"text": "b"}]',
    "compact.json": '[{"text":"a"},{"text":"b"}]',
    "data.json": '{"data": [{"text": "a"}, {"text": "b"}]}',
    "split.json": '{"columns": ["text"], "index": [0, 1], "data": [["a"], ["b"]]}',
    "pandas.json": '{"text": {"0": "a", "1": "b"}}',
    "lists.json": '{"text": ["a", "b"], "n": [1, 2]}',
    "pretty.json": '{\n "text": "a"\n}\n{\n "text": "b"\n}\n',
    "lines.json": '{"text": "a"}\n{"text": "b"}\n',
    "array.jsonl": '[{"text": "a"}, {"text": "b"}]',
    "cr.jsonl": '{"text": "a"}\r{"text": "b"}\r',
    "table.csv": 'id,text\n1,a\n2,"b"\n',
    "semicolon.csv": "id;text\n1;a\n2;b\n",
    "table.tsv": "id\ttext\n1\ta\n2\tb\n",
}


@pytest.mark.parametrize("name", JSON)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_records_are_read_in_every_shape(tmp_path: Path, name: str, encoding: str) -> None:
    (tmp_path / name).write_bytes(JSON[name].encode(encoding))
    reader = Reader("base")
    assert [d.text for d in documents(reader, tmp_path)] == ["a", "b"]
    assert not reader.quarantined


def test_a_row_with_another_number_of_cells_costs_itself_only(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes('id,text\n1,caf\u00e9\n2\n3,"two\nlines"\n'.encode("latin-1"))
    reader = Reader("base")
    assert [d.text for d in documents(reader, tmp_path)] == ["café", "two\nlines"]
    assert [(q.path, q.reason, q.record) for q in reader.quarantined] == [("x.csv:row 2", "other number of cells", "2")]


def test_files_without_an_ending_and_all_packings_are_read_by_their_first_bytes(tmp_path: Path) -> None:
    line = b'{"text": "a"}\n'
    (tmp_path / "a.jsonl.bz2").write_bytes(bz2.compress(line))
    (tmp_path / "b.jsonl.xz").write_bytes(lzma.compress(line))
    (tmp_path / "c.gz").write_bytes(gzip.compress(line))
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "part-00000")
    (tmp_path / "_SUCCESS").write_bytes(b"")
    (tmp_path / "README").write_text("a")
    with pa.ipc.new_stream(str(tmp_path / "data-00000-of-00001.arrow"), pa.schema({"text": pa.string()})) as out:
        out.write_table(pa.table({"text": ["a"]}))
    with pa.ipc.new_file(str(tmp_path / "x.feather"), pa.schema({"text": pa.string()})) as out:
        out.write_table(pa.table({"text": ["a"]}))
    (tmp_path / "state.json").write_text("{}")
    (tmp_path / "x.foo").write_text("not read")
    reader = Reader("base")
    assert [d.text for d in documents(reader, tmp_path)] == ["a"] * 7
    assert {(q.path, q.detail) for q in reader.quarantined} == {
        ("_SUCCESS", "hidden"), ("state.json", ".json"), ("x.foo", ".foo")
    }  # fmt: skip


def test_a_file_name_that_is_no_utf8_is_read_and_escaped(tmp_path: Path) -> None:
    with open(os.path.join(os.fsencode(tmp_path), b"caf\xe9.txt"), "w") as stream:  # noqa: PTH118, PTH123
        stream.write("text")
    assert [d.doc_id for d in documents(Reader("base"), tmp_path)] == ["caf\\xe9.txt"]


def test_plain_text_in_legacy_encodings_is_detected(tmp_path: Path) -> None:
    texts = {
        "cp1252": "L’été dernier, nous avons visité la forêt près du château où l’élève était né – “déjà”. " * 9,
        "cp1251": "Вода чай окно птица гора мост рыбак поле камень утро лодка. " * 9,
        "cp949": "오래된 다리는 강을 건너고 아이들은 학교에서 노래를 부른다. " * 9,
        "cp932": "昨日は学校で日本語を勉強しました。とても楽しかったです。" * 9,
        "utf-16-le": "without a mark " * 9,
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.txt").write_bytes(text.encode(name))
    (tmp_path / "zero.txt").write_bytes(b"one zero byte \0 in a text" + b" of many more bytes" * 20)
    found = {d.doc_id: d for d in documents(Reader("base"), tmp_path)}
    for name, text in texts.items():
        assert found[f"{name}.txt"].text == text
    assert found["zero.txt"].replaced == 1


def test_records_of_other_types_in_later_batches_are_not_lost(tmp_path: Path) -> None:
    rows = [{"text": str(k), "n": k, "meta": {"a": k}} for k in range(300)]
    rows += [{"text": "x", "n": "many", "meta": {"b": [1]}, "new": None}, {"text": "y", "n": 2**70, "meta": {}}]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    reader = Reader("base")
    batches = list(reader.batches(reader._pieces([tmp_path])))
    assert [len(b) for b in batches] == [256, 46]
    assert batches[0].schema.field(GIVEN + "n").type == pa.int64()
    assert batches[1][GIVEN + "n"].to_pylist()[-2:] == ["many", str(2**70)]
    assert batches[1][GIVEN + "meta"].to_pylist()[-2] == {"a": None, "b": [1]}


def test_links_are_followed_and_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    corpus, other = tmp_path / "corpus", tmp_path / "other"
    (corpus / "sub").mkdir(parents=True)
    other.mkdir()
    (other / "b.txt").write_text("behind a link")
    (corpus / "linked").symlink_to(other)
    (corpus / "sub" / "loop").symlink_to(corpus)
    (corpus / "gone.txt").symlink_to(tmp_path / "nowhere")
    (corpus / "folder.txt").mkdir()
    os.mkfifo(corpus / "pipe.txt")
    reader = Reader("base")
    assert [d.doc_id for d in documents(reader, corpus)] == ["linked/b.txt"]
    assert reasons(reader) == {
        "gone.txt": "broken link",
        "pipe.txt": "no regular file",
        "sub/loop": "link to a folder above",
    }


def test_files_are_unpacked_by_their_bytes_whatever_their_ending_says(tmp_path: Path) -> None:
    lines = b'{"text": "one"}\n{"text": "two"}\n'
    (tmp_path / "plain.jsonl.gz").write_bytes(lines)
    (tmp_path / "packed.jsonl").write_bytes(gzip.compress(lines))
    pq.write_table(pa.table({"text": ["one", "two"]}), tmp_path / "x.parquet")
    (tmp_path / "x.parquet.gz").write_bytes(gzip.compress((tmp_path / "x.parquet").read_bytes()))
    reader = Reader("base")
    assert [d.text for d in documents(reader, tmp_path)] == ["one", "two"] * 4
    assert not reader.quarantined


def test_partitions_of_a_path_are_columns(tmp_path: Path) -> None:
    for part in ("lang=en/day=3", "lang=x%20y/day=07", "lang=__HIVE_DEFAULT_PARTITION__/day=4"):
        (tmp_path / part).mkdir(parents=True)
        pq.write_table(pa.table({"text": ["t"]}), tmp_path / part / "part-0.parquet")
    found = [
        (batch.column(GIVEN + "lang")[0].as_py(), batch.column(GIVEN + "day")[0].as_py())
        for batch in Reader("base").batches(Piece(f) for f in find_files([tmp_path]) if isinstance(f, Found))
    ]
    assert sorted(found, key=str) == [("en", 3), ("x y", "07"), (None, 4)]


def test_a_damaged_row_group_costs_itself_only(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(map(str, rng.integers(10**6, size=40))) for _ in range(300)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "x.parquet", row_group_size=100, compression="gzip")
    data = bytearray((tmp_path / "x.parquet").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 100] = b"\xff" * 100
    (tmp_path / "x.parquet").write_bytes(data)
    reader = Reader("base")
    assert [d.text for d in documents(reader, tmp_path)] == texts[:100] + texts[200:]
    assert reasons(reader) == {"x.parquet, row group 1": "unreadable"}


@pytest.mark.parametrize(
    ("name", "content", "texts", "asides"),
    [
        ("x.jsonl", b'"one"\n"two"\n', ["one", "two"], 0),
        ("x.json", b'["one", "two"]', ["one", "two"], 0),
        ("x.jsonl", b'\x1e{"text": "one"}\n\0\0\0{"text": "two"}\n', ["one", "two"], 0),
        ("x.json", b'[{"text": "one"}, {"text": bad}, {"text": "two"}]', ["one", "two"], 1),
        ("x.json", b'[{"text": "one"}, {"text": "two"}]\n<html>', ["one", "two"], 1),
        ("x.json", b'[{"text": "one"}, {"text": "two"}, {"tex', ["one", "two"], 1),
        ("x.json", b'{"result": {"items": [{"text": "one"}, {"text": "two"}]}}', ["one", "two"], 0),
        ("x.json", b'{"data": [{"p": [{"text": "one"}]}, {"p": [{"text": "two"}]}]}', ["one", "two"], 0),
        ("x.jsonl", '{"text": "one"}\n{"text": "two"}\n'.encode("utf-16-be"), ["one", "two"], 0),
        ("x.jsonl", '{"text": "日本語の文章を読みます"}\n'.encode("shift_jis"), ["日本語の文章を読みます"], 0),
        ("x.jsonl", b'{"text": "a", "deep": ' + b"[" * 300 + b"]" * 300 + b"}\n", ["a"], 0),
        ("x.jsonl", b'{"text": ["a", "b"]}\n{"text": "c"}\n', ["a\n\nb", "c"], 0),
        ("x.jsonl", b'{"text": [{"type": "text", "text": "a"}, {"type": "image"}]}\n{"text": "c"}\n', ["a", "c"], 0),
    ],
)
def test_more_shapes_of_records(tmp_path: Path, name: str, content: bytes, texts: list[str], asides: int) -> None:
    (tmp_path / name).write_bytes(content)
    reader = Reader("base")
    assert [d.text for d in documents(reader, tmp_path)] == texts
    assert len(reader.quarantined) == asides


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("iso2022_jp", "これは古い文字コードで保存された日本語の文書です。"),
        ("hz", "这是一篇用旧编码保存的中文文章。程序必须只看字节就能猜出编码。"),
        (
            "koi8-u",
            "Це досить довгий український текст, який збережено у старому кодуванні. Їжак і п'ять яблук. ",
        ),
        (
            "mac_roman",
            "Dies ist ein längerer deutscher Text mit Umlauten wie ä, ö und ü sowie ß, vor langer Zeit. ",
        ),
        ("cp850", "Voici un long texte français enregistré dans un ancien codage, avec des accents é, è, à et ç. "),
        ("cp852", "Zażółć gęślą jaźń. To jest długi polski tekst zapisany w starym kodowaniu, który trzeba odgadnąć. "),
    ],
)
def test_encodings_of_older_systems_are_detected(tmp_path: Path, encoding: str, text: str) -> None:
    (tmp_path / "x.txt").write_bytes((text * 3).encode(encoding))
    assert [d.text for d in documents(Reader("base"), tmp_path)] == [text * 3]
