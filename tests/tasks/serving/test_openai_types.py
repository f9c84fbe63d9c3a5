"""The server's answers and parameters against OpenAI's published types, as the package `openai` carries them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import httpx
import pytest
from openai import types
from openai.types import chat, completion_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.shared import ErrorObject
from pydantic import BaseModel

from tasks.model.causal import load_tokenizer
from tasks.serving.client import running_server

# OpenAI sends null in these places too, which its types do not say: the pieces of a stream have no reason to finish
# yet, and the first token of an echoed prompt of tokens has no token before it.
NULLS = {"Completion.choices.finish_reason", "Completion.choices.logprobs.token_logprobs"}
NULLS |= {"Completion.choices.logprobs.top_logprobs"}


@pytest.fixture(scope="module")
def client(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    shutil.copytree(tiny_model, folder)
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    tokenizer.save_pretrained(folder)
    with (
        running_server(folder, tmp_path_factory.mktemp("home"), "types") as url,
        httpx.Client(base_url=url, trust_env=False, timeout=60) as asking,
    ):
        yield asking


def faults(value: Any, kind: Any, where: str) -> list[str]:
    """Return where a value of JSON is not of a type: another type, or a required field that is missing."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        tried = [faults(value, each, where) for each in inside]
        return [] if [] in tried else min(tried, key=len)
    if value is None and where in NULLS:
        return []
    if origin is Literal:
        return [] if value in inside else [f"{where}: {value!r} is none of {inside}"]
    if origin is list:
        if not isinstance(value, list):
            return [f"{where}: {value!r} is no list"]
        return [fault for each in value for fault in faults(each, inside[0], where)]
    if origin is dict:
        if not isinstance(value, dict):
            return [f"{where}: {value!r} is no object"]
        return [fault for each in value.values() for fault in faults(each, inside[1], where)]
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        if not isinstance(value, dict):
            return [f"{where}: {value!r} is no object"]
        missing = [
            f"{where}: {n} is missing" for n, f in kind.model_fields.items() if f.is_required() and n not in value
        ]
        fields = [(name, field.annotation) for name, field in kind.model_fields.items() if name in value]
        return missing + [fault for name, hint in fields for fault in faults(value[name], hint, f"{where}.{name}")]
    if kind is Any or kind is object:
        return []
    right = isinstance(value, (int, float) if kind is float else kind) and (kind is bool) == isinstance(value, bool)
    return [] if right else [f"{where}: {value!r} is no {getattr(kind, '__name__', kind)}"]


def test_what_is_missing_or_of_another_type_is_found() -> None:
    good = {"id": "a", "choices": [], "created": 1, "model": "m", "object": "text_completion"}
    assert faults(good, types.Completion, "Completion") == []
    assert faults({**good, "created": "1"}, types.Completion, "C") == ["C.created: '1' is no int"]
    assert faults({**good, "object": "x"}, types.Completion, "C") != []
    assert faults({k: v for k, v in good.items() if k != "id"}, types.Completion, "C") == ["C: id is missing"]
    choice = {"index": 0, "text": None, "finish_reason": "stop", "logprobs": {"tokens": [1]}}
    assert len(faults({**good, "choices": [choice]}, types.Completion, "C")) == 2


