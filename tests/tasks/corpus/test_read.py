import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.corpus import read
from tasks.corpus.read import Document, Reader


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
    assert reader.skipped == 2
    assert not reader.quarantined


def test_given_ids_sources_and_labels_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"id": 7, "text": "a", "source": "web", "label": "l"}\n{"id": null, "text": "b"}\n')
    first, second = documents(Reader("base"), path)
    assert (first.doc_id, first.source, first.label) == ("7", "web", "l")
    assert (second.doc_id, second.source, second.label) == ("x.jsonl#0000001", "x.jsonl", "")


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": ["no"], "abstract": ["yes"], "doi": ["10.1"]}), path)
    (found,) = documents(Reader("base", text_column="abstract", id_column="doi"), path)
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
        "a.jsonl.gz": "unreadable",
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
        "x.jsonl:3": "no text column",
        "x.jsonl:4": "no text column",
        "x.jsonl:5": "no text column",
        "x.jsonl:7": "not JSON",
    }


def test_a_file_of_nothing_but_bad_lines_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "MAX_ASIDE", 3)
    (tmp_path / "x.json").write_text("{\n" * 10)
    reader = Reader("base")
    assert not documents(reader, tmp_path)
    assert [item.reason for item in reader.quarantined] == ["not JSON"] * 3 + ["no JSON lines"]


def test_a_table_without_text_names_its_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1], "b": ["x"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": [1.5]}), tmp_path / "b.parquet")
    reader = Reader("base")
    assert not documents(reader, tmp_path)
    assert [item.detail for item in reader.quarantined] == [
        "columns: a, b; name one with --text-column",
        "text holds double, not text",
    ]


def test_a_huge_line_is_put_aside_without_being_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "MAX_LINE", 1000)
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"text": "y" * 5000}) + "\n" + json.dumps({"text": "after"}) + "\n")
    reader = Reader("base")
    assert [(d.doc_id, d.text) for d in documents(reader, path)] == [("x.jsonl#0000001", "after")]
    assert reasons(reader) == {"x.jsonl:1": "line too long"}


def test_other_encodings_are_read_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("na\u00efve caf\u00e9".encode("latin-1"))
    (tmp_path / "b.txt").write_bytes("\ufeffmarked".encode())
    (tmp_path / "c.txt").write_bytes("sixteen".encode("utf-16"))
    (tmp_path / "d.txt").write_bytes("a true \ufffd stays".encode())
    (tmp_path / "e.jsonl").write_bytes(b'{"text": "caf\xe9"}\n{"text": "\\ud800 lone"}\n')
    found = {d.doc_id: d for d in documents(Reader("base"), tmp_path)}
    assert (found["a.txt"].text, found["a.txt"].replaced) == ("na\ufffdve caf\ufffd", 2)
    assert (found["b.txt"].text, found["b.txt"].replaced) == ("marked", 0)
    assert (found["c.txt"].text, found["c.txt"].replaced) == ("sixteen", 0)
    assert found["d.txt"].replaced == 0
    assert found["e.jsonl#0000000"].replaced == 1
    for document in found.values():
        document.text.encode()


def test_an_empty_file_is_an_empty_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"")
    (tmp_path / "b.jsonl").write_bytes(b"")
    assert [(d.doc_id, d.text) for d in documents(Reader("base"), tmp_path)] == [("a.txt", "")]


def test_a_long_text_file_is_cut_at_blank_lines_and_nothing_is_lost(tmp_path: Path) -> None:
    text = "".join(f"Paragraph {k}: " + "größer " * (k % 90) + "\n\n" for k in range(600))
    (tmp_path / "book.txt").write_text(text)
    found = documents(Reader("base"), tmp_path)
    assert len(found) > 10
    assert "".join(d.text for d in found) == text
    assert all(len(d.text.encode()) <= read.PASSAGE and d.text.startswith("Paragraph") for d in found)
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
