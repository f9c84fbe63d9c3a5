"""A bare OpenAI-like server for tests: answers at once, word by word, late, gzipped, or breaks off."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

WORD = {"index": 0, "text": " word", "finish_reason": None, "logprobs": None}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
ABOUT = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "bare-7b"}


class Bare:
    """The application; keeps what it was asked.

    Attributes:
        asked: method, path with query, headers and body of every request.
        left: requests whose client closed its connection.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.left = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for _ in range(2):
                await send({"type": (await receive())["type"] + ".complete"})
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        path = scope["raw_path"].decode() + ("?" + scope["query_string"].decode() if scope["query_string"] else "")
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.asked.append((scope["method"], path, headers, body))
        asked = json.loads(body) if body.startswith(b"{") else {}
        how = asked.get("user", "")
        if asked.get("stream"):
            await self._stream(how, receive, send)
            return
        out: dict[str, Any]
        if how == "refused":
            status, out = 400, {"error": {"message": "no such thing", "type": "invalid_request_error"}}
        else:
            status, out = 200, {**ABOUT, "choices": [{**WORD, "finish_reason": "length"}], "usage": USAGE}
        said = json.dumps(out).encode()
        packed = gzip.compress(said) if how == "gzip" else said
        answer = [(b"content-type", b"application/json"), (b"x-served-by", b"bare")]
        answer += [(b"content-encoding", b"gzip")] if how == "gzip" else []
        answer += [(b"content-length", str(len(packed)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": answer})
        await send({"type": "http.response.body", "body": packed})

    async def _stream(self, how: str, receive: Any, send: Any) -> None:
        gone = asyncio.create_task(self._watch(receive))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for i in range(100 if how == "slow" else 5):
            line = b"data: " + json.dumps({**ABOUT, "choices": [WORD]}).encode() + b"\n\n"
            await send({"type": "http.response.body", "body": line, "more_body": True})
            await asyncio.sleep(0.05 if how == "slow" else 0.01)
            if (how == "cut" and i == 2) or gone.done():
                gone.cancel()
                return
        last = b"data: " + json.dumps({**ABOUT, "choices": [], "usage": USAGE}).encode() + b"\n\ndata: [DONE]\n\n"
        await send({"type": "http.response.body", "body": last})
        gone.cancel()

    async def _watch(self, receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.left += 1


@contextmanager
def served(app: Any) -> Iterator[str]:
    """Serve an application from a thread."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="critical", access_log=False, date_header=False, ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(20)
