import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.errors import BadInput
from tasks.finetuning.conversations import Message, read_preferences, read_rows

USER, ANSWER = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}
GOOD = json.dumps({"messages": [USER, ANSWER]})


def written(tmp_path: Path, *lines: Any) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def test_the_three_forms_of_a_row_are_read(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {"messages": [USER, ANSWER], "id": 7},
        {"prompt": "2+2?", "completion": " 4"},
        {"prompt": [USER], "completion": [ANSWER]},
        "",
        {"text": "Four."},
    )
    chat, plain, split, text = read_rows(path)
    assert chat.messages == (Message("user", "2+2?"), Message("assistant", "4"))
    assert (plain.prompt, plain.completion) == ("2+2?", " 4")
    assert split.messages == chat.messages
    assert (split.learnt_from, chat.learnt_from) == (1, 0)
    assert (text.prompt, text.completion, text.where) == ("", "Four.", f"{path} line 5")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"messages": [', r"not JSON \(Expecting value at column 15\)"),
        ("[1, 2]", "a JSON object expected, found a list"),
        ({"question": "a"}, "a row has messages, or prompt and completion, or text; this one has question"),
        ({}, "this one has nothing"),
        ({"text": "a", "messages": [USER, ANSWER]}, "this one has messages, text"),
        ({"prompt": "a"}, "prompt without completion"),
        ({"completion": "a"}, "completion without prompt"),
        ({"prompt": "a", "completion": [ANSWER]}, "both texts or both lists of messages, found a text and a list"),
        ({"prompt": "a", "completion": " "}, "completion is empty"),
        ({"text": None}, "text should be a text, found null"),
        ({"messages": []}, "messages should be a list of messages"),
        ({"messages": [USER]}, "no answer of the assistant"),
        ({"messages": [USER, {**ANSWER, "content": ""}]}, "no answer of the assistant"),
        ({"messages": ["hello", ANSWER]}, r"messages\[0\] should be"),
        ({"messages": [{"from": "human", "value": "x"}, ANSWER]}, r"messages\[0\] should be .* with from, value"),
        ({"messages": [USER, {**ANSWER, "role": "x" * 999}]}, r"messages\[1\].role is 'x{39}; it should be one of"),
        (
            {"messages": [USER, {**ANSWER, "content": "\udc80"}]},
            r"messages\[1\].content has half of a surrogate pair at 0",
        ),
        ({"prompt": "a \ud800", "completion": "b"}, "prompt has half of a surrogate pair at 2"),
        ("[" * 100_000, "nested too deeply"),
        ('{"text": ' + 5000 * "1" + "}", "a number too long"),
        ({"messages": [USER, {**ANSWER, "role": "bot"}]}, r"messages\[1\].role is 'bot'; it should be one of system"),
        ({"messages": [USER, {**ANSWER, "content": 4}]}, r"messages\[1\].content should be a text, found a number"),
    ],
)
def test_a_malformed_row_is_named_by_file_and_line(tmp_path: Path, line: Any, said: str) -> None:
    path = written(tmp_path, GOOD, "", line)
    with pytest.raises(BadInput, match=said) as caught:
        read_rows(path)
    assert str(caught.value).startswith(f"{path} line 3: ")


def test_files_that_hold_no_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cannot be read \(No such file"):
        read_rows(tmp_path / "none.jsonl")
    with pytest.raises(BadInput, match="has no row"):
        read_rows(written(tmp_path, ""))
    (tmp_path / "latin.jsonl").write_bytes(GOOD.encode() + b'\n{"text": "caf\xe9"}\n')
    with pytest.raises(BadInput, match=r"line 2: byte 13 is not UTF-8"):
        read_rows(tmp_path / "latin.jsonl")
    (tmp_path / "one.jsonl").write_text(json.dumps([{"text": "a"}], indent=1))
    with pytest.raises(BadInput, match=r"line 1: .*one JSON document, give one object a line"):
        read_rows(tmp_path / "one.jsonl")


def test_packed_files_are_read_and_damage_is_said(tmp_path: Path) -> None:
    packed = gzip.compress(100 * (GOOD + "\n").encode())
    (tmp_path / "rows.jsonl.gz").write_bytes(packed)
    assert len(read_rows(tmp_path / "rows.jsonl.gz")) == 100
    (tmp_path / "cut.jsonl.gz").write_bytes(packed[:-9])
    with pytest.raises(BadInput, match=r"cut\.jsonl\.gz cannot be read \("):
        read_rows(tmp_path / "cut.jsonl.gz")
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "rows.parquet")
    with pytest.raises(BadInput, match=r"rows\.parquet is no text in UTF-8; give JSON lines"):
        read_rows(tmp_path / "rows.parquet")


def test_preferences_are_checked_alike(tmp_path: Path) -> None:
    pair = {"prompt": "2+2?", "chosen": "4", "rejected": "5"}
    (found,) = read_preferences(written(tmp_path, pair))
    assert (found.prompt, found.chosen, found.rejected) == ("2+2?", "4", "5")
    for changed, said in (
        ({"rejected": "4"}, "the same answer"),
        ({"rejected": [ANSWER]}, "all texts or all lists of messages, found a list, a text"),
        ({"chosen": ""}, "chosen is empty"),
    ):
        with pytest.raises(BadInput, match=said):
            read_preferences(written(tmp_path, {**pair, **changed}))
    with pytest.raises(BadInput, match="this one lacks chosen, rejected"):
        read_preferences(written(tmp_path, {"prompt": "a"}))
