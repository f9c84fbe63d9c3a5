"""An OpenAI-compatible completion server for one model, on the loopback interface only.

`python -m tasks.serving.server --model DIR --home DIR --run ID --port 0 --ready-file F`

Offers POST /v1/completions, GET /v1/models, /health and /metrics. Differences from OpenAI's API: one completion for
each prompt (`n`, `best_of` = 1), no nucleus sampling and no penalties, `logprobs` gives the tokens' own
log-probabilities without alternatives; a request for anything else is refused, not ignored. A prompt longer than the
context loses its beginning, which the answer says (`truncated`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import socket
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, field_validator
from starlette.exceptions import HTTPException

from infra.lake import Lake, write_atomic
from tasks.model.causal import separator
from tasks.model.generate import Sampling, Token
from tasks.serving import request_log
from tasks.serving.engine import Answer, Engine
from tasks.serving.request_log import RequestLog, Source

log = logging.getLogger("ketcycle.serving")

MAX_BODY = 1 << 20
MAX_PROMPTS = 64
MAX_TOKENS = 2048
MAX_WAITING = 128
HOST = "127.0.0.1"


class CompletionRequest(BaseModel):
    """Body of POST /v1/completions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = None
    prompt: str | list[str]
    max_tokens: int = Field(16, ge=0, le=MAX_TOKENS)
    temperature: float = Field(1.0, ge=0.0, le=2.0)
    stop: str | list[str] | None = None
    seed: int | None = Field(None, ge=0, lt=2**63)
    logprobs: int | None = Field(None, ge=0, le=5)
    stream: bool = False
    user: str | None = Field(None, max_length=256)
    n: Literal[1] = 1
    best_of: Literal[1] = 1
    echo: Literal[False] = False
    suffix: None = None
    top_p: Literal[1] = 1
    presence_penalty: Literal[0] = 0
    frequency_penalty: Literal[0] = 0

    @field_validator("prompt")
    @classmethod
    def _some_text(cls, value: str | list[str]) -> str | list[str]:
        if isinstance(value, list) and not 1 <= len(value) <= MAX_PROMPTS:
            raise ValueError(f"give 1 to {MAX_PROMPTS} prompts, not {len(value)}")
        return value

    @field_validator("stop")
    @classmethod
    def _few_stops(cls, value: str | list[str] | None) -> str | list[str] | None:
        stops = [value] if isinstance(value, str) else value or []
        if len(stops) > 4 or not all(1 <= len(s) <= 64 for s in stops):
            raise ValueError("give at most 4 stop strings of 1 to 64 characters")
        return value

    @property
    def prompts(self) -> list[str]:
        """The prompts, one or many."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    def sampling(self, index: int) -> Sampling:
        """Return how the completion of one of the prompts is drawn."""
        seed = int.from_bytes(os.urandom(6), "big") if self.seed is None else self.seed + index
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return Sampling(max_tokens=self.max_tokens, temperature=self.temperature, seed=seed, stop=stop)


@dataclass
class Service:
    """What answers requests: the model, its thread, the log and the counters."""

    engine: Engine
    requests: RequestLog
    name: str
    started: int = field(default_factory=lambda: int(time.time()))
    waiting: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="model"))

    @contextmanager
    def queued(self, prompts: int) -> Iterator[None]:
        """Count prompts as waiting."""
        self.waiting += prompts
        try:
            yield
        finally:
            self.waiting -= prompts

    async def answer(
        self, request: CompletionRequest, index: int, key: str, watch: Callable[[Token], bool] | None = None
    ) -> Answer:
        """Complete one of the prompts behind those that wait already, and log it."""
        received, began = time.time(), time.monotonic()
        prompt = request.prompts[index]
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(self.pool, self.engine.answer, prompt, request.sampling(index), watch)
        self.counts["prompt_tokens"] += answer.prompt_tokens
        self.counts["completion_tokens"] += len(answer.logprobs)
        latency_s = time.monotonic() - began
        self.requests.put(
            request_log.Request(
                request_id=f"{key}-{index}",
                prompt=prompt,
                label=request.user,
                prompt_tokens=answer.prompt_tokens,
                completion_tokens=len(answer.logprobs),
                latency_s=latency_s,
                cpu_s=answer.cpu_s,
                received=received,
            )
        )
        return answer

    def body(self, key: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the part of an answer that all of them share."""
        return {
            "id": key,
            "object": "text_completion",
            "created": int(time.time()),
            "model": self.name,
            "system_fingerprint": self.engine.version,
            "choices": choices,
        }


