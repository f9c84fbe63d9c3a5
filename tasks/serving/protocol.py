"""Bodies of OpenAI's completion and chat API, as this server reads and writes them, and its errors.

`null` means the default for every parameter. What is not offered (`suffix`, tools, JSON answers, images) is refused,
never ignored; values that ask for nothing (`tools: []`, `min_p: 0`) are accepted.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Annotated, Any, Literal, TypeVar

from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from tasks.model.generation.generate import Sampling, Token
from tasks.serving.engine import Answer, Engine

MAX_PROMPTS = 64
MAX_TOKENS = 32_768
MAX_STOPS, MAX_STOP = 16, 256
MAX_TOP = 20
MAX_BIASES = 1024
MAX_DIGITS = 400

# Values of parameters that this server does not offer which ask for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "min_p": (0,),
    "suffix": ("",),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "reasoning_effort": ("none",),
    "modalities": (["text"],),
    "store": (False,),
    "service_tier": ("auto", "default"),
    "verbosity": ("medium",),
    "ignore_eos": (False,),
    "min_tokens": (0,),
    "stop_token_ids": ([],),
    "use_beam_search": (False,),
    "include_stop_str_in_output": (False,),
    "add_special_tokens": (True,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True, False),
    "chat_template_kwargs": ({},),
    "priority": (0,),
}
# Labels for the sender's own use, which change no answer.
LABELS = ("metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention")
# Tools are not used where the choice of them is "none".
CHOICES = {"tool_choice": "tools", "function_call": "functions"}
# What an assistant's message says of parts that it does not have, besides null.
EMPTY: tuple[Any, ...] = ([], {}, "")

# Parameters whose null is not the same as their absence.
MUST = ("prompt", "messages")
# What pydantic adds to the place of an error: which type of several it tried, that a key is wrong.
_UNION = re.compile(r"(str|list|function-\w+)(\[.*\])?|\[key\]")

Body = TypeVar("Body", bound=BaseModel)


class Refused(Exception):
    """A request that cannot be answered; `param` names the parameter at fault, `code` the kind of fault."""

    def __init__(self, message: str, param: str | None = None, status: int = 400, code: str | None = None) -> None:
        super().__init__(message)
        self.param, self.status, self.code = param, status, code


def read_body(kind: type[Body], body: bytes, content_type: str, packing: str = "") -> Body:
    """Read a request.

    Raises:
        Refused: it is no JSON object, or a parameter is missing, wrong or not offered.
    """
    if packing.strip().lower() not in ("", "identity"):
        raise Refused(f"the body is packed (Content-Encoding: {packing[:40]}); send it unpacked", status=415)
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise Refused(f"send the request as JSON with the header Content-Type: application/json, not {content_type!r}")
    try:
        value = json.loads(body, parse_constant=_no_number, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        raise Refused(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        what = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}.get(type(value), "a number")
        raise Refused(f"the body is {what}, not an object with the request's parameters")
    if (found := _surrogate(value, "")) is not None:
        raise Refused(f"{found}: the text holds half of a surrogate pair, which is no character", found)
    try:
        return kind.model_validate({name: given for name, given in value.items() if given is not None or name in MUST})
    except ValidationError as error:
        first = _nearest(error.errors())
        where = ".".join(str(part) for part in first["loc"] if not _UNION.fullmatch(str(part)))
        said = str(first["msg"]).removeprefix("Value error, ").partition(" or instance of")[0]
        if first["type"] == "extra_forbidden":
            said = f"this server does not offer it{_unless(where)}"
        elif first["type"] == "missing":
            said = "is required"
        raise Refused(f"{where}: {said}", where) from None


def _nearest(errors: list[ErrorDetails]) -> ErrorDetails:
    """Return the first error; of a value that may be of several types, the one of the type that it nearly is."""
    loc = errors[0]["loc"]
    size = next((at for at, part in enumerate(loc) if _UNION.fullmatch(str(part))), len(loc))
    return max((error for error in errors if error["loc"][:size] == loc[:size]), key=lambda error: len(error["loc"]))


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def _unless(where: str) -> str:
    known = " or ".join(json.dumps(value) for value in NEUTRAL.get(where, ()))
    return f"; leave it out or send {known}" if known else ""


def _surrogate(value: Any, where: str) -> str | None:
    """Return the path of the first string that is not Unicode text, None where all are."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return where
        return None
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in parts:
        path = f"{where}.{name}".strip(".")
        if (found := _surrogate(part, path)) is not None:
            return found
        if isinstance(name, str) and _surrogate(name, "") is not None:
            return where or "a parameter's name"
    return None


