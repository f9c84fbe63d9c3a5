"""The addresses of the completion server.

POST /v1/completions, /v1/chat/completions (where the tokenizer has a chat template) and /v1/feedback; GET /v1/models,
/health and /metrics. Answers and errors have the form of OpenAI's. A prompt that does not fit into the context is
refused, or loses its beginning where `"truncation": "auto"` allows it, which the answer says (`truncated`).
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from tasks.model.generate import Token
from tasks.serving import protocol
from tasks.serving.engine import Answer, BadPrompt, Engine, Prompt, TooLong
from tasks.serving.protocol import ChatRequest, CompletionRequest, FeedbackRequest, refusal
from tasks.serving.request_log import Feedback
from tasks.serving.service import Busy, Service, new_key

log = logging.getLogger("ketcycle.serving")

MAX_BODY = 1 << 20
BODY_S = 30.0  # a body that takes longer is not waited for
OPEN = ("/health",)  # asked without a key


def create_app(service: Service, key: str | None = None, follow_s: float | None = None) -> FastAPI:
    """Return the application.

    Args:
        service: what answers.
        key: the API key that everything but /health asks for, None = no key.
        follow_s: seconds between two looks whether the model has changed, None = never.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.at_work(follow_s):
            yield

    app = FastAPI(title="ketcycle completions", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Edge, service=service, key=key)
    _handle_errors(app, service)

    @app.post("/v1/completions")
    async def completions(request: CompletionRequest) -> Response:
        _named(service, request.model)
        with service.using() as engine:
            cut = request.truncation == "auto"
            prompts = [await asyncio.to_thread(engine.prompt, text, truncate=cut) for text in request.prompts]
            return await _answer(service, engine, request, [p for p in prompts for _ in range(request.n)])

    @app.post("/v1/chat/completions")
    async def chat(request: ChatRequest) -> Response:
        _named(service, request.model)
        with service.using() as engine:
            if not engine.chats:
                raise HTTPException(404, f"{service.name!r} is no chat model; ask /v1/completions")
            turns = [message.plain() for message in request.messages]
            cut = request.truncation == "auto"
            prompt = await asyncio.to_thread(engine.conversation, turns, truncate=cut)
            return await _answer(service, engine, request, [prompt] * request.n)

    @app.post("/v1/feedback", status_code=202)
    async def feedback(request: FeedbackRequest) -> dict[str, bool]:
        given = Feedback(f"{request.id}-{request.index}", request.rating, request.comment, time.time())
        return {"logged": service.log.put(given)}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(service)]}

    @app.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        _named(service, name)
        return _model(service)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok", "model": service.name, "version": service.engine.version}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(service.figures.registry), media_type=CONTENT_TYPE_LATEST)

    return app


def _handle_errors(app: FastAPI, service: Service) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        said = str(first["msg"]).removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            said = "this server does not offer it"
        elif not where:
            said = f"send the request as JSON, with Content-Type: application/json ({said})"
        return refusal(400, f"{where}: {said}" if where else said, where or None)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        return refusal(error.status_code, str(error.detail), headers=error.headers)

    @app.exception_handler(BadPrompt)
    async def unusable(_: Request, error: BadPrompt) -> Response:
        return refusal(400, str(error), "prompt", "context_length_exceeded" if isinstance(error, TooLong) else None)

    @app.exception_handler(Busy)
    async def busy(_: Request, error: Busy) -> Response:
        return refusal(429, str(error), code="rate_limit_exceeded", headers={"Retry-After": "1"})

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        service.figures.responses.labels("500").inc()  # answered outside of Edge
        return refusal(500, f"the server failed ({type(error).__name__}); its log says more")


def _named(service: Service, name: str | None) -> None:
    if name not in (None, service.name):
        raise HTTPException(404, f"there is no model {name!r}; this server has {service.name!r}")


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
    service: Service, engine: Engine, request: CompletionRequest | ChatRequest, prompts: Sequence[Prompt]
) -> Response:
    kind = "cmpl" if isinstance(request, CompletionRequest) else "chatcmpl"
    key = new_key(kind)
    if request.stream:
        return _stream(service, engine, request, prompts, key)
    with service.queued(len(prompts)):
        answers = await asyncio.gather(
            *(service.answer(engine, request, prompt, i, key) for i, prompt in enumerate(prompts))
        )
    made = [
        protocol.completion_choice(request, i, answer, engine.decode)
        if isinstance(request, CompletionRequest)
        else protocol.chat_choice(request, i, answer, engine.decode)
        for i, answer in enumerate(answers)
    ]
    body = protocol.envelope(key, _object(request), service.name, engine.version, made)
    return JSONResponse(body | {"usage": protocol.usage_of(answers, request.n)})


def _object(request: CompletionRequest | ChatRequest) -> str:
    if isinstance(request, CompletionRequest):
        return "text_completion"
    return "chat.completion.chunk" if request.stream else "chat.completion"


