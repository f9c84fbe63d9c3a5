"""Key, limits and rates before an application that counts what reaches it."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import httpx
import pytest

from tasks.serving.edge import CALLERS, Edge, Limits, Rates
from tasks.serving.listen import _bound


class Echo:
    """Answers with the size of the body once it is allowed to."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.go.set()
        self.asked = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked += 1
        body = (await receive()).get("body", b"")
        await self.go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(len(body)).encode()})


def client(limits: Limits, echo: Echo, counted: list[int]) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(Edge(echo, limits, counted.append))
    return httpx.AsyncClient(transport=transport, base_url="http://x")


def test_what_is_beyond_the_limits_is_refused_in_openais_form() -> None:
    async def run() -> None:
        echo, counted = Echo(), list[int]()
        limits = Limits(key="k" * 16, requests=2, body_bytes=10)
        async with client(limits, echo, counted) as asking:
            assert (await asking.get("/health")).status_code == 200
            assert (await asking.get("/v1/models")).status_code == 401
            asking.headers["Authorization"] = "Bearer " + "k" * 16
            assert (await asking.post("/v1/completions", content=b"x" * 10)).text == "10"
            assert (await asking.post("/v1/completions", content=b"x" * 11)).status_code == 413
            echo.go.clear()
            running = [asyncio.create_task(asking.get("/v1/models")) for _ in range(2)]
            while echo.asked < 4:
                await asyncio.sleep(0.01)
            full = await asking.get("/v1/models")
            assert full.status_code == 503
            assert full.headers["retry-after"] == "1"
            assert full.json()["error"]["code"] == "overloaded"
            echo.go.set()
            assert [(await task).status_code for task in running] == [200, 200]
        assert sorted(counted) == [200, 200, 200, 200, 401, 413, 503]

    asyncio.run(run())


def test_a_caller_has_its_own_rate() -> None:
    rates = Rates(60)
    assert [rates.wait_s(b"a", 0.0) for _ in range(60)] == [0.0] * 60
    assert rates.wait_s(b"a", 0.0) == pytest.approx(1.0)
    assert rates.wait_s(b"b", 0.0) == 0.0
    assert rates.wait_s(b"a", 0.5) == pytest.approx(0.5)
    assert rates.wait_s(b"a", 1.0) == 0.0
    for i in range(CALLERS + 10):
        rates.wait_s(str(i).encode(), 2.0)
    assert len(rates._callers) == CALLERS


def test_a_rate_that_is_spent_is_answered_with_the_time_to_wait() -> None:
    async def run() -> None:
        async with client(Limits(per_minute=1), Echo(), []) as asking:
            assert (await asking.post("/v1/completions", content=b"a")).status_code == 200
            spent = await asking.post("/v1/completions", content=b"a")
            assert spent.status_code == 429
            assert 1 <= int(spent.headers["retry-after"]) <= 61
            assert (await asking.get("/v1/models")).status_code == 200

    asyncio.run(run())


def test_small_pieces_of_an_answer_do_not_wait_for_the_client() -> None:
    async def no_delay() -> int:
        accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listener = _bound("127.0.0.1", 0)
        async with await asyncio.start_server(answer, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            found = await accepted
            writer.close()
            await writer.wait_closed()
        return found

    assert asyncio.run(no_delay())