def events(client: httpx.Client, path: str, body: dict[str, Any]) -> list[Any]:
    with client.stream("POST", path, json={**body, "stream": True}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


COMPLETIONS: list[dict[str, Any]] = [
    {"prompt": "The"},
    {"prompt": ["The", "Python"], "n": 2, "logprobs": 0},
    {"prompt": [1, 2, 3], "logprobs": 5, "echo": True, "max_tokens": 0},
    {"prompt": "The", "stop": ["e"], "logprobs": 2, "echo": True},
]
TURN = {"messages": [{"role": "user", "content": "The"}]}
CHATS: list[dict[str, Any]] = [TURN, {**TURN, "n": 2, "logprobs": True}, {**TURN, "logprobs": True, "top_logprobs": 3}]


@pytest.mark.parametrize("asked", COMPLETIONS)
def test_completions_are_of_their_type(client: httpx.Client, asked: dict[str, Any]) -> None:
    answer = client.post("/v1/completions", json={"max_tokens": 4, **asked}).json()
    assert faults(answer, types.Completion, "Completion") == []
    assert answer["usage"]
    if not asked.get("echo"):
        options = {"stream_options": {"include_usage": True}}
        pieces = events(client, "/v1/completions", {"max_tokens": 4, **asked, **options})
        assert [fault for piece in pieces for fault in faults(piece, types.Completion, "Completion")] == []
        assert [piece["usage"] is None for piece in pieces] == [True] * (len(pieces) - 1) + [False]


@pytest.mark.parametrize("asked", CHATS)
def test_conversations_are_of_their_type(client: httpx.Client, asked: dict[str, Any]) -> None:
    answer = client.post("/v1/chat/completions", json={"max_tokens": 4, **asked}).json()
    assert faults(answer, chat.ChatCompletion, "ChatCompletion") == []
    pieces = events(client, "/v1/chat/completions", {"max_tokens": 4, **asked})
    assert [fault for piece in pieces for fault in faults(piece, chat.ChatCompletionChunk, "Chunk")] == []
    assert {piece["choices"][0]["index"] for piece in pieces} == set(range(asked.get("n", 1)))


def test_models_and_errors_are_of_their_type(client: httpx.Client) -> None:
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    assert faults(listed["data"], list[types.Model], "Model") == []
    assert faults(client.get("/v1/models/ketcycle").json(), types.Model, "Model") == []
    wrong = [
        client.post("/v1/completions", json={"prompt": 5}),
        client.post("/v1/completions", json={"prompt": "a", "model": "other"}),
        client.post("/v1/completions", content=b"{"),
        client.post("/v1/completions", json={"prompt": "a " * 600_000}),
        client.post("/v1/completions", json={"prompt": "a " * 300}),
        client.get("/v1/completions"),
        client.post("/v1/embeddings", json={}),
    ]
    assert [answer.status_code for answer in wrong] == [400, 404, 400, 413, 400, 405, 404]
    for answer in wrong:
        assert faults(answer.json()["error"], ErrorObject, "Error") == []
    assert wrong[1].json()["error"]["code"] == "model_not_found"
    assert wrong[-1].json()["error"]["message"] == "this server has no POST /v1/embeddings"


# One value for each parameter that asks for something, and one more that is wrong where the type alone does not say.
ASKING: dict[str, Any] = {
    "audio": {"format": "mp3", "voice": "alloy"},
    "best_of": 3,
    "echo": True,
    "frequency_penalty": 0.5,
    "function_call": {"name": "f"},
    "functions": [{"name": "f"}],
    "logit_bias": {"5": -100},
    "logprobs": True,
    "max_completion_tokens": 3,
    "max_tokens": 3,
    "messages": [{"role": "user", "content": "a"}],
    "metadata": {"a": "b"},
    "modalities": ["text", "audio"],
    "model": "ketcycle",
    "moderation": {"model": "m"},
    "n": 2,
    "parallel_tool_calls": False,
    "prediction": {"type": "content", "content": "a"},
    "presence_penalty": 0.5,
    "prompt": "a",
    "prompt_cache_key": "k",
    "prompt_cache_options": {"mode": "implicit"},
    "prompt_cache_retention": "24h",
    "reasoning_effort": "low",
    "response_format": {"type": "json_object"},
    "safety_identifier": "u",
    "seed": 1,
    "service_tier": "flex",
    "stop": ["x"],
    "store": True,
    "stream": False,
    "stream_options": {"include_usage": True},
    "suffix": "z",
    "temperature": 0.5,
    "tool_choice": "required",
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "top_logprobs": 2,
    "top_p": 0.5,
    "user": "u",
    "verbosity": "low",
    "web_search_options": {},
}
REFUSED = {"audio", "best_of", "function_call", "functions", "modalities", "moderation", "prediction"}
REFUSED |= {"reasoning_effort", "response_format", "service_tier", "store", "suffix", "tool_choice", "tools"}
REFUSED |= {"verbosity", "web_search_options"}


@pytest.mark.parametrize(
    ("path", "module", "least"),
    [
        ("/v1/completions", completion_create_params, {"prompt": "a"}),
        ("/v1/chat/completions", chat_create_params, TURN),
    ],
)
def test_every_parameter_is_honoured_or_refused_by_its_name(
    client: httpx.Client, path: str, module: Any, least: dict[str, Any]
) -> None:
    base = "CompletionCreateParams"
    known = get_type_hints(getattr(module, f"{base}NonStreaming")) | get_type_hints(getattr(module, f"{base}Streaming"))
    assert set(known) <= set(ASKING), "a new parameter: say here what the server does with it"
    for name in known:
        value = 3 if (name, path) == ("logprobs", "/v1/completions") else ASKING[name]
        needs = {"logprobs": True} if name == "top_logprobs" else {}
        answer = client.post(path, json={"max_tokens": 2, **least, **needs, name: value})
        if name in REFUSED:
            error = answer.json()["error"]
            assert (answer.status_code, error["param"]) == (400, name), answer.text
            assert name in error["message"]
        else:
            assert answer.status_code == 200, f"{name}: {answer.text}"
        if name not in least:  # null is the default
            assert client.post(path, json={"max_tokens": 2, **least, name: None}).status_code == 200, name


def test_a_bias_decides_and_a_token_that_is_not_there_is_named(client: httpx.Client) -> None:
    body = {"prompt": "The", "max_tokens": 5, "temperature": 1, "logprobs": 0}
    answer = client.post("/v1/completions", json={**body, "logit_bias": {"40": 100}}).json()
    assert len(set(answer["choices"][0]["logprobs"]["tokens"])) == 1
    unknown = client.post("/v1/completions", json={**body, "logit_bias": {"99999": 1}}).json()["error"]
    assert unknown["param"] == "logit_bias"
    assert "99999" in unknown["message"]
