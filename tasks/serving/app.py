"""The addresses of the completion server.

POST /v1/completions, /v1/chat/completions (where the tokenizer has a chat template) and /v1/feedback; GET /v1/models,
/health and /metrics. Answers and errors have the form of OpenAI's. A prompt that does not fit into the context is
refused, or loses its beginning where `"truncation": "auto"` allows it, which the answer says (`truncated`). A client
that closes its connection ends its texts, whether it streams or not.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from tasks.model.generation.generate import Token
from tasks.serving import protocol
from tasks.serving.edge import Edge, Limits, cors
from tasks.serving.engine import Answer, BadPrompt, Engine, Prompt, TooLong
from tasks.serving.protocol import Body, ChatRequest, CompletionRequest, FeedbackRequest, Refused, read_body, refusal
from tasks.serving.request_log import Feedback
from tasks.serving.service import Busy, Service, new_key

log = logging.getLogger("ketcycle.serving")

GONE = 499  # the client closed its connection; the status is for the metrics only


def create_app(service: Service, limits: Limits | None = None, follow_s: float | None = None) -> FastAPI:
    """Return the application.

    Args:
        service: the model, its log and its figures.
        limits: key, sizes, rates and origins.
        follow_s: seconds between two looks whether the model has changed, None = never.
    """
    limits = limits or Limits()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.at_work(follow_s):
            yield

    app = FastAPI(title="ketcycle completions", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Edge, limits=limits, count=lambda status: service.figures.responses.labels(str(status)).inc())
    if limits.origins:
        app.add_middleware(CORSMiddleware, **cors(limits.origins))
    _handle_errors(app, service)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        asked = await _read(request, CompletionRequest)
        _named(service, asked.model)
        with service.using() as engine:
            _biased(engine, asked)
            cut = asked.truncation == "auto"
            prompts = [await asyncio.to_thread(engine.prompt, given, truncate=cut) for given in asked.prompt]
            return await _answer(service, engine, asked, [p for p in prompts for _ in range(asked.n)], request)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        asked = await _read(request, ChatRequest)
        _named(service, asked.model)
        with service.using() as engine:
            if not engine.chats:
                raise HTTPException(404, f"{service.name!r} is no chat model; ask /v1/completions")
            _biased(engine, asked)
            turns = [message.plain() for message in asked.messages]
            cut = asked.truncation == "auto"
            prompt = await asyncio.to_thread(engine.conversation, turns, truncate=cut)
            return await _answer(service, engine, asked, [prompt] * asked.n, request)

    @app.post("/v1/feedback", status_code=202)
    async def feedback(request: Request) -> dict[str, bool]:
        asked = await _read(request, FeedbackRequest)
        given = Feedback(f"{asked.id}-{asked.index}", asked.rating, asked.comment, time.time())
        return {"logged": service.log.put(given)}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(service)]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        _named(service, name)
        return _model(service)

    @app.api_route("/health", methods=["GET", "HEAD"])
    async def health() -> dict[str, str]:
        return {"status": "ok", "model": service.name, "version": service.engine.version}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(service.figures.registry), media_type=CONTENT_TYPE_LATEST)

    return app


async def _read(request: Request, kind: type[Body]) -> Body:
    headers = request.headers
    return read_body(kind, await request.body(), headers.get("content-type", ""), headers.get("content-encoding", ""))


def _handle_errors(app: FastAPI, service: Service) -> None:
    @app.exception_handler(Refused)
    async def wrong(_: Request, error: Refused) -> Response:
        return refusal(error.status, str(error), error.param, error.code)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        said, code = str(error.detail), None
        if said in ("Not Found", "Method Not Allowed"):  # of the router
            said, code = f"this server has no {request.method} {request.url.path}", "unknown_url"
        return refusal(error.status_code, said, code=code, headers=error.headers)

    @app.exception_handler(BadPrompt)
    async def unusable(request: Request, error: BadPrompt) -> Response:
        where = "messages" if "/chat/" in request.url.path else "prompt"
        return refusal(400, str(error), where, "context_length_exceeded" if isinstance(error, TooLong) else None)

    @app.exception_handler(Busy)
    async def busy(_: Request, error: Busy) -> Response:
        return refusal(429, str(error), code="rate_limit_exceeded", headers={"Retry-After": "1"})

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        service.figures.responses.labels("500").inc()  # answered outside of Edge
        return refusal(500, f"the server failed ({type(error).__name__}); its log says more")


def _named(service: Service, name: str | None) -> None:
    if name not in (None, service.name):
        raise Refused(f"there is no model {name!r}; this server has {service.name!r}", "model", 404, "model_not_found")


def _biased(engine: Engine, asked: CompletionRequest | ChatRequest) -> None:
    try:
        engine.check_tokens(asked.logit_bias)
    except BadPrompt as error:
        raise Refused(f"logit_bias: {error}", "logit_bias") from None


def _model(service: Service) -> dict[str, Any]:
    return {
        "id": service.name,
        "object": "model",
        "created": service.started,
        "owned_by": "ketcycle",
        "version": service.engine.version,
        "context": service.engine.context,
        "chat": service.engine.chats,
    }


async def _answer(
    service: Service,
    engine: Engine,
    asked: CompletionRequest | ChatRequest,
    prompts: Sequence[Prompt],
    request: Request,
) -> Response:
    key = new_key("cmpl" if isinstance(asked, CompletionRequest) else "chatcmpl")
    if asked.stream:
        return _stream(service, engine, asked, prompts, key)
    left = threading.Event()
    watching = asyncio.create_task(_leaves(request, left))
    try:
        with service.queued(len(prompts)):
            answers = await asyncio.gather(
                *(service.answer(engine, asked, prompt, f"{key}-{i}", i, left) for i, prompt in enumerate(prompts))
            )
    finally:
        left.set()  # where one text failed, the others of the request end too
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
    if any(answer.finish == "cancelled" for answer in answers):
        return refusal(GONE, "the client closed its connection")
    made = await asyncio.to_thread(_choices, asked, answers, engine)
    body = protocol.envelope(key, _object(asked), service.name, engine.version, made)
    return JSONResponse(body | {"usage": protocol.usage_of(answers, asked.n)})


async def _leaves(request: Request, left: threading.Event) -> None:
    """Set an event when the client closes its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    left.set()


