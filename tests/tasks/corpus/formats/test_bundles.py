"""Archives of files: each member is read as the file that it is, or named with the reason."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.errors import BadInput
from tasks.corpus.documents import Layout, Piece
from tasks.corpus.formats.bundles import spans
from tasks.corpus.formats.kinds import Found, recognise
from tasks.corpus.read import Reader
from tasks.curation.deduplicate import deduplicate
from tasks.curation.index.shards import Recipe, plan_shards


def read(path: Path, **options: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the text of each id, and the reason of all that was put aside."""
    reader = Reader("base", Layout(form=options.get("form", "")))
    texts = {document.doc_id: document.text for batch in reader.read([path]) for document in batch}
    return texts, {item.path: item.reason for item in reader.quarantined}


def zipped(path: Path, members: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tarred(members: Mapping[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=form) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


def parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": ["from parquet"], "id": [7]}), sink)
    return sink.getvalue()


MEMBERS = {
    "a/lines.jsonl": b'{"id": "one", "text": "from lines"}\n',
    "a/table.csv": b"id,text\ntwo,from csv\n",
    "b/plain.txt": b"from text",
    "b/packed.jsonl.gz": gzip.compress(b'{"id": "three", "text": "packed"}'),
    "lang=en/c.parquet": parquet(),
    "page.html": "<html><meta charset=euc-kr><p>사람이 읽는 글이다</p></html>".encode("euc-kr"),
}
TEXTS = {
    "one": "from lines",
    "two": "from csv",
    "x/b/plain.txt": "from text",
    "three": "packed",
    "7": "from parquet",
    "x/page.html": "사람이 읽는 글이다",
}


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.tgz", "x.tar.bz2", "x.tar.xz", "x.gz", "x", "x.csv"])
def test_every_member_is_read_as_the_file_that_it_is(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name in ("x.zip", "x.csv"):  # some servers name what they have packed as before
        zipped(path, MEMBERS)
    else:
        packers: dict[str, Callable[[bytes], bytes]] = {"bz2": bz2.compress, "xz": lzma.compress}
        packers |= {"gz": gzip.compress, "tgz": gzip.compress}
        path.write_bytes(packers.get(name.rpartition(".")[2], bytes)(tarred(MEMBERS)))
    expected = {key.replace("x/", f"{name}/"): text for key, text in TEXTS.items()}
    assert read(path) == (expected, {})
    assert read(tmp_path) == (expected, {})


def test_partitions_inside_an_archive_are_columns(tmp_path: Path) -> None:
    zipped(tmp_path / "x.zip", MEMBERS)
    kept = deduplicate(tmp_path / "x.zip").kept
    assert dict(zip(kept["ketcycle_id"].to_pylist(), kept["lang"].to_pylist(), strict=True))["7"] == "en"


def test_what_is_no_file_to_read_is_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        for name, kind in (("soft", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE), ("pipe", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(f"{name}.txt")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        for folder in ("d", "d/__MACOSX"):
            info = tarfile.TarInfo(folder)
            info.type = tarfile.DIRTYPE
            archive.addfile(info)
        inner = tarred({"z.txt": b"deep"})
        for name, content in {
            "__MACOSX/._a.txt": b"x",
            "__MACOSX/._b.txt": b"x",
            "./d/good.txt": b"good",
            "inner.tar.gz": gzip.compress(inner),
            "inner.zip": zipped(tmp_path / "inner", {"z.txt": b"deep"}).read_bytes(),
            "program.exe": b"MZ\0\0",
            "dataset_info.json": b"{}",
            "nothing.jsonl": b"",
            "bad.jsonl": b"{bad\n",
            "d/" + 40 * "long" + ".txt": b"long name",
        }.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    (tmp_path / "inner").unlink()
    nested = "archive within an archive; unpack the outer one and give the folder"
    assert read(tmp_path / "x.tar") == (
        {"x.tar/d/good.txt": "good", f"x.tar/d/{40 * 'long'}.txt": "long name"},
        {
            "x.tar/soft.txt": "link",
            "x.tar/hard.txt": "link",
            "x.tar/pipe.txt": "no regular file",
            "x.tar/__MACOSX": "hidden file or marker",
            "x.tar/inner.tar.gz": nested,
            "x.tar/inner.zip": nested,
            "x.tar/program.exe": "unknown ending",
            "x.tar/dataset_info.json": "metadata of a data set",
            "x.tar/nothing.jsonl": "empty",
            "x.tar/bad.jsonl:1": "not JSON",
        },
    )


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_no_member_is_written_outside(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["../up.txt", "/rooted.txt", "a/../../b.txt", "c:\\w.txt", "../../" * 9 + "tmp/ketcycle-escaped.txt"]
    members = {name: name.encode() for name in names}
    folder, scratch = tmp_path / "corpus", tmp_path / "scratch"
    folder.mkdir()
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    path = folder / f"x.{kind}"
    zipped(path, members) if kind == "zip" else path.write_bytes(tarred(members))
    texts, aside = read(path)
    assert (sorted(texts.values()), aside) == (sorted(names), {})
    assert all(".." not in key for key in texts)
    assert {p.name for p in tmp_path.rglob("*")} == {"corpus", path.name, "scratch"}
    assert not Path("/tmp/ketcycle-escaped.txt").exists()  # noqa: S108  (where a naive reader would write)


def test_equal_names_are_documents_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tarred({"a.txt": b"first"})[:1024] + tarred({"a.txt": b"second"}))
    assert read(tmp_path / "x.tar") == ({"x.tar/a.txt": "first", "x.tar/a.txt~2": "second"}, {})


def test_an_encrypted_or_oddly_packed_member_costs_itself_only(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.zip", {"good.txt": b"good", "secret.txt": b"secret", "odd.txt": b"odd"})
    data = bytearray(path.read_bytes())
    for name, at, value in ((b"secret.txt", 6, 1), (b"odd.txt", 8, 98)):
        local = data.index(name) - 30
        central = data.rindex(name) - 46
        data[local + at] = data[central + at + 2] = value
    path.write_bytes(data)
    texts, aside = read(path)
    assert texts == {"x.zip/good.txt": "good"}
    assert aside["x.zip/secret.txt"] == "encrypted"
    assert aside["x.zip/odd.txt"].startswith("damaged, or packed in an unknown way (")


def test_damage_costs_what_is_behind_it_only(tmp_path: Path) -> None:
    lines = b"".join(b'{"id": "%d", "text": "line %d"}\n' % (k, k) for k in range(9000))
    path = zipped(tmp_path / "x.zip", {"a.jsonl": lines, "b.txt": b"good"})
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    texts, aside = read(path)
    assert texts["x.zip/b.txt"] == "good"
    assert texts["0"] == "line 0"
    assert "damaged" in aside.values()
    path.write_bytes(bytes(data)[:-30])  # without the list of members
    texts, aside = read(path)
    assert (texts, aside) == ({}, {"x.zip": "unreadable"})
    whole = tarred({"a.jsonl": lines, "b.txt": b"good"})
    (tmp_path / "x.tar").write_bytes(whole[: len(lines) // 2])
    texts, aside = read(tmp_path / "x.tar")
    assert (texts["0"], aside["x.tar/a.jsonl"]) == ("line 0", "damaged")


@pytest.mark.parametrize("name", ["x.zip", "x.tar"])
def test_an_archive_without_a_member_is_named(tmp_path: Path, name: str) -> None:
    zipped(tmp_path / name, {}) if name == "x.zip" else (tmp_path / name).write_bytes(tarred({}))
    assert read(tmp_path) == ({}, {name: "empty"})


def test_a_named_format_is_that_of_the_members(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.zip", {"a.dat": b'{"id": "a", "text": "t"}\n'})
    assert read(path)[1] == {"x.zip/a.dat": "unknown ending"}
    assert read(path, form="jsonl") == ({"a": "t"}, {})
    (tmp_path / "book.epub").write_bytes(path.read_bytes())  # documents of programs are no corpus
    with pytest.raises(BadInput, match=r"the format of book.epub is not known"):
        deduplicate(tmp_path / "book.epub")


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.jsonl"])
def test_the_parts_of_a_large_file_hold_what_the_whole_holds(tmp_path: Path, name: str) -> None:
    records = [json.dumps({"text": f"text {k} " + "w" * (k % 211)}) for k in range(3000)]
    ends = ["\n", "\r\n", "\n\n", "\r"]
    parts = ["".join(r + ends[k % 4] for k, r in enumerate(records[a : a + 100])).encode() for a in range(0, 3000, 100)]
    parts[7] += b"{bad\n"
    members = {f"d/{k:02d}-{'n' * (k * 7)}.jsonl": part for k, part in enumerate(parts)}
    path = tmp_path / name
    match path.suffix:
        case ".zip":
            zipped(path, members)
        case ".jsonl":
            path.write_bytes(b"".join(parts))
        case _:
            path.write_bytes(tarred(members) if name == "x.tar" else gzip.compress(tarred(members)))
    work, skipped = plan_shards("base", [path], Recipe(), 2**16)
    assert not skipped
    assert len(work) == (1 if name == "x.tar.gz" else pytest.approx(7, abs=1))
    one, many = Reader("base"), Reader("base")
    whole = [batch.to_pydict() for batch in one.batches([Piece(recognise(name, path))])]  # type: ignore[arg-type]
    cut = [batch.to_pydict() for part in work for batch in many.batches(part.pieces)]
    for column in ("doc_id", "text"):
        assert [v for batch in cut for v in batch[column]] == [v for batch in whole for v in batch[column]]
    assert len([v for batch in cut for v in batch["text"]]) == 3000
    assert many.quarantined == one.quarantined
    assert len(one.quarantined) == 1


def test_parts_of_a_tar_begin_at_headers(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(tarred({"n" * 150 + f"{k}.txt": b"x" * 1000 for k in range(10)}))
    found = spans(Found("x.tar", path, "tar"), 3000)
    assert [last for _, last in found[:-1]] == [first for first, _ in found[1:]]
    assert (found[0][0], found[-1][1]) == (0, path.stat().st_size)
    assert len(found) == 4
