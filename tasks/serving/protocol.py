"""What the server understands and answers: the bodies of OpenAI's completion API, and its errors.

What is not offered (penalties, `suffix`, `logit_bias`, tools, images) is refused, never ignored.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from tasks.model.generate import Sampling, Token
from tasks.serving.engine import Answer

MAX_PROMPTS = 64
MAX_TOKENS = 2048
MAX_STOPS, MAX_STOP = 4, 64


def _few_stops(value: str | list[str] | None) -> str | list[str] | None:
    stops = [value] if isinstance(value, str) else value or []
    if len(stops) > MAX_STOPS or not all(1 <= len(s) <= MAX_STOP for s in stops):
        raise ValueError(f"give at most {MAX_STOPS} stop strings of 1 to {MAX_STOP} characters")
    return value


class StreamOptions(BaseModel):
    """What a stream tells besides the text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    include_usage: bool = False


class Asked(BaseModel):
    """What both kinds of requests share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = None
    temperature: float = Field(1.0, ge=0.0, le=2.0)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    n: int = Field(1, ge=1, le=MAX_PROMPTS)
    stop: Annotated[str | list[str] | None, AfterValidator(_few_stops)] = None
    seed: int | None = Field(None, ge=0, lt=2**63)
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, max_length=256)
    presence_penalty: Literal[0] = 0
    frequency_penalty: Literal[0] = 0
    truncation: Literal["auto", "disabled"] = "disabled"

    def _sampling(self, index: int, max_tokens: int, top: int) -> Sampling:
        seed = int.from_bytes(os.urandom(6), "big") if self.seed is None else self.seed + index
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return Sampling(
            max_tokens=max_tokens, temperature=self.temperature, top_p=self.top_p, seed=seed, stop=stop, top=top
        )


class CompletionRequest(Asked):
    """Body of POST /v1/completions."""

    prompt: str | list[str]
    max_tokens: int = Field(16, ge=0, le=MAX_TOKENS)
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: bool = False
    best_of: int | None = None
    suffix: None = None

    @model_validator(mode="after")
    def _is_answerable(self) -> CompletionRequest:
        if not 1 <= self.choices <= MAX_PROMPTS:
            raise ValueError(f"give 1 to {MAX_PROMPTS} prompts times n, not {self.choices}")
        if self.best_of not in (None, self.n):
            raise ValueError("best_of is not offered; ask for n completions and choose")
        if self.echo and self.stream:
            raise ValueError("echo is not offered in a stream")
        return self

    @property
    def prompts(self) -> list[str]:
        """The prompts, one or many."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    @property
    def choices(self) -> int:
        """How many completions are wanted."""
        return len(self.prompts) * self.n

    def sampling(self, index: int) -> Sampling:
        """Return how one of the completions is drawn."""
        return self._sampling(index, self.max_tokens, self.logprobs or 0)


class Part(BaseModel):
    """A piece of text in a message."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "user", "assistant"]
    content: str | list[Part]

    def plain(self) -> dict[str, str]:
        """Return it as the templates of tokenizers expect it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": self.role, "content": text}


class ChatRequest(Asked):
    """Body of POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=256)
    max_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=5)

    @property
    def choices(self) -> int:
        """How many answers are wanted."""
        return self.n

    def sampling(self, index: int) -> Sampling:
        """Return how one of the answers is drawn."""
        wanted = self.max_completion_tokens or self.max_tokens or 256
        return self._sampling(index, wanted, self.top_logprobs)


class FeedbackRequest(BaseModel):
    """Body of POST /v1/feedback: what somebody thought of an answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^(chatcmpl|cmpl)-[0-9a-f]{32}$", description="The id of the answer.")
    index: int = Field(0, ge=0, lt=MAX_PROMPTS, description="Which of its choices.")
    rating: float = Field(ge=-1.0, le=1.0, description="From -1, bad, to 1, good.")
    comment: str | None = Field(None, max_length=4096)


