"""What real clients send and other servers were reported for, asked of one model with a byte-fallback tokenizer."""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from infra.lake import Lake
from tasks.model.causal import load_model, load_tokenizer
from tasks.serving.client import read_requests, running_server

PAGE = "http://localhost:5173"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama whose most probable tokens are letters, so that a greedy text is calm."""
    made = tmp_path_factory.mktemp("fallback")
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", *map(chr, range(97, 123))]
    pieces += ["▁the", "▁a", "▁module", "▁returns", "ing", "é", "日", "本"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
    tokenizer.save_pretrained(made)
    config = LlamaConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.lm_head.weight.data[2:259] *= 0.05
    model.save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def client(folder: Path, home: Path) -> Iterator[httpx.Client]:
    options = ["--allow-origin", PAGE]
    with (
        running_server(folder, home, "kinds", flush_s=0.2, options=options) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=120) as asking,
    ):
        yield asking


def completion(client: httpx.Client, **asked: Any) -> dict[str, Any]:
    response = client.post("/v1/completions", json={"prompt": "the module", **asked})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()["choices"][0]
    return answer


def figure(client: httpx.Client, name: str) -> float:
    return next(float(line.split()[1]) for line in client.get("/metrics").text.splitlines() if line.startswith(name))


def test_texts_that_cannot_be_decoded_token_by_token_do_not_end_their_neighbours(client: httpx.Client) -> None:
    calm: dict[str, Any] = {"max_tokens": 120, "temperature": 0}
    alone = completion(client, **calm)["text"]
    with ThreadPoolExecutor(8) as pool:
        hot = [pool.submit(completion, client, max_tokens=120, temperature=2, seed=i) for i in range(4)]
        beside = [pool.submit(completion, client, **calm) for _ in range(4)]
        assert {future.result()["text"] for future in beside} == {alone}
        assert all(future.result()["finish_reason"] in ("stop", "length") for future in hot)


NULLABLE = ["max_tokens", "temperature", "top_p", "n", "stop", "seed", "stream", "stream_options", "logprobs", "echo"]
NULLABLE += ["best_of", "presence_penalty", "frequency_penalty", "logit_bias", "suffix", "user", "model", "tools"]


def test_null_is_the_default_of_every_parameter(client: httpx.Client) -> None:
    completion(client, **dict.fromkeys(NULLABLE))
    turns = [{"role": "user", "content": "a"}]
    names = [*NULLABLE, "max_completion_tokens", "top_logprobs", "response_format", "tool_choice", "metadata"]
    body = {"messages": turns, "max_tokens": 2, **{n: None for n in names if n != "max_tokens"}}
    del body["echo"], body["best_of"], body["suffix"]
    assert client.post("/v1/chat/completions", json=body).status_code == 200


@pytest.mark.parametrize(
    "neutral",
    [
        {"tools": [], "tool_choice": "none", "parallel_tool_calls": True},
        {"logit_bias": {}, "suffix": "", "presence_penalty": 0.0, "frequency_penalty": 0},
        {"response_format": {"type": "text"}, "functions": [], "function_call": "auto"},
        {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "best_of": 1, "stop": [], "user": ""},
        {"metadata": {"a": "b"}, "store": False, "service_tier": "auto"},
        {"stream_options": {"include_usage": True, "include_obfuscation": False}},
        {"stop": "", "prompt_cache_retention": "24h", "reasoning_effort": "none", "top_p": 0},
        {"stop": [None, ""], "logprobs": False, "stop_token_ids": [], "chat_template_kwargs": {}},
        {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "none"},
        {"functions": [{"name": "f"}], "function_call": "none", "prompt": None},
    ],
)
def test_values_that_ask_for_nothing_are_accepted(client: httpx.Client, neutral: dict[str, Any]) -> None:
    assert completion(client, max_tokens=2, **neutral)["finish_reason"]


def test_an_answer_can_be_sent_back(client: httpx.Client) -> None:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 3}
    message = client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]
    message |= {"refusal": None, "tool_calls": None, "function_call": None, "audio": None, "annotations": []}
    turns = [{"role": "developer", "content": "b"}, *body["messages"], message, {"role": "user", "content": "c"}]
    turns.append({"role": "assistant", "content": None})
    again = client.post("/v1/chat/completions", json={**body, "messages": turns})
    assert again.status_code == 200, again.text


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "text only, not a part of"),
        ({"role": "tool", "content": "x", "tool_call_id": "1"}, "does not offer tools"),
        ({"role": "user"}, "content is required"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages.0.content.0.text: is required"),
        ({"role": "user", "content": ["a"]}, "messages.0.content.0: Input should be a valid dictionary"),
        ({"role": "user", "content": "x", "tool_calls": [{"id": "1"}]}, "tool_calls: this server does not offer it"),
    ],
)
def test_a_message_that_cannot_be_read_is_named(client: httpx.Client, message: dict[str, Any], says: str) -> None:
    response = client.post("/v1/chat/completions", json={"messages": [message]})
    assert response.status_code == 400
    assert says in response.json()["error"]["message"]
    assert response.json()["error"]["param"].startswith("messages.0")


def test_prompts_of_token_ids_are_read_as_they_are(client: httpx.Client, folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    ids = tokenizer.encode("the module", add_special_tokens=False)
    asked: dict[str, Any] = {"max_tokens": 6, "temperature": 0}
    expected = completion(client, **asked)["text"]
    assert completion(client, **{**asked, "prompt": [1, *ids]})["text"] == expected
    body = {**asked, "prompt": [[1, *ids], ids]}
    answer = client.post("/v1/completions", json=body).json()
    assert answer["choices"][0]["text"] == expected
    assert answer["usage"]["prompt_tokens"] == 2 * len(ids) + 1
    assert completion(client, prompt=ids, echo=True, max_tokens=0)["text"] == "the module"


@pytest.mark.parametrize("text", ["the module", " lead", "a\n\tb", "naïve café 😀 日本 ok", "日", ""])
def test_echoed_tokens_joined_are_the_text_and_begin_at_their_offsets(client: httpx.Client, text: str) -> None:
    choice = completion(client, prompt=text, max_tokens=8, echo=True, logprobs=2, temperature=1.5, seed=4)
    found = choice["logprobs"]
    assert choice["text"].startswith(text)
    assert "".join(found["tokens"]) == choice["text"]
    for token, offset in zip(found["tokens"], found["text_offset"], strict=True):
        assert choice["text"][offset : offset + len(token)] == token
    assert {len(values) for values in found.values()} == {len(found["tokens"])}
    assert all(len(top) == 2 for top in found["top_logprobs"])
    for logprob, top in zip(found["token_logprobs"], found["top_logprobs"], strict=True):
        assert logprob <= max(top.values()), "a token is at most as probable as the most probable one"


def test_a_harness_can_score_a_continuation(client: httpx.Client, folder: Path) -> None:
    """What lm-evaluation-harness sends, and computes of the answer, beside the model's own figures."""
    tokenizer, model = load_tokenizer(folder), load_model(folder)
    context = tokenizer.encode("the module", add_special_tokens=False)
    ids = context + tokenizer.encode(" returns a", add_special_tokens=False)
    asked = {"prompt": [ids], "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True, "seed": 1234}
    found = completion(client, **asked)["logprobs"]
    with torch.no_grad():
        said = torch.log_softmax(model(torch.tensor([ids])).logits[0, :-1], -1)
    wanted = [float(row[token]) for row, token in zip(said, ids[1:], strict=True)]
    assert found["token_logprobs"][0] is None
    assert found["top_logprobs"][0] is None
    assert found["token_logprobs"][1:-1] == pytest.approx(wanted, abs=1e-5)
    best = [max(top.values()) for top in found["top_logprobs"][1:-1]]
    assert best == pytest.approx(said.max(-1).values.tolist(), abs=1e-5)
    greedy = said[:, :].argmax(-1).tolist()
    for token, logprob, top, likely in zip(ids[1:], found["token_logprobs"][1:], best, greedy, strict=False):
        assert (logprob == top) == (token == likely), "equal floats say that a token was the greedy choice"


def test_the_first_space_of_a_completion_is_not_lost(client: httpx.Client) -> None:
    answers = [completion(client, max_tokens=1, temperature=2, seed=seed, logprobs=0) for seed in range(40)]
    assert any(answer["text"].startswith(" ") for answer in answers)
    assert all("".join(answer["logprobs"]["tokens"]) == answer["text"] for answer in answers)


def test_a_client_that_leaves_without_streaming_stops_the_model(client: httpx.Client, home: Path) -> None:
    port = client.base_url.port
    assert port is not None
    before = figure(client, "ketcycle_completion_tokens_total ")
    asked = {"prompt": ["the"] * 32, "n": 2, "max_tokens": 2048, "temperature": 1, "user": "gone"}
    body = json.dumps(asked).encode()
    with socket.create_connection(("127.0.0.1", port)) as asking:
        head = (
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        )
        asking.sendall(head % len(body) + body)
        while figure(client, "ketcycle_running ") == 0:
            time.sleep(0.02)
    end = time.monotonic() + 30
    while figure(client, "ketcycle_waiting ") or figure(client, "ketcycle_running "):
        assert time.monotonic() < end, "the model still writes"
        time.sleep(0.05)
    assert figure(client, "ketcycle_completion_tokens_total ") - before < 64 * 2048 / 4
    while len(rows := [r for r in read_requests(Lake(home / "lake")).to_pylist() if r["label"] == "gone"]) < 64:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert "cancelled" in {row["finish"] for row in rows}
    assert math.isclose(figure(client, "ketcycle_log_rows_lost_total "), 0)


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"stop": [5]}, "stop", "stop strings"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x", "integer"),
        ({"stream_options": []}, "stream_options", "Input should be a valid dictionary"),
        ({"temperature": "hot"}, "temperature", "number"),
        ({"tool_choice": "required"}, "tool_choice", 'send "none" or "auto"'),
    ],
)
def test_a_wrong_value_is_named_by_its_parameter(
    client: httpx.Client, body: dict[str, Any], param: str, says: str
) -> None:
    error = client.post("/v1/completions", json={"prompt": "a", **body}).json()["error"]
    assert error["param"] == param
    assert says in error["message"]
    assert "str]" not in error["message"]


