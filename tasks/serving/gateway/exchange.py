"""One exchange with an upstream server, and the rows of the request log that it becomes.

Reads the bodies of OpenAI's completion, chat, responses and embeddings addresses, streamed or not. Reading happens in
the thread of the log, after the answer was sent; what an engine does not report (tokens of a stream without usage,
log-probabilities that were not asked for) stays null.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import brotli
import pyarrow as pa

from infra.energy.usage import Usage
from tasks.serving.request_log import Request

_STREAM = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:data|event|id|retry)?:")  # how events begin; a comment with a colon
LOGGED = ("/completions", "/chat/completions", "/responses", "/embeddings", "/completion")
KEPT_BYTES = 4 << 20  # of an answer that are read for the log; the rest is passed on all the same
MOST_CHOICES = 128  # of a prompt, as OpenAI has it; a larger n is refused, or nonsense
MOST_ROWS = 65_536  # of an exchange
LARGEST = 2**53  # tokens; a larger number is nonsense


@dataclass
class Exchange:
    """A request passed on, and what came back; filled while it runs.

    Attributes:
        key: name for its rows where the answer has no id.
        path: address asked.
        body: the request's body.
        received: seconds since the epoch.
        began: on the monotonic clock.
        first: when the first bytes of the answer's body came, on the monotonic clock.
        ended: when it was over.
        asked_in: content encoding of the request.
        status: of the answer, None where there was none.
        encoding: content encoding of the answer.
        answer: the first `KEPT_BYTES` of its body.
        finish: `cancelled` where the client left, `failed` or `cut` where the upstream did, empty where all is well.
        error: what failed.
    """

    key: str
    path: str
    body: bytes
    received: float
    began: float
    first: float | None = None
    ended: float = 0.0
    asked_in: str = ""
    status: int | None = None
    encoding: str = ""
    answer: bytearray = field(default_factory=bytearray)
    finish: str = ""
    error: str | None = None

    @property
    def logged(self) -> bool:
        """Whether it is a request for text or embeddings."""
        return self.path.rstrip("/").endswith(LOGGED)

    def keep(self, chunk: bytes) -> None:
        """Keep a piece of the answer for the log."""
        room = KEPT_BYTES - len(self.answer)
        if room > 0:
            self.answer += chunk[:room]


@dataclass
class _Choice:
    text: list[str] = field(default_factory=list)
    finish: str | None = None
    logprobs: list[float] = field(default_factory=list)


@dataclass
class _Said:
    """What an answer says of itself; `ended` is false for a stream of choices that broke off without its last event."""

    id: str = ""
    model: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    choices: dict[int, _Choice] = field(default_factory=dict)
    error: str | None = None
    ended: bool = True


def rows_of(exchange: Exchange, usage: Usage | None, source: str, model: str = "", ours: bool = False) -> list[Request]:
    """Return the rows of an exchange, one for each prompt and choice.

    Args:
        exchange: what was asked and answered.
        usage: quantities of the whole exchange, shared by its rows in equal parts, None where they are unknown.
        source: where they come from.
        model: version for the log where neither request nor answer names a model.
        ours: whether that version is the one whatever they name.
    """
    asked = _object(_decoded(exchange.body, exchange.asked_in))
    said = _read(exchange)
    prompts = _prompts(asked)
    n = asked["n"] if isinstance(asked.get("n"), int) and 0 < asked["n"] <= MOST_CHOICES else 1
    count = min(MOST_ROWS, max(len(prompts) * n, 1 + max(said.choices, default=0)))
    rows = []
    for index in range(count):
        choice = said.choices.get(index, _Choice())
        rows.append(
            Request(
                request_id=f"{said.id or exchange.key}-{index}",
                model_version=(model if ours else "") or said.model or _text(asked.get("model")) or model,
                prompt=prompts[min(index // n, len(prompts) - 1)],
                completion="".join(choice.text),
                label=_text(asked.get("user")) or None,
                prompt_tokens=_share(said.prompt_tokens, len(prompts), index % n == 0),
                completion_tokens=_share(said.completion_tokens, count, True),
                finish=exchange.finish or choice.finish or _finish_of(exchange, said),
                first_s=None if exchange.first is None else exchange.first - exchange.began,
                latency_s=exchange.ended - exchange.began,
                usage=usage.scaled(1 / count) if usage else None,
                received=exchange.received,
                mean_logprob=_unknown,
                completion_logprob=sum(choice.logprobs) / len(choice.logprobs) if choice.logprobs else None,
                energy_source=source,
                path=exchange.path,
                status=exchange.status,
                error=exchange.error or said.error or _error(exchange),
            )
        )
    return rows


def _finish_of(exchange: Exchange, said: _Said) -> str:
    """Return how a choice ended that does not say it."""
    if said.error or not _well(exchange):
        return "failed"
    return "stop" if said.ended or not said.choices else "cut"


def _unknown() -> None:
    """Return the log-likelihood of a prompt, which no engine reports unasked."""


def _well(exchange: Exchange) -> bool:
    return exchange.status is not None and exchange.status < 300


def _share(tokens: int | None, parts: int, counts: bool) -> int | None:
    """Return a part of the tokens of a request; usage is reported for all its prompts together."""
    return None if tokens is None else round(tokens / parts) if counts else 0


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _prompts(asked: Mapping[str, Any]) -> list[str]:
    """Return the texts asked; token ids are written as numbers."""
    if isinstance(asked.get("messages"), list):
        return [conversation_of(asked["messages"])]
    given = asked.get("prompt", asked.get("input"))
    if isinstance(given, list) and given and isinstance(given[0], dict):
        return [conversation_of(given)]  # the input of /v1/responses
    if isinstance(given, list) and given and not isinstance(given[0], int):
        return [each if isinstance(each, str) else _numbers(each) for each in given]
    return [given if isinstance(given, str) else _numbers(given)]


def _numbers(value: Any) -> str:
    return " ".join(str(each) for each in value) if isinstance(value, list) else ""


def conversation_of(messages: Sequence[Any]) -> str:
    """Return the turns of a conversation, one a line with its role."""
    turns = (m for m in messages if isinstance(m, dict))
    return "\n".join(f"{_text(m.get('role'))}: {content_of(m.get('content') or m.get('parts'))}" for m in turns)


def content_of(value: Any) -> str:
    """Return the text of a message; a part that is no text is named by its type."""
    if isinstance(value, list):
        parts = (part for part in value if isinstance(part, dict))
        return "".join(_text(p.get("text") or p.get("content")) or f"[{_text(p.get('type'))}]" for p in parts)
    return _text(value)


def _read(exchange: Exchange) -> _Said:
    said = _Said()
    body = _decoded(bytes(exchange.answer), exchange.encoding)
    if not _STREAM.match(body):
        _take(said, _object(body))
        return said
    said.ended = len(exchange.answer) >= KEPT_BYTES
    for data in _events(body):
        said.ended = said.ended or data.strip() == b"[DONE]"
        _take(said, _object(data))
    return said


def _decoded(body: bytes, encoding: str) -> bytes:
    """Return the bytes of an unpacked body, as far as they are there; none of one packed in an unknown way."""
    try:
        match encoding:
            case "" | "identity":
                return body
            case "gzip" | "x-gzip":
                found: bytes = zlib.decompressobj(47).decompress(body, KEPT_BYTES)
            case "deflate":
                found = _inflated(body)
            case "br":
                found = brotli.Decompressor().process(body, KEPT_BYTES)
            case "zstd":
                found = pa.CompressedInputStream(pa.BufferReader(body), "zstd").read(KEPT_BYTES)
            case _:
                found = b""
    except (zlib.error, brotli.error, OSError):
        return b""
    return found


def _inflated(body: bytes) -> bytes:
    """Return what `deflate` means: with the header of zlib, or without it as some servers send it."""
    try:
        return zlib.decompressobj().decompress(body, KEPT_BYTES)
    except zlib.error:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(body, KEPT_BYTES)


def _events(body: bytes) -> Iterator[bytes]:
    """Yield the data of each event; an event has one line of data or several, and ends with an empty line."""
    held: list[bytes] = []
    for line in [*body.removeprefix(b"\xef\xbb\xbf").splitlines(), b""]:
        if line.startswith(b"data:"):
            held.append(line[5:])
        elif not line and held:
            yield b"\n".join(held)
            held = []


def _take(said: _Said, value: Mapping[str, Any]) -> None:
    inner = value.get("response")
    if isinstance(inner, dict):  # an event of /v1/responses
        value = inner
    if value.get("error") and said.error is None:  # in a stream, behind the status 200
        said.error = _message(value)
    said.ended = said.ended or value.get("type") == "response.completed"
    said.id = said.id or _text(value.get("id"))
    said.model = said.model or _text(value.get("model"))
    usage = value.get("usage")
    if isinstance(usage, dict):
        said.prompt_tokens = _count(usage, "prompt_tokens", "input_tokens", before=said.prompt_tokens)
        said.completion_tokens = _count(usage, "completion_tokens", "output_tokens", before=said.completion_tokens)
    choices = value.get("choices")
    for at, given in enumerate(choices if isinstance(choices, list) else ()):
        if isinstance(given, dict):
            index = given.get("index")
            place = index if isinstance(index, int) and 0 <= index < MOST_ROWS else at
            _take_choice(said.choices.setdefault(place, _Choice()), given)
    output = value.get("output")
    for item in output if isinstance(output, list) else ():
        if isinstance(item, dict) and item.get("content") is not None:
            said.choices.setdefault(0, _Choice()).text.append(content_of(item["content"]))


def _count(usage: Mapping[str, Any], *names: str, before: int | None) -> int | None:
    found = (usage.get(name) for name in names)
    return next((n for n in found if isinstance(n, int) and 0 <= n < LARGEST), before)


def _take_choice(choice: _Choice, given: Mapping[str, Any]) -> None:
    part = given.get("message") or given.get("delta") or {}
    choice.text.append(_text(given.get("text")) or content_of(part.get("content") if isinstance(part, dict) else None))
    if isinstance(part, dict) and part.get("tool_calls"):
        choice.text.append(json.dumps(part["tool_calls"], ensure_ascii=False))
    choice.finish = _text(given.get("finish_reason")) or choice.finish
    logprobs = given.get("logprobs")
    if isinstance(logprobs, dict):
        content = logprobs.get("content")
        found = [e.get("logprob") for e in content if isinstance(e, dict)] if isinstance(content, list) else []
        other = logprobs.get("token_logprobs")
        found = found or (other if isinstance(other, list) else [])
        choice.logprobs += [float(v) for v in found if isinstance(v, int | float) and abs(v) < LARGEST]


def _error(exchange: Exchange) -> str | None:
    """Return the message of an error that the upstream answered with."""
    if _well(exchange):
        return None
    said = _message(_object(_decoded(bytes(exchange.answer), exchange.encoding)))
    return (said or f"status {exchange.status}")[:500]


def _message(value: Mapping[str, Any]) -> str:
    """Return the message of an error as OpenAI, FastAPI and older servers write it; empty if there is none."""
    found = value.get("error") or value.get("detail") or value.get("message")
    return _text(found.get("message") if isinstance(found, dict) else found)[:500]