def create_app(service: Service) -> FastAPI:
    """Return the application."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.pool.shutdown(wait=True, cancel_futures=True)
        service.requests.close()

    app = FastAPI(title="ketcycle completions", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Edge, limit=MAX_BODY, counts=service.counts)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return _refusal(400, f"{where}: {first['msg']}" if where else str(first["msg"]), where or None)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        return _refusal(error.status_code, str(error.detail), headers=dict(error.headers or {}))

    @app.post("/v1/completions")
    async def completions(request: CompletionRequest) -> Response:
        if request.model not in (None, service.name):
            raise HTTPException(404, f"there is no model {request.model!r}; this server has {service.name!r}")
        if service.waiting + len(request.prompts) > MAX_WAITING:
            return _refusal(
                503, f"{service.waiting} prompts wait already; try again later", headers={"Retry-After": "1"}
            )
        if not all(request.prompts) and separator(service.engine.tokenizer) is None:
            raise HTTPException(400, "the prompt is empty and the tokenizer has no token to start from")
        key = f"cmpl-{uuid.uuid4().hex}"
        if request.stream:
            return StreamingResponse(_events(service, request, key), media_type="text/event-stream")
        with service.queued(len(request.prompts)):
            answers = [await service.answer(request, i, key) for i in range(len(request.prompts))]
        choices = [_choice(i, a, request.logprobs is not None) for i, a in enumerate(answers)]
        return JSONResponse(service.body(key, choices) | {"usage": _usage(answers)})

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        entry = {
            "id": service.name,
            "object": "model",
            "created": service.started,
            "owned_by": "ketcycle",
            "version": service.engine.version,
            "context": service.engine.context,
        }
        return {"object": "list", "data": [entry]}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def metrics() -> Response:
        return PlainTextResponse(_metrics(service), media_type="text/plain; version=0.0.4")

    return app


class Edge:
    """ASGI middleware: counts answers; a body of more than `limit` bytes gets 413 whether it says its length or not."""

    def __init__(self, app: Any, limit: int, counts: Counter[str]) -> None:
        self.app, self.limit, self.counts = app, limit, counts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on with its body read and counted."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def counted(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.counts[f"responses_{message['status']}"] += 1
            await send(message)

        chunks: list[dict[str, Any]] = []
        size, more = 0, True
        while more:
            message = await receive()
            chunks.append(message)
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
            if size > self.limit:
                await _refusal(413, f"the body has more than {self.limit} bytes")(scope, receive, counted)
                return

        async def replay() -> Any:
            return chunks.pop(0) if chunks else await receive()

        await self.app(scope, replay, counted)


def _refusal(
    status: int, message: str, where: str | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": where, "code": status}
    return JSONResponse({"error": error}, status_code=status, headers=headers)


def _choice(index: int, answer: Answer, logprobs: bool) -> dict[str, Any]:
    found: dict[str, Any] | None = None
    if logprobs:
        offsets = [sum(len(t) for t in answer.tokens[:i]) for i in range(len(answer.tokens))]
        found = {
            "tokens": list(answer.tokens),
            "token_logprobs": list(answer.logprobs),
            "text_offset": offsets,
            "top_logprobs": None,
        }
    return {
        "index": index,
        "text": answer.text,
        "finish_reason": answer.finish,
        "logprobs": found,
        "truncated": answer.truncated,
    }


def _usage(answers: list[Answer]) -> dict[str, int]:
    read = sum(a.prompt_tokens for a in answers)
    written = sum(len(a.logprobs) for a in answers)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


async def _events(service: Service, request: CompletionRequest, key: str) -> AsyncIterator[str]:
    """Yield server-sent events, one for each token that made text certain; a client that leaves stops the model."""
    with service.queued(len(request.prompts)):
        for index in range(len(request.prompts)):
            async for event in _events_of(service, request, index, key):
                yield event
    yield "data: [DONE]\n\n"


async def _events_of(service: Service, request: CompletionRequest, index: int, key: str) -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    tokens: asyncio.Queue[Token | None] = asyncio.Queue()
    left = threading.Event()

    def watch(token: Token) -> bool:
        loop.call_soon_threadsafe(tokens.put_nowait, token)
        return not left.is_set()

    def end(_: asyncio.Task[Answer]) -> None:
        tokens.put_nowait(None)

    work = asyncio.create_task(service.answer(request, index, key, watch))
    work.add_done_callback(end)
    try:
        while (token := await tokens.get()) is not None:
            if token.text or token.finish:
                choice = {"index": index, "text": token.text, "finish_reason": token.finish, "logprobs": None}
                yield f"data: {json.dumps(service.body(key, [choice]))}\n\n"
        await work
    finally:
        left.set()


def _metrics(service: Service) -> str:
    counts = service.counts
    lines = ["# TYPE ketcycle_responses_total counter"]
    codes = sorted(name.removeprefix("responses_") for name in counts if name.startswith("responses_"))
    lines += [f'ketcycle_responses_total{{code="{code}"}} {counts[f"responses_{code}"]}' for code in codes]
    figures = {
        "prompt_tokens_total": ("counter", counts["prompt_tokens"]),
        "completion_tokens_total": ("counter", counts["completion_tokens"]),
        "waiting": ("gauge", service.waiting),
        "log_rows_written_total": ("counter", service.requests.written),
        "log_rows_lost_total": ("counter", service.requests.lost),
        "log_rows_pending": ("gauge", service.requests.pending),
    }
    for name, (kind, value) in figures.items():
        lines += [f"# TYPE ketcycle_{name} {kind}", f"ketcycle_{name} {value}"]
    return "\n".join(lines) + "\n"


class _Server(uvicorn.Server):
    """Says that it listens by a file with its address."""

    def __init__(self, config: uvicorn.Config, port: int, ready: Path | None) -> None:
        super().__init__(config)
        self._port, self._ready = port, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        address = {"url": f"http://{HOST}:{self._port}", "pid": os.getpid()}
        log.info("listening on %s", address["url"])
        if self._ready:
            write_atomic(self._ready, json.dumps(address))

    def stop_at_end_of_input(self) -> None:
        """Stop when standard input closes: a parent that was killed leaves no server behind."""
        sys.stdin.buffer.read()
        self.should_exit = True


def main(arguments: list[str] | None = None) -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="tasks.serving.server", description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--model", type=Path, required=True, help="folder of the model, with its tokenizer")
    parser.add_argument("--home", type=Path, required=True, help="state folder; its lake gets the request log")
    parser.add_argument("--run", required=True, help="run that the requests belong to")
    parser.add_argument("--port", type=int, default=0, help="0 = a free one")
    parser.add_argument("--ready-file", type=Path, help="written with the address when the server listens")
    parser.add_argument("--name", default="ketcycle", help="name of the model in the API")
    parser.add_argument("--version", default="", help="version of the model in the log; default: digest of its weights")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--flush-s", type=float, default=2.0, help="longest time that a row waits for the lake")
    parser.add_argument("--keep-text", action="store_true", help="store the prompts themselves in the log")
    parser.add_argument("--stop-with-parent", action="store_true", help="stop when standard input closes")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    with socket.socket() as listener:
        # Before the model is read: a port that is taken should be said at once.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, options.port))
        listener.listen(MAX_WAITING)
        engine = Engine(options.model, options.threads, options.version)
        source = Source(options.run, engine.version, engine.mean_logprob, options.keep_text)
        requests = RequestLog(Lake(options.home / "lake"), source, options.flush_s)
        app = create_app(Service(engine, requests, options.name))
        config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=10)
        server = _Server(config, listener.getsockname()[1], options.ready_file)
        if options.stop_with_parent:
            threading.Thread(target=server.stop_at_end_of_input, daemon=True).start()
        server.run(sockets=[listener])


if __name__ == "__main__":
    main()
