import gzip
import io

import pytest
from warcio.archiveiterator import ArchiveIterator

from tasks.corpus.crawling.archive import (
    AGAIN,
    TABLE,
    Archive,
    Exchange,
    Row,
    Table,
    archived,
    finish_open_files,
    read_table,
    summary,
)

INFO = {"software": "ketcycle/test", "robots": "obeyed"}


def exchange(name, body=b"<p>text</p>"):
    asked = [("User-Agent", "ketcycle/test"), ("Authorization", "Basic secret")]
    answered = [("Content-Type", "text/html"), ("Set-Cookie", "a=secret"), ("Transfer-Encoding", "chunked")]
    return Exchange(f"https://a.example/{name}?q=1", "", asked, "200 OK", answered, body, "192.0.2.1", 0.25)


def test_records_are_members_and_secrets_are_left_out(tmp_path):
    archive = Archive(tmp_path, INFO)
    archive.add(exchange("one"))
    assert [p.name for p in tmp_path.iterdir()] == ["ketcycle-00000.warc.gz.open"]
    archive.close()
    (path,) = tmp_path.iterdir()
    with path.open("rb") as stream:
        iterator = ArchiveIterator(stream, check_digests=True)
        records = [(r.rec_type, iterator.get_record_offset(), r.content_stream().read()) for r in iterator]
        assert iterator.err_count == 0
    assert [kind for kind, _, _ in records] == ["warcinfo", "response", "request", "metadata"]
    whole = path.read_bytes()
    for _, offset, _ in records:  # each record can be read alone
        assert gzip.GzipFile(fileobj=io.BytesIO(whole[offset:])).read(9) == b"WARC/1.1\r"
    text = gzip.decompress(whole)
    assert b"secret" not in text
    assert b"Transfer-Encoding" not in text
    assert b"GET /one?q=1 HTTP/1.1\r\nHost: a.example\r\n" in text
    assert archived(tmp_path) == {"https://a.example/one?q=1": path.name}


def test_a_file_is_followed_by_the_next_one(tmp_path):
    archive = Archive(tmp_path, INFO, file_bytes=1)
    assert [archive.add(exchange(str(k))) for k in range(3)] == [f"ketcycle-0000{k}.warc.gz" for k in range(3)]
    archive.close()
    again = Archive(tmp_path, INFO)
    assert again.add(exchange("4")) == "ketcycle-00003.warc.gz"


@pytest.mark.parametrize("lost", [1, 30, 200, 400])
def test_what_was_left_open_is_cut_after_its_last_whole_record(tmp_path, lost):
    archive = Archive(tmp_path, INFO)
    for k in range(5):
        archive.add(exchange(str(k)))
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-lost])  # killed: nothing was finished
    finish_open_files(tmp_path)
    (finished,) = tmp_path.iterdir()
    assert finished.name == "ketcycle-00000.warc.gz"
    assert whole.startswith(finished.read_bytes())
    gzip.decompress(finished.read_bytes())
    assert len(archived(tmp_path)) in (4, 5)


@pytest.mark.parametrize("rubbish", [b"", b"\x1f\x8b", b"no gzip at all"])
def test_an_open_file_without_a_record_goes(tmp_path, rubbish):
    (tmp_path / "ketcycle-00000.warc.gz.open").write_bytes(rubbish)
    finish_open_files(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_pages_before_the_damage_of_a_file_are_known(tmp_path):
    archive = Archive(tmp_path, INFO)
    for k in range(5):
        archive.add(exchange(str(k), body=bytes(range(256)) * 20))
    archive.close()
    (path,) = tmp_path.iterdir()
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2 :] = b"\0" * (len(whole) - len(whole) // 2)
    path.write_bytes(whole)
    assert 0 < len(archived(tmp_path)) < 5


def test_the_newest_row_of_an_address_counts_and_half_a_line_does_not(tmp_path):
    table = Table(tmp_path)
    table.add(Row("https://a.example/1", "page", "timeout"))
    table.add(Row("https://a.example/2", "page", "robots", detail='said "no", twice\r\nand so on'))
    table.add(Row("https://a.example/1", "page", "fetched", 200, bytes=10, seconds=0.5))
    table.add(Row("https://a.example/1", "page", "duplicate"))
    table.close()
    with (tmp_path / TABLE).open("a") as stream:
        stream.write("https://a.example/3,page,fet")
    rows = {(row.url, row.outcome): row for row in read_table(tmp_path)}
    assert {outcome for _, outcome in rows} == {"fetched", "robots", "duplicate"}
    assert rows["https://a.example/1", "fetched"].seconds == 0.5
    assert rows["https://a.example/2", "robots"].detail == 'said "no", twice and so on'
    found = summary(tmp_path)
    assert (found["fetched"], found["bytes"], found["again"]) == (1, 10, 0)
    assert found["hosts"] == {"a.example": {"pages": 1, "bytes": 10, "seconds": 0.5}}
    assert "timeout" in AGAIN