def refusal(
    status: int,
    message: str,
    where: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return an error in the form of OpenAI's."""
    kind = {401: "authentication_error", 429: "rate_limit_error"}.get(status, "invalid_request_error")
    error = {"message": message, "type": "server_error" if status >= 500 else kind, "param": where, "code": code}
    return JSONResponse({"error": error}, status_code=status, headers=dict(headers or {}))


def usage_of(answers: Sequence[Answer], n: int = 1) -> dict[str, int]:
    """Return the tokens of the answers; a prompt answered n times was given once."""
    read = sum(len(a.prompt.ids) for a in answers[::n])
    written = sum(len(a.tokens) for a in answers)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def envelope(key: str, kind: str, name: str, version: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the part of an answer that all of them share."""
    return {
        "id": key,
        "object": kind,
        "created": int(time.time()),
        "model": name,
        "system_fingerprint": version,
        "choices": choices,
    }


def completion_choice(
    request: CompletionRequest, index: int, answer: Answer, decode: Callable[[int], str]
) -> dict[str, Any]:
    """Return one completion."""
    found: dict[str, Any] | None = None
    shown = answer.prompt.text if request.echo and not answer.prompt.truncated else ""
    if request.echo and answer.prompt.truncated:
        shown = "".join(decode(token) for token in answer.prompt.ids[answer.prompt.lead :])
    if request.logprobs is not None:
        tokens, said = _echoed(answer, decode) if request.echo else ([], [])
        start = sum(len(text) for text in tokens)
        tops: list[dict[str, float] | None] = [None] * len(tokens)
        written = written_logprobs(answer.tokens, decode, start)
        found = {
            "tokens": tokens + written["tokens"],
            "token_logprobs": said + written["token_logprobs"],
            "text_offset": [sum(len(t) for t in tokens[:i]) for i in range(len(tokens))] + written["text_offset"],
            "top_logprobs": tops + (written["top_logprobs"] or []) if request.logprobs else None,
        }
    return {
        "index": index,
        "text": shown + answer.text,
        "finish_reason": answer.finish,
        "logprobs": found,
        "truncated": answer.prompt.truncated,
    }


def _echoed(answer: Answer, decode: Callable[[int], str]) -> tuple[list[str], list[float | None]]:
    """Return the tokens of the prompt and their log-probabilities; nothing stands before the first, so it has none."""
    tokens = [decode(token) for token in answer.prompt.ids[answer.prompt.lead :]]
    known: list[float | None] = answer.prompt_logprobs().tolist()
    return tokens, ([None] if answer.prompt.lead == 0 else []) + known


def written_logprobs(tokens: Sequence[Token], decode: Callable[[int], str], start: int = 0) -> dict[str, Any]:
    """Return the log-probabilities of written tokens, their texts beginning at a place of the text shown."""
    offsets = [start]
    for token in tokens:
        offsets.append(offsets[-1] + len(token.text))
    tops = [_named(token.top, decode) for token in tokens]
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "text_offset": offsets[:-1],
        "top_logprobs": tops if any(token.top for token in tokens) else None,
    }


def _named(top: Sequence[tuple[int, float]], decode: Callable[[int], str]) -> dict[str, float]:
    """Return log-probabilities by the texts of their tokens, by their numbers where two have the same text."""
    found: dict[str, float] = {}
    for token, logprob in top:
        text = decode(token)
        found[f"token_id:{token}" if text in found else text] = logprob
    return found


def chat_logprobs(tokens: Sequence[Token], decode: Callable[[int], str]) -> dict[str, Any]:
    """Return the log-probabilities of the tokens of a chat answer."""

    def entry(text: str, logprob: float) -> dict[str, Any]:
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    return {
        "content": [
            entry(token.text, token.logprob)
            | {"top_logprobs": [entry(decode(other), logprob) for other, logprob in token.top]}
            for token in tokens
        ]
    }


def chat_choice(request: ChatRequest, index: int, answer: Answer, decode: Callable[[int], str]) -> dict[str, Any]:
    """Return one answer of a conversation."""
    return {
        "index": index,
        "message": {"role": "assistant", "content": answer.text},
        "finish_reason": answer.finish,
        "logprobs": chat_logprobs(answer.tokens, decode) if request.logprobs else None,
    }