class StreamOptions(BaseModel):
    """What a stream reports besides the text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class Asked(BaseModel):
    """Parameters of both kinds of requests."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = None
    temperature: float = Field(1.0, ge=0.0, le=2.0)
    top_p: float = Field(1.0, ge=0.0, le=1.0)
    top_k: int = Field(0, ge=-1)
    frequency_penalty: float = Field(0.0, ge=-2.0, le=2.0)
    presence_penalty: float = Field(0.0, ge=-2.0, le=2.0)
    logit_bias: dict[int, Annotated[float, Field(ge=-100.0, le=100.0)]] = Field({}, max_length=MAX_BIASES)
    n: int = Field(1, ge=1, le=MAX_PROMPTS)
    stop: tuple[str, ...] = ()
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, max_length=256)
    truncation: Literal["auto", "disabled"] = "disabled"

    @model_validator(mode="before")
    @classmethod
    def _without_neutral(cls, value: Any) -> Any:
        unused = {tools for choice, tools in CHOICES.items() if value.get(choice) == "none"}
        return {
            name: given
            for name, given in value.items()
            if name not in LABELS
            and name not in unused
            and not any(_same(given, neutral) for neutral in NEUTRAL.get(name, ()))
        }

    @field_validator("stop", mode="before")
    @classmethod
    def _few_stops(cls, value: Any) -> tuple[str, ...]:
        """Read a string or a list of strings; an empty one stops nothing."""
        given = value if isinstance(value, list) else [value]
        stops = tuple(stop for stop in given if stop not in (None, ""))
        right = all(isinstance(stop, str) and len(stop) <= MAX_STOP for stop in stops)
        if not right or len(stops) > MAX_STOPS:
            raise ValueError(f"give at most {MAX_STOPS} stop strings of at most {MAX_STOP} characters")
        return stops

    def _sampling(self, index: int, max_tokens: int, top: int) -> Sampling:
        seed = int.from_bytes(os.urandom(6), "big") if self.seed is None else (self.seed + index) % 2**64
        return Sampling(
            max_tokens=max_tokens,
            temperature=self.temperature,
            top_k=max(0, self.top_k),
            top_p=self.top_p,
            seed=seed,
            stop=self.stop,
            top=top,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            bias=tuple(self.logit_bias.items()),
        )


class CompletionRequest(Asked):
    """Body of POST /v1/completions.

    A prompt is a text, a list of texts, a list of token ids, or a list of lists of token ids.
    """

    prompt: tuple[str | tuple[int, ...], ...]
    max_tokens: int = Field(16, ge=0, le=MAX_TOKENS)
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP)
    echo: bool = False
    best_of: int | None = None

    @field_validator("logprobs", mode="before")
    @classmethod
    def _none_asked(cls, value: Any) -> Any:
        return None if value is False else value

    @field_validator("prompt", mode="before")
    @classmethod
    def _as_many(cls, value: Any) -> tuple[str | tuple[int, ...], ...]:
        if value is None:
            return ("",)  # a text from its beginning
        if isinstance(value, str):
            return (value,)
        if isinstance(value, list) and value:
            if _are_tokens(value):
                return (tuple(value),)
            if all(isinstance(each, str) for each in value):
                return tuple(value)
            if all(isinstance(each, list) and _are_tokens(each) for each in value):
                return tuple(tuple(each) for each in value)
        raise ValueError("give a text, a list of texts, a list of token ids, or a list of lists of token ids")

    @model_validator(mode="after")
    def _is_answerable(self) -> CompletionRequest:
        if self.choices > MAX_PROMPTS:
            message = f"prompt: give at most {MAX_PROMPTS} prompts times n, not {self.choices}"
            raise Refused(message, "prompt")
        if self.best_of not in (None, 1, self.n):
            raise Refused("best_of: this server does not offer it; ask for n completions and choose one", "best_of")
        if self.echo and self.stream:
            raise Refused("echo: this server does not offer it in a stream; leave out echo or stream", "echo")
        return self

    @property
    def choices(self) -> int:
        """Number of completions asked for."""
        return len(self.prompt) * self.n

    @property
    def scores_prompt(self) -> bool:
        """Whether the log-probabilities of the prompt's tokens are part of the answer."""
        return self.echo and self.logprobs is not None

    def sampling(self, index: int) -> Sampling:
        """Return how one of the completions is drawn."""
        return self._sampling(index, self.max_tokens, self.logprobs or 0)


class Part(BaseModel):
    """A piece of text in a message."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["text"]
    text: str
    cache_control: Any = None  # a hint to servers that charge for what they remember


class Message(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] = ""
    name: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        """Leave out empty fields of an answer that is sent back, and refuse what is no text by its name."""
        if not isinstance(value, dict):
            return value
        given = {n: v for n, v in value.items() if v is not None and (n in cls.model_fields or v not in EMPTY)}
        if given.get("role") in ("tool", "function"):
            raise ValueError("this server does not offer tools; send messages of system, user and assistant")
        if "content" not in given and given.get("role") != "assistant":
            raise ValueError("content is required")
        parts = given.get("content")
        if isinstance(parts, list):
            other = next((p.get("type") for p in parts if isinstance(p, dict) and p.get("type") != "text"), None)
            if other is not None:
                raise ValueError(f"this server reads text only, not a part of type {other!r}")
        return given

    def plain(self) -> dict[str, str]:
        """Return it as the templates of tokenizers expect it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        turn = {"role": "system" if self.role == "developer" else self.role, "content": text}
        return turn | ({"name": self.name} if self.name else {})