def _choices(asked: CompletionRequest | ChatRequest, answers: Sequence[Answer], engine: Engine) -> list[dict[str, Any]]:
    if isinstance(asked, CompletionRequest):
        return [protocol.completion_choice(asked, i, answer, engine) for i, answer in enumerate(answers)]
    return [protocol.chat_choice(asked, i, answer, engine) for i, answer in enumerate(answers)]


def _object(asked: CompletionRequest | ChatRequest) -> str:
    if isinstance(asked, CompletionRequest):
        return "text_completion"
    return "chat.completion.chunk" if asked.stream else "chat.completion"


def _stream(
    service: Service, engine: Engine, asked: CompletionRequest | ChatRequest, prompts: Sequence[Prompt], key: str
) -> StreamingResponse:
    """Answer by server-sent events, one for each token that made text certain; a client that leaves ends its texts."""
    loop, left = asyncio.get_running_loop(), threading.Event()
    reports = bool(asked.stream_options and asked.stream_options.include_usage)
    tokens: asyncio.Queue[tuple[int, Token | None]] = asyncio.Queue()

    async def write(index: int, prompt: Prompt) -> Answer:
        def watch(token: Token) -> None:
            loop.call_soon_threadsafe(tokens.put_nowait, (index, token))

        try:
            return await service.answer(engine, asked, prompt, f"{key}-{index}", index, left, watch)
        finally:
            tokens.put_nowait((index, None))

    with ExitStack() as stack:
        stack.enter_context(service.queued(len(prompts)))
        stack.enter_context(service.using())
        held = stack.pop_all()
    work = asyncio.gather(*(write(i, prompt) for i, prompt in enumerate(prompts)), return_exceptions=True)
    work.add_done_callback(lambda _: held.close())

    def event(choices: list[dict[str, Any]], **more: Any) -> str:
        body = protocol.envelope(key, _object(asked), service.name, engine.version, choices)
        usage = {"usage": None} if reports else {}  # of a stream that ends with it
        return f"data: {json.dumps(body | usage | more)}\n\n"

    async def events() -> AsyncIterator[str]:
        try:
            if isinstance(asked, ChatRequest):
                for i in range(len(prompts)):
                    yield event([{"index": i, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
            ended, offsets = 0, [0] * len(prompts)
            while ended < len(prompts):
                index, token = await tokens.get()
                if token is None:
                    ended += 1
                elif token.text or token.finish or _wants_logprobs(asked):
                    yield event([_piece(asked, engine, index, token, offsets[index])])
                    offsets[index] += len(token.text)
            answers = await work
            failed = next((a for a in answers if isinstance(a, BaseException)), None)
            if failed:
                log.error("a stream ended early", exc_info=failed)
                error = {"message": f"the server failed ({type(failed).__name__})", "type": "server_error"}
                yield f"data: {json.dumps({'error': error | {'param': None, 'code': None}})}\n\n"
            elif reports:
                yield event([], usage=protocol.usage_of([a for a in answers if isinstance(a, Answer)], asked.n))
            yield "data: [DONE]\n\n"
        finally:
            left.set()

    return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


def _wants_logprobs(asked: CompletionRequest | ChatRequest) -> bool:
    return asked.logprobs is not None and asked.logprobs is not False


def _piece(
    asked: CompletionRequest | ChatRequest, engine: Engine, index: int, token: Token, offset: int
) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": index, "finish_reason": token.finish, "logprobs": None}
    if isinstance(asked, CompletionRequest):
        if asked.logprobs is not None:
            choice["logprobs"] = protocol.written_logprobs([token], engine.piece, offset, asked.logprobs)
        return choice | {"text": token.text}
    if asked.logprobs:
        choice["logprobs"] = protocol.chat_logprobs([token], engine.piece)
    return choice | {"delta": {"content": token.text} if token.text else {}}
