"""The server asked by the client that other people use."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch

from infra.lake import Lake
from tasks.model.causal import load_model, load_tokenizer
from tasks.serving.client import read_requests, running_server

TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'system' and not loop.first %}"
    "{{ raise_exception('a system message comes first') }}{% endif %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def chat_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat") / "model"
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = TEMPLATE
    load_model(tiny_model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


WRITTEN = "ketcycle_completion_tokens_total "


@pytest.fixture(scope="module")
def client(chat_model: Path, home: Path) -> Iterator[openai.OpenAI]:
    options = ["--text", "redacted"]
    with (
        running_server(chat_model, home, "run-a", flush_s=0.2, options=options) as url,
        httpx.Client(trust_env=False) as transport,
    ):
        yield openai.OpenAI(base_url=f"{url}/v1", api_key="none", http_client=transport, max_retries=0)


def test_the_model_is_listed(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == "ketcycle"
    assert client.models.retrieve("ketcycle") == model
    with pytest.raises(openai.NotFoundError, match="there is no model 'other'"):
        client.models.retrieve("other")


def test_a_stream_is_the_completion_with_its_logprobs_and_usage(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "ketcycle", "prompt": ["Python", "The"], "max_tokens": 9}
    asked |= {"temperature": 0.8, "seed": 3}
    whole = client.completions.create(**asked, logprobs=2)
    pieces = list(client.completions.create(**asked, logprobs=2, stream=True, stream_options={"include_usage": True}))
    assert pieces[-1].usage == whole.usage
    for choice in whole.choices:
        mine = [c for piece in pieces for c in piece.choices if c.index == choice.index]
        assert "".join(c.text for c in mine) == choice.text
        assert mine[-1].finish_reason == choice.finish_reason
        said = [value for c in mine for value in c.logprobs.token_logprobs]
        assert said == pytest.approx(choice.logprobs.token_logprobs, abs=1e-4)
        assert [len(top) for top in choice.logprobs.top_logprobs] == [2] * len(said)


def test_n_completions_of_a_prompt_are_draws_of_their_own(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="ketcycle", prompt="The", n=4, max_tokens=12, temperature=1.5, seed=1)
    assert [c.index for c in answer.choices] == [0, 1, 2, 3]
    assert len({c.text for c in answer.choices}) > 1
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == client.completions.create(model="ketcycle", prompt="The").usage.prompt_tokens


def test_echo_scores_a_text_as_the_model_does(client: openai.OpenAI, chat_model: Path) -> None:
    text = "This LICENSE AGREEMENT is between"
    choice = client.completions.create(model="ketcycle", prompt=text, max_tokens=0, echo=True, logprobs=0).choices[0]
    model, tokenizer = load_model(chat_model), load_tokenizer(chat_model)
    ids = torch.tensor([[0, *tokenizer.encode(text, add_special_tokens=False)]])
    with torch.no_grad():
        expected = torch.log_softmax(model(ids).logits[0, :-1], -1).gather(1, ids[0, 1:, None])[:, 0]
    assert choice.text == text == "".join(choice.logprobs.tokens)
    assert choice.logprobs.token_logprobs == pytest.approx(expected.tolist(), abs=1e-4)
    offsets, tokens = choice.logprobs.text_offset, choice.logprobs.tokens
    assert offsets is not None
    assert tokens is not None
    assert offsets[1] == len(tokens[0])


def test_a_conversation_is_written_down_by_the_template(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="ketcycle",
        messages=[{"role": "system", "content": "short"}, {"role": "user", "content": "Python"}],
        max_completion_tokens=8,
        temperature=0,
        logprobs=True,
        top_logprobs=2,
    )
    plain = client.completions.create(
        model="ketcycle", prompt="system: short\nuser: Python\nassistant: ", max_tokens=8, temperature=0
    )
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert plain.choices[0].text.strip(), "the model writes something"
    assert choice.message.content is not None
    assert len(choice.logprobs.content) == answer.usage.completion_tokens == 8
    assert plain.usage.prompt_tokens == answer.usage.prompt_tokens + 1  # a template says itself how a text starts
    streamed = client.chat.completions.create(
        model="ketcycle",
        messages=[{"role": "system", "content": "short"}, {"role": "user", "content": "Python"}],
        max_tokens=8,
        temperature=0,
        stream=True,
    )
    assert "".join(c.delta.content or "" for piece in streamed for c in piece.choices) == choice.message.content


def test_a_template_that_refuses_says_why(client: openai.OpenAI) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]
    with pytest.raises(openai.BadRequestError, match="a system message comes first") as refused:
        client.chat.completions.create(model="ketcycle", messages=turns)
    assert (refused.value.status_code, refused.value.param) == (400, "messages")
    assert refused.value.type == "invalid_request_error"


def test_a_model_without_a_template_does_not_chat(tiny_model: Path, home: Path) -> None:
    with running_server(tiny_model, home, "run-b") as url, httpx.Client(trust_env=False) as transport:
        plain = openai.OpenAI(base_url=f"{url}/v1", api_key="none", http_client=transport, max_retries=0)
        with pytest.raises(openai.NotFoundError, match="no chat model") as refused:
            plain.chat.completions.create(model="ketcycle", messages=[{"role": "user", "content": "a"}])
        assert "ask /v1/completions" in refused.value.message
        assert plain.completions.create(model="ketcycle", prompt="a", max_tokens=2).usage.completion_tokens == 2


def test_errors_are_the_clients_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="ketcycle", prompt="word " * 300)
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="temperature") as wrong:
        client.completions.create(model="ketcycle", prompt="a", temperature=9)
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.NotFoundError) as unknown:
        client.completions.create(model="other", prompt="a")
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")


def test_too_many_waiting_prompts_are_refused_and_the_others_answered(client: openai.OpenAI) -> None:
    codes: list[int] = []
    told: list[str] = []

    def ask() -> None:
        try:
            client.completions.create(model="ketcycle", prompt=["a"] * 40, max_tokens=60, temperature=0)
        except openai.RateLimitError as error:
            told.append(error.response.headers["retry-after"])
            codes.append(429)
        else:
            codes.append(200)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(codes) == {200, 429}
    assert codes.count(200) >= 3
    assert set(told) == {"1"}


def test_feedback_reaches_the_log_of_its_answer(client: openai.OpenAI, home: Path) -> None:
    answer = client.completions.create(model="ketcycle", prompt="mail ada@example.org", max_tokens=2, user="fb")
    with pytest.raises(openai.BadRequestError, match="rating"):
        client.post("/feedback", body={"id": answer.id, "rating": 5}, cast_to=object)
    client.post("/feedback", body={"id": answer.id, "rating": -1, "comment": "no"}, cast_to=object)
    end = time.monotonic() + 20
    while time.monotonic() < end:
        rows = [r for r in read_requests(Lake(home / "lake"), "run-a").to_pylist() if r["label"] == "fb"]
        if rows and rows[0]["rating"] is not None:
            break
        time.sleep(0.1)
    (row,) = rows
    assert row["request_id"] == f"{answer.id}-0"
    assert (row["rating"], row["comment"], row["prompt"]) == (-1.0, "no", "mail <email>")
    assert row["energy_j_p5"] < row["energy_j"] < row["energy_j_p95"]


def test_a_client_that_leaves_stops_the_model(client: openai.OpenAI) -> None:
    before = written(client)
    stream = client.completions.create(model="ketcycle", prompt="a", max_tokens=2048, temperature=1.0, stream=True)
    next(iter(stream))
    stream.close()
    end, text = time.monotonic() + 10, ""
    while time.monotonic() < end and not ("ketcycle_running 0.0" in text and "ketcycle_waiting 0.0" in text):
        time.sleep(0.05)
        text = metrics(client)
    assert "ketcycle_running 0.0" in text, "the model still writes"
    assert written(client) - before < 1024, "it stopped long before the end of the text"


def metrics(client: openai.OpenAI) -> str:
    return client._client.get(str(client.base_url).replace("/v1/", "/metrics")).text


def written(client: openai.OpenAI) -> float:
    """Return the tokens that the server has written so far."""
    (value,) = (line.split()[1] for line in metrics(client).splitlines() if line.startswith(WRITTEN))
    return float(value)