class ChatRequest(Asked):
    """Body of POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=256)
    max_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=MAX_TOP)

    @model_validator(mode="after")
    def _reports(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise Refused("top_logprobs: set logprobs to true as well", "top_logprobs")
        return self

    @property
    def choices(self) -> int:
        """Number of answers asked for."""
        return self.n

    @property
    def scores_prompt(self) -> bool:
        """Whether the log-probabilities of the prompt's tokens are part of the answer: never in a conversation."""
        return False

    def sampling(self, index: int) -> Sampling:
        """Return how one of the answers is drawn."""
        wanted = self.max_completion_tokens or self.max_tokens or 256
        return self._sampling(index, wanted, self.top_logprobs if self.logprobs else 0)


class FeedbackRequest(BaseModel):
    """Body of POST /v1/feedback: a rating of an answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=1, max_length=256, description="The id of the answer.")
    index: int = Field(0, ge=0, lt=MAX_PROMPTS, description="Which of its choices.")
    rating: float = Field(ge=-1.0, le=1.0, description="From -1, bad, to 1, good.")
    comment: str | None = Field(None, max_length=4096)


def _same(given: Any, neutral: Any) -> bool:
    return bool(given == neutral) and isinstance(given, bool) == isinstance(neutral, bool)


def _are_tokens(value: list[Any]) -> bool:
    return bool(value) and all(isinstance(each, int) and not isinstance(each, bool) for each in value)


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


def completion_choice(request: CompletionRequest, index: int, answer: Answer, engine: Engine) -> dict[str, Any]:
    """Return one completion."""
    found: dict[str, Any] | None = None
    prompt = answer.prompt
    pieces = engine.pieces(prompt) if request.echo and (request.scores_prompt or prompt.truncated) else []
    shown = ("".join(pieces) if prompt.truncated else prompt.text) if request.echo else ""
    if request.logprobs is not None:
        found = written_logprobs(answer.tokens, engine.piece, len(shown), request.logprobs)
        if request.echo:
            before = _echoed(pieces, answer, engine.piece, request.logprobs)
            found = {name: before[name] + found[name] if found[name] is not None else None for name in found}
    return {
        "index": index,
        "text": shown + answer.text,
        "finish_reason": answer.finish,
        "logprobs": found,
        "truncated": prompt.truncated,
    }


def _echoed(pieces: list[str], answer: Answer, piece: Callable[[int], str], top: int) -> dict[str, list[Any]]:
    """Return the tokens of the prompt and their log-probabilities; the first has none where no token is before it."""
    scored = answer.scores(top)
    known: list[float | None] = scored.logprobs.tolist()
    tops: list[dict[str, float] | None] = [
        _named(list(zip(ids, values, strict=True)), piece)
        for ids, values in zip(scored.top_ids.tolist(), scored.top_logprobs.tolist(), strict=True)
    ]
    missing = len(pieces) - len(known)
    return {
        "tokens": pieces,
        "token_logprobs": [None] * missing + known,
        "text_offset": list(accumulate((len(text) for text in pieces), initial=0))[: len(pieces)],
        "top_logprobs": [None] * missing + tops,
    }


def written_logprobs(
    tokens: Sequence[Token], piece: Callable[[int], str], start: int = 0, top: int = 0
) -> dict[str, Any]:
    """Return the log-probabilities of written tokens, their texts beginning at a place of the text shown."""
    offsets = list(accumulate((len(token.text) for token in tokens), initial=start))
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "text_offset": offsets[: len(tokens)],
        "top_logprobs": [_named(token.top, piece) for token in tokens] if top else None,
    }


def _named(top: Sequence[tuple[int, float]], piece: Callable[[int], str]) -> dict[str, float]:
    """Return log-probabilities by the texts of their tokens, by their numbers where two have the same text."""
    found: dict[str, float] = {}
    for token, logprob in top:
        text = piece(token)
        found[f"token_id:{token}" if text in found else text] = logprob
    return found


def chat_logprobs(tokens: Sequence[Token], piece: Callable[[int], str]) -> dict[str, Any]:
    """Return the log-probabilities of the tokens of a chat answer."""

    def entry(text: str, logprob: float) -> dict[str, Any]:
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    return {
        "content": [
            entry(token.text, token.logprob)
            | {"top_logprobs": [entry(piece(other), logprob) for other, logprob in token.top]}
            for token in tokens
        ]
    }


def chat_choice(request: ChatRequest, index: int, answer: Answer, engine: Engine) -> dict[str, Any]:
    """Return one answer of a conversation."""
    return {
        "index": index,
        "message": {"role": "assistant", "content": answer.text, "refusal": None},
        "finish_reason": answer.finish,
        "logprobs": chat_logprobs(answer.tokens, engine.piece) if request.logprobs else None,
    }
