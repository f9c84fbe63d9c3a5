"""Request logs as other programs write them."""

from __future__ import annotations

import gzip
import json
import random
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli import app
from infra.errors import BadInput
from infra.lake import Lake
from tasks.serving.foreign import read_log
from tasks.serving.request_log import read_requests

LITELLM = {
    "id": "chatcmpl-1",
    "litellm_call_id": "call-1",
    "startTime": 1700000000.5,
    "endTime": 1700000002.0,
    "model": "gpt-x",
    "messages": [{"role": "user", "content": "hi"}],
    "response": {"choices": [{"message": {"role": "assistant", "content": "hello"}, "finish_reason": "length"}]},
    "prompt_tokens": 3,
    "completion_tokens": 2,
    "end_user": "ada",
    "status": "success",
    "error_str": None,
}


def attribute(key: str, **value: Any) -> dict[str, Any]:
    return {"key": key, "value": value}


SPAN: dict[str, Any] = {
    "spanId": "ab",
    "name": "chat gpt-y",
    "startTimeUnixNano": "1700000000000000000",
    "endTimeUnixNano": "1700000001500000000",
    "attributes": [
        attribute("gen_ai.operation.name", stringValue="chat"),
        attribute("gen_ai.request.model", stringValue="gpt-y"),
        attribute("gen_ai.response.id", stringValue="r-1"),
        attribute("gen_ai.usage.input_tokens", intValue="7"),
        attribute("gen_ai.usage.output_tokens", intValue="5"),
        attribute("gen_ai.response.finish_reasons", arrayValue={"values": [{"stringValue": "stop"}]}),
        attribute(
            "gen_ai.input.messages",
            stringValue=json.dumps([{"role": "user", "parts": [{"type": "text", "content": "weather?"}]}]),
        ),
        attribute(
            "gen_ai.output.messages",
            stringValue=json.dumps([{"role": "assistant", "parts": [{"type": "text", "content": "rain"}]}]),
        ),
    ],
}
OTLP = {"resourceSpans": [{"scopeSpans": [{"spans": [SPAN, {"spanId": "db", "attributes": []}]}]}]}
VLLM = """INFO 03-04 05:06:07 [logger.py:43] Received request cmpl-a-0: prompt: 'it\\'s "a" test', params: x(n=1)
INFO 03-04 05:06:08 [async_llm.py:270] Added request cmpl-a-0.
INFO 03-04 05:06:09 [logger.py:70] Generated response cmpl-a-0: output: 'fine\\n', output_token_ids: [1, 2]
"""


def test_a_log_of_litellm(tmp_path: Path) -> None:
    place = tmp_path / "log.jsonl.gz"
    place.write_bytes(gzip.compress((json.dumps(LITELLM) + "\n\n" + json.dumps(LITELLM)).encode()))
    rows = read_log(str(place))
    assert len(rows) == 2
    row = rows[0]
    assert (row.request_id, row.model_version, row.label) == ("call-1", "gpt-x", "ada")
    assert (row.prompt, row.completion) == ("user: hi", "hello")
    assert (row.prompt_tokens, row.completion_tokens, row.finish) == (3, 2, "length")
    assert (row.received, row.latency_s) == (1700000000.5, 1.5)


@pytest.mark.parametrize("lines", [True, False])
def test_spans_of_opentelemetry(tmp_path: Path, lines: bool) -> None:
    place = tmp_path / "spans.json"
    flat = {a["key"]: next(iter(a["value"].values())) for a in SPAN["attributes"] if "finish" not in a["key"]}
    console = {
        "name": "chat",
        "attributes": flat,
        "start_time": "2023-11-14T22:13:20Z",
        "end_time": "2023-11-14T22:13:21.5Z",
    }
    place.write_text(json.dumps(OTLP) if lines else json.dumps([console]))
    (row,) = read_log(str(place))
    assert (row.request_id, row.model_version, row.path) == ("r-1", "gpt-y", "chat")
    assert (row.prompt, row.completion) == ("user: weather?", "rain")
    assert (row.prompt_tokens, row.completion_tokens, row.finish) == (7, 5, "stop")
    assert (row.received, row.latency_s) == (1.7e9, 1.5)


def test_lines_of_vllm(tmp_path: Path) -> None:
    place = tmp_path / "vllm.log"
    place.write_text(VLLM)
    (row,) = read_log(str(place), datetime(2026, 11, 29, tzinfo=UTC))
    assert (row.request_id, row.prompt, row.completion) == ("cmpl-a-0", 'it\'s "a" test', "fine\n")
    assert datetime.fromtimestamp(row.received, UTC) == datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
    assert row.latency_s == 2.0


def test_plain_columns_of_parquet(tmp_path: Path) -> None:
    times = [datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2)]  # noqa: DTZ001
    rows = [
        {"question": "a?", "answer": "b", "timestamp": times[0]},
        {"question": None, "answer": "c", "timestamp": times[1]},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "log.parquet")
    (row,) = read_log(str(tmp_path / "log.parquet"))
    assert (row.prompt, row.completion, row.received) == ("a?", "b", times[0].timestamp())
    assert row.prompt_tokens is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{bad\n{worse", "line 1 of"),
        (b'{"colour": "red"}', "no record of .* holds a prompt; fields there: colour"),
        (b"", "holds a prompt; fields there: none"),
        (b"PAR1nonsense", "damaged Parquet"),
        (b"\x1f\x8bnonsense", "damaged gzip"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    place = tmp_path / "log"
    place.write_bytes(content)
    with pytest.raises(BadInput, match=says):
        read_log(str(place))
    with pytest.raises(BadInput, match="cannot be read"):
        read_log(str(tmp_path / "none"))


def test_the_command_names_the_change_and_keeps_the_rows(tmp_path: Path) -> None:
    rng, now = random.Random(0), time.time()
    calm = ["how do I return a parcel", "where is my parcel", "my parcel is late", "change the address of a parcel"]
    other = ["quark confinement on a lattice", "gauge symmetry breaking", "a meson's decay width", "gluon jets at rest"]
    records = [
        {
            "prompt": rng.choice(calm if i < 180 else other),
            "completion": "x",
            "created": now - 600 + i,
            "id": f"r{i:03d}",
        }
        for i in range(300)
    ]
    place = tmp_path / "log.jsonl"
    old = {"prompt": "before all", "created": now - 90 * 86400}  # older than the log is kept
    place.write_text("\n".join(json.dumps(record) for record in [old, *records]))
    given = ["watch", "--log", str(place), "--window", "20", "--keep", "--home", str(tmp_path / "home"), "--json"]
    result = CliRunner().invoke(app, [*given, "--log-text", "plain"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert "embedding" in found["watched"]
    changes = [w["change"] for w in found["windows"] if w["change"] is not None]
    assert changes == [180]
    kept = read_requests(Lake(tmp_path / "home" / "lake"))
    assert kept["prompt"].to_pylist() == [record["prompt"] for record in records]


def test_what_cannot_be_read_of_a_log_is_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"prompt": f"question\u2028{k}", "time": 1.7e9 - k} for k in range(3)]  # the newest first
    lines = [*(json.dumps(row, ensure_ascii=False) for row in rows), '{"event": "start"}', '{"prompt": "torn']
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    assert [row.prompt for row in read_log(str(tmp_path / "log.jsonl"))] == [f"question\u2028{k}" for k in (2, 1, 0)]
    assert "line 5 of" in caplog.text
    assert "1 of 4 records" in caplog.text
