import io
from typing import Any

import pytest

from tasks.corpus.tabular.csv_rows import csv_rows
from tasks.corpus.tabular.json_records import Limits

ONE, TWO, THREE = "first text, with a comma", "second; text", "third text"


def read(data: bytes, delimiter: str = "", text: str = "") -> tuple[list[dict[str, Any]], list[tuple[str, ...]]]:
    asides: list[tuple[str, ...]] = []
    rows = csv_rows(io.BytesIO(data), delimiter, Limits(10_000, text), lambda *what: asides.append(what))
    return [row.values for row in rows], asides


@pytest.mark.parametrize(
    "table",
    [
        f'id,text\n1,"{ONE}"\n2,{TWO}\n',
        f"id;text\n1;{ONE}\n2;{TWO.replace(';', ',')}\n",
        f"id|text\n1|{ONE}\n2|{TWO}\n",
        f"id\ttext\n1\t{ONE}\n2\t{TWO}\n",
        f'sep=;\nid;text\n1;{ONE}\n2;"{TWO}"\n',
        f'\n\nid,text\n\n1,"{ONE}"\n\n2,{TWO}\n\n',
        f'id,text,\n1,"{ONE}",\n2,{TWO},\n',
        f'id,text\n1,"{ONE}",\n2,{TWO},\n',
        f'id,text,more\n1,"{ONE}"\n2,{TWO},x\n',
        f"id,text\n1,'{ONE}'\n2,'{TWO}'\n",
        f'"id, number";"text"\n1;{ONE}\n2;"{TWO}"\n',
        f'id,text\r1,"{ONE}"\r2,{TWO}\r',
        f'\ufeffid,text\r\n1,"{ONE}"\r\n2,{TWO}\r\n',
        f'text\n"{ONE}"\n{TWO}\n',
        f"text\n{ONE}\n{TWO}\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le"])
def test_every_dialect_gives_its_texts(table: str, encoding: str) -> None:
    if encoding == "utf-16-le" and table[0] in "\n\ufeff":
        return
    rows, asides = read(table.encode(encoding))
    assert rows[0]["text"] == ONE
    assert rows[1]["text"].replace(",", ";") == TWO
    assert not asides


def test_marks_that_are_escaped_or_within_a_cell_are_text() -> None:
    assert read(b'id,text\n1,"a \\"b\\", c"\n2,d\n')[0][0]["text"] == 'a "b", c'
    assert read(b'id,text\n1,"a ""b"", c"\n2,d\n')[0][0]["text"] == 'a "b", c'
    assert read(b'id,text\n1,say "b" c\n2,d\n')[0][0]["text"] == 'say "b" c'
    assert [row["text"] for row in read(b'id\ttext\n1\t"a\n2\tb" c\n', "\t")[0]] == ['"a', 'b" c']


def test_what_is_before_the_header_and_rows_that_do_not_fit_are_put_aside() -> None:
    rows, asides = read(b"# made today\nid,text\n1,a\n2\n3,b,c,d\n4,e\n")
    assert [row["text"] for row in rows] == ["a", "e"]
    assert [(place, reason) for place, reason, _, _ in asides] == [
        ("", "before the header"),
        (":row 2", "other number of cells"),
        (":row 3", "other number of cells"),
    ]
    assert read(b"id,body text\n1,a\n") == ([], [("", "no text column", COLUMNS, "id,body text")])
    assert read(b"id,body text\n1,a\n", text="body text")[0] == [{"id": "1", "body text": "a"}]


COLUMNS = "columns: id, body text; name one with --text-column"


def test_a_mark_that_is_never_closed_costs_its_line_only() -> None:
    lines = [f'{k},"text {k}, quoted"' for k in range(300)]
    lines[250] = '250,"open'
    rows, asides = read(("id,text\n" + "\n".join(lines) + "\n").encode())
    assert [int(row["id"]) for row in rows] == [k for k in range(300) if k != 250]
    assert [reason for _, reason, _, _ in asides] == ["a quotation mark is never closed"]


def test_a_long_line_and_legacy_encodings() -> None:
    rows, asides = read(b"id,text\n1," + b"x" * 20_000 + b"\n2,caf\xe9\n")
    assert [row["text"] for row in rows] == ["caf\u00e9"]
    assert [reason for _, reason, _, _ in asides] == ["line too long"]