def _stream(
    service: Service, engine: Engine, request: CompletionRequest | ChatRequest, prompts: Sequence[Prompt], key: str
) -> StreamingResponse:
    """Answer by server-sent events, one for each token that made text certain; who leaves stops the model."""
    loop, left = asyncio.get_running_loop(), threading.Event()
    tokens: asyncio.Queue[tuple[int, Token | None]] = asyncio.Queue()

    async def write(index: int, prompt: Prompt) -> Answer:
        def watch(token: Token) -> bool:
            loop.call_soon_threadsafe(tokens.put_nowait, (index, token))
            return not left.is_set()

        try:
            return await service.answer(engine, request, prompt, index, key, watch)
        finally:
            tokens.put_nowait((index, None))

    with ExitStack() as stack:
        stack.enter_context(service.queued(len(prompts)))
        stack.enter_context(service.using())
        held = stack.pop_all()
    work = asyncio.gather(*(write(i, prompt) for i, prompt in enumerate(prompts)), return_exceptions=True)
    work.add_done_callback(lambda _: held.close())

    def event(choices: list[dict[str, Any]], **more: Any) -> str:
        body = protocol.envelope(key, _object(request), service.name, engine.version, choices)
        return f"data: {json.dumps(body | more)}\n\n"

    async def events() -> AsyncIterator[str]:
        try:
            if isinstance(request, ChatRequest):
                for i in range(len(prompts)):
                    yield event([{"index": i, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
            ended, offsets = 0, [0] * len(prompts)
            while ended < len(prompts):
                index, token = await tokens.get()
                if token is None:
                    ended += 1
                elif token.text or token.finish or _wants_logprobs(request):
                    yield event([_piece(request, engine, index, token, offsets[index])])
                    offsets[index] += len(token.text)
            answers = await work
            failed = next((a for a in answers if isinstance(a, BaseException)), None)
            if failed:
                log.error("a stream ended early", exc_info=failed)
                error = {"message": f"the server failed ({type(failed).__name__})", "type": "server_error"}
                yield f"data: {json.dumps({'error': error})}\n\n"
            elif request.stream_options and request.stream_options.include_usage:
                yield event([], usage=protocol.usage_of([a for a in answers if isinstance(a, Answer)], request.n))
            yield "data: [DONE]\n\n"
        finally:
            left.set()

    return StreamingResponse(events(), media_type="text/event-stream")


def _wants_logprobs(request: CompletionRequest | ChatRequest) -> bool:
    return request.logprobs is not None and request.logprobs is not False


def _piece(
    request: CompletionRequest | ChatRequest, engine: Engine, index: int, token: Token, offset: int
) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": index, "finish_reason": token.finish, "logprobs": None}
    if isinstance(request, CompletionRequest):
        if request.logprobs is not None:
            choice["logprobs"] = protocol.written_logprobs([token], engine.decode, offset)
        return choice | {"text": token.text}
    if request.logprobs:
        choice["logprobs"] = protocol.chat_logprobs([token], engine.decode)
    return choice | {"delta": {"content": token.text} if token.text else {}}


class Edge:
    """ASGI middleware: asks for the key, counts answers, and reads no body longer than allowed or slower than patient.

    A body of more than `MAX_BODY` bytes gets 413 whether it says its length or not.
    """

    def __init__(self, app: Any, service: Service, key: str | None) -> None:
        self.app, self.service, self.key = app, service, key

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on with its body read and counted."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def counted(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.service.figures.responses.labels(str(message["status"])).inc()
            await send(message)

        if self.key is not None and scope["path"] not in OPEN and not _has_key(scope["headers"], self.key):
            answer = refusal(
                401,
                "this server asks for an API key: Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
            await answer(scope, receive, counted)
            return
        chunks: list[dict[str, Any]] = []
        try:
            async with asyncio.timeout(BODY_S):
                whole = await _read(receive, chunks)
        except TimeoutError:
            await refusal(408, f"the body did not come within {BODY_S:g} s")(scope, receive, counted)
            return
        if not whole:
            await refusal(413, f"the body has more than {MAX_BODY} bytes")(scope, receive, counted)
            return

        async def replay() -> Any:
            return chunks.pop(0) if chunks else await receive()

        await self.app(scope, replay, counted)


async def _read(receive: Any, chunks: list[dict[str, Any]]) -> bool:
    """Read a body; False as soon as it is too long."""
    size, more = 0, True
    while more:
        message = await receive()
        chunks.append(message)
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
        if size > MAX_BODY:
            return False
    return True


def _has_key(headers: Sequence[tuple[bytes, bytes]], key: str) -> bool:
    given = next((value for name, value in headers if name == b"authorization"), b"")
    return hmac.compare_digest(given, f"Bearer {key}".encode())
