"""Evaluation sets as people have them."""

import bz2
import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.errors import BadInput
from tasks.preprocessing.evaluation import read_sets

SQUAD = {"version": "2", "data": [{"paragraphs": [{"context": "c", "qas": [{"question": "Who?", "id": "q1"}]}]}]}


def write(folder: Path, name: str) -> Path:
    path = folder / name
    match name:
        case "a.jsonl":
            path.write_text('{"question": "Who?", "answer": 1}\n')
        case "a.jsonl.bz2":
            path.write_bytes(bz2.compress(b'{"prompt": "Who?"}\n'))
        case "a.csv":
            path.write_bytes("Question;Answer\nWho?;é\n".encode("latin-1"))
        case "a.parquet":
            pq.write_table(
                pa.table({"question": pa.array(["Who?"]).dictionary_encode(), "choices": [["a", "b"]]}), path
            )
        case "a.json":
            path.write_text(json.dumps(SQUAD))
        case "a.zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("test/a.jsonl", '{"question": "Who?"}')
        case "a.txt":
            path.write_text("Who?")
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.bz2", "a.csv", "a.parquet", "a.json", "a.zip", "a.txt"])
def test_every_format_gives_the_questions(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name)
    for given in (path, tmp_path, tmp_path / "a.*"):
        assert [(of, text) for of, _, text in read_sets({"mine": str(given)})] == [("mine", "Who?")]


def test_a_set_without_a_text_says_what_was_tried_and_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"frage": "Wer?"}\n')
    assert [text for *_, text in read_sets({"mine": f"{tmp_path}/x.jsonl::frage"})] == ["Wer?"]
    with pytest.raises(BadInput, match=r"mine: no text in .*x\.jsonl; name its column .*fields: frage"):
        list(read_sets({"mine": str(tmp_path / "x.jsonl")}))
    with pytest.raises(BadInput, match="mine: there is no"):
        list(read_sets({"mine": str(tmp_path / "no.jsonl")}))