def test_who_leaves_while_waiting_makes_room_for_others(client: httpx.Client) -> None:
    """Sixteen long texts take all rows; sixty-four more wait, and their client leaves."""
    body = json.dumps(
        {
            "prompt": ["the"] * 64,
            "max_tokens": 30_000,
            "temperature": 1,
            "logit_bias": {"0": -100, "1": -100, "2": -100},
        }
    )
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    asked = f"{head}\r\n\r\n{body}".encode()
    place = ("127.0.0.1", client.base_url.port or 0)
    with socket.create_connection(place) as staying:
        staying.sendall(asked)
        while figure(client, "ketcycle_running ") < 16:
            time.sleep(0.02)
        with socket.create_connection(place) as leaving:
            leaving.sendall(asked)
            while figure(client, "ketcycle_waiting ") < 128:
                time.sleep(0.02)
        end = time.monotonic() + 20
        while figure(client, "ketcycle_waiting ") > 64:
            assert time.monotonic() < end, "those who left still hold their places"
            time.sleep(0.05)
        assert figure(client, "ketcycle_running ") == 16
    while figure(client, "ketcycle_waiting "):
        assert time.monotonic() < end + 20
        time.sleep(0.05)


def test_a_page_of_an_allowed_origin_may_ask(client: httpx.Client) -> None:
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    preflight = client.options("/v1/completions", headers=asked)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == PAGE
    assert preflight.headers["access-control-allow-credentials"] == "true", "fetch(..., {credentials: 'include'})"
    answer = client.post("/v1/completions", json={"prompt": "a", "max_tokens": 1}, headers={"Origin": PAGE})
    assert answer.headers["access-control-allow-origin"] == PAGE
    other = client.options("/v1/completions", headers={**asked, "Origin": "http://elsewhere.example"})
    assert "access-control-allow-origin" not in other.headers


def test_a_life_check_may_ask_for_the_head_alone(client: httpx.Client) -> None:
    assert client.head("/health").status_code == 200
