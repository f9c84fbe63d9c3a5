"""What the gateway adds to a request, and whether it holds many streams: `python -m benchmarks.gateway`.

Measured beside a bare upstream of the same process kind that answers at once: requests in turn, one to the upstream and
one through the gateway, so that both see the same load of the machine; then streams through the gateway, all open; then
64 streams while the upstream is killed in the middle, with what clients and log rows say of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import uvicorn

from infra.shared import open_lake
from tasks.serving.request_log import read_requests

KILLED = "killed"
WORD = {"index": 0, "text": " word", "finish_reason": None, "logprobs": None}
CHUNK = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "bare", "choices": [WORD]}
USAGE = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """Answer at once, or one word every 50 ms."""
    if scope["type"] == "lifespan":
        for _ in range(2):
            await send({"type": (await receive())["type"] + ".complete"})
        return
    body, more = b"", scope["method"] == "POST"
    while more:
        message = await receive()
        body, more = body + message["body"], message.get("more_body", False)
    asked = json.loads(body or b"{}")
    if not asked.get("stream"):
        out = json.dumps({**CHUNK, "usage": USAGE}).encode()
        length = (b"content-length", str(len(out)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": out})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for _ in range(asked["max_tokens"]):
        line = b"data: " + json.dumps(CHUNK).encode() + b"\n\n"
        await send({"type": "http.response.body", "body": line, "more_body": True})
        await asyncio.sleep(0.05)
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


async def one(session: aiohttp.ClientSession, url: str, **asked: Any) -> tuple[float, int]:
    """Return seconds and events of a request."""
    began = time.perf_counter()
    async with session.post(f"{url}/v1/completions", json={"prompt": "The module defines", **asked}) as answer:
        body = await answer.read()
    assert answer.status == 200, body
    return time.perf_counter() - began, body.count(b"data: ")


async def cut(session: aiohttp.ClientSession, gateway: str) -> str:
    """Return how a stream ended for its client: `whole`, `cut` with words before, or `empty`."""
    words = b""
    try:
        asked = {"prompt": "The module defines", "stream": True, "max_tokens": 400, "user": KILLED}
        async with session.post(f"{gateway}/v1/completions", json=asked) as answer:
            async for part in answer.content.iter_any():
                words += part
    except aiohttp.ClientError:
        return "cut" if words.count(b"data: ") else "empty"
    return "whole"


async def killed(gateway: str, upstream: subprocess.Popen[bytes]) -> dict[str, int]:
    """Return how 64 streams ended whose upstream was killed while all were open."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        streams = [asyncio.create_task(cut(session, gateway)) for _ in range(64)]
        await asyncio.sleep(3)
        upstream.kill()
        return dict(Counter(await asyncio.gather(*streams)))


async def measure(upstream: str, gateway: str, requests: int, streams: int, process: psutil.Process) -> dict[str, Any]:
    """Return medians of both roads, the CPU time a request takes in the gateway, and the streams that came whole."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        for url in (upstream, gateway) * 20:
            await one(session, url)
        cpu, roads = _answering_s(process), {upstream: list[float](), gateway: list[float]()}
        for _ in range(requests):
            for url, seconds in roads.items():
                seconds.append((await one(session, url))[0])
        cpu = _answering_s(process) - cpu
        began = time.perf_counter()
        words = 40
        answers = await asyncio.gather(
            *(one(session, gateway, stream=True, max_tokens=words) for _ in range(streams)), return_exceptions=True
        )
        whole = sum(not isinstance(a, BaseException) and a[1] == words + 1 for a in answers)
        paired = [through - alone for alone, through in zip(*roads.values(), strict=True)]
        return {
            "median_upstream_ms": 1e3 * statistics.median(roads[upstream]),
            "median_gateway_ms": 1e3 * statistics.median(roads[gateway]),
            "median_added_ms": 1e3 * statistics.median(paired),
            "gateway_cpu_ms_per_request": 1e3 * cpu / requests,
            "streams": streams,
            "streams_whole": whole,
            "streams_s": time.perf_counter() - began,
        }


def _answering_s(process: psutil.Process) -> float:
    """Return the CPU seconds of the thread that answers; the log works in another one."""
    return next(t.user_time + t.system_time for t in process.threads() if t.id == process.pid)


def main() -> None:
    """Start both servers and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--streams", type=int, default=512)
    parser.add_argument("--bare", type=int, default=0, help="serve as the upstream on this port")
    options = parser.parse_args()
    if options.bare:
        uvicorn.run(bare, port=options.bare, log_level="warning", access_log=False)
        return
    with tempfile.TemporaryDirectory() as scratch:
        port, ready = 8199, Path(scratch) / "ready.json"
        upstream = f"http://127.0.0.1:{port}"
        starts = [["-m", "benchmarks.gateway", "--bare", str(port)]]
        gate = ["-m", "tasks.serving.gateway.server", "--upstream", upstream, "--home", scratch]
        starts.append([*gate, "--ready-file", str(ready)])
        processes = [subprocess.Popen([sys.executable, *start]) for start in starts]
        try:
            while not ready.exists():
                time.sleep(0.1)
            gateway = json.loads(ready.read_text())["url"]
            process = psutil.Process(processes[1].pid)
            found = asyncio.run(measure(upstream, gateway, options.requests, options.streams, process))
            found["killed_clients"] = asyncio.run(killed(gateway, processes[0]))
            time.sleep(5)  # rows wait for two seconds
            rows = [r for r in read_requests(open_lake(Path(scratch))).to_pylist() if r["label"] == KILLED]
            found["killed_rows"] = dict(Counter(row["finish"] for row in rows))
            found["killed_rows_with_reason"] = sum(row["error"] is not None and row["status"] == 200 for row in rows)
            print(json.dumps(found, indent=1))
        finally:
            for started in processes:
                started.terminate()
                started.wait(30)


if __name__ == "__main__":
    main()
