"""Bodies as engines write them, and the rows that they become."""

from __future__ import annotations

import json
from typing import Any

from infra.energy.usage import Usage
from tasks.serving.gateway.exchange import KEPT_BYTES, Exchange, rows_of


def exchange(path: str, asked: Any, answer: bytes, status: int = 200) -> Exchange:
    made = Exchange("gw-1", path, json.dumps(asked).encode(), 1.7e9, 10.0, first=10.5, ended=12.0, status=status)
    made.keep(answer)
    return made


def test_prompts_times_choices_share_tokens_and_energy() -> None:
    choices = [{"index": i, "text": f"t{i}", "finish_reason": "stop"} for i in range(4)]
    usage = {"prompt_tokens": 10, "completion_tokens": 8}
    answer = json.dumps({"id": "c", "model": "m", "choices": choices, "usage": usage}).encode()
    rows = rows_of(exchange("/v1/completions", {"prompt": ["a", "b"], "n": 2}, answer), Usage(cpu_s=4.0), "known")
    assert [(r.request_id, r.prompt, r.completion) for r in rows] == [
        ("c-0", "a", "t0"), ("c-1", "a", "t1"), ("c-2", "b", "t2"), ("c-3", "b", "t3"),
    ]  # fmt: skip
    assert [r.prompt_tokens for r in rows] == [5, 0, 5, 0]
    assert [r.completion_tokens for r in rows] == [2, 2, 2, 2]
    assert [r.usage.cpu_s for r in rows if r.usage] == [1.0] * 4
    assert (rows[0].first_s, rows[0].latency_s) == (0.5, 2.0)


def test_a_streamed_conversation_with_tools_images_and_logprobs() -> None:
    parts: list[dict[str, Any]] = [
        {"id": "x", "model": "m", "choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hel"}}]},
        {"choices": [{"index": 0, "delta": {"content": "lo"}, "logprobs": {"content": [{"logprob": -1.0}]}}]},
        {"choices": [{"index": 0, "delta": {"tool_calls": [{"id": "1"}]}, "finish_reason": "tool_calls"}]},
        {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}},
    ]
    answer = b"".join(b"data: " + json.dumps(part).encode() + b"\n\n" for part in parts) + b"data: [DONE]\n\n"
    content = [{"type": "text", "text": "see "}, {"type": "image_url", "image_url": {"url": "data:..."}}]
    asked = {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": content}], "stream": True}
    (row,) = rows_of(exchange("/v1/chat/completions", asked, answer), None, "")
    assert row.prompt == "system: s\nuser: see [image_url]"
    assert row.completion == 'Hello[{"id": "1"}]'
    assert (row.finish, row.completion_logprob, row.completion_tokens) == ("tool_calls", -1.0, 2)
    assert row.usage is None


def test_embeddings_and_responses() -> None:
    answer = json.dumps({"model": "e", "data": [{"embedding": [0.1]}], "usage": {"prompt_tokens": 4}}).encode()
    rows = rows_of(exchange("/v1/embeddings", {"input": ["a", "b"]}, answer), None, "")
    assert [(r.prompt, r.completion, r.prompt_tokens) for r in rows] == [("a", "", 2), ("b", "", 2)]
    output = [{"type": "message", "content": [{"type": "output_text", "text": "yes"}]}]
    usage = {"input_tokens": 3, "output_tokens": 1}
    answer = json.dumps({"id": "r", "model": "m", "output": output, "usage": usage}).encode()
    (row,) = rows_of(exchange("/v1/responses", {"input": "q"}, answer), None, "")
    assert (row.prompt, row.completion, row.prompt_tokens, row.completion_tokens) == ("q", "yes", 3, 1)


def test_what_cannot_be_read_is_a_row_all_the_same() -> None:
    for answer in (b"", b"<html>", b"data: {bad\n\n", b"[1]", b'{"choices": [1, {"index": "x", "logprobs": 3}]}'):
        rows = rows_of(exchange("/v1/completions", [1], answer, 500), None, "", "m1")
        assert {(r.model_version, r.finish, r.status) for r in rows} == {("m1", "failed", 500)}
    made = exchange("/v1/completions", {"prompt": [1, 2]}, b"x" * (KEPT_BYTES + 5))
    assert len(made.answer) == KEPT_BYTES
    assert rows_of(made, None, "")[0].prompt == "1 2"
    assert not exchange("/v1/models", {}, b"").logged
