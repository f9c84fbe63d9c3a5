"""The gateway before a bare server, both on real sockets."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from infra.energy.usage import Usage
from infra.lake import Lake
from tasks.serving.edge import Edge, Limits
from tasks.serving.gateway.app import Gateway, Upstream
from tasks.serving.gateway.shares import Shares
from tasks.serving.request_log import RequestLog, Rules, read_requests

sys.path.insert(0, str(Path(__file__).parents[3] / "doubles"))
from openai_server import Bare, served

KEY, OURS = "upstream-key-0123456789", "gateway-key-0123456789"


class Steady:
    """A server that holds one gigabyte and uses some CPU."""

    name = "a known rate"

    def read(self) -> Usage:
        return Usage(cpu_s=time.monotonic(), rss_gb_s=time.monotonic())


@dataclass
class Front:
    bare: Bare
    url: str
    upstream: str
    lake: Lake
    client: httpx.Client

    def rows(self, wanted: Callable[[dict[str, Any]], bool], count: int = 1) -> list[dict[str, Any]]:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            rows = [row for row in read_requests(self.lake).to_pylist() if wanted(row)]
            if len(rows) >= count:
                return rows
            time.sleep(0.1)
        raise AssertionError(f"no such row: {read_requests(self.lake).to_pylist()}")


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    lake, bare = Lake(tmp_path_factory.mktemp("lake")), Bare()
    with served(bare) as upstream:
        log = RequestLog(lake, Rules("gate", "plain", flush_s=0.1, capacity=4096))
        gateway = Gateway(Upstream.of(f"{upstream}/v1", KEY), log, Shares(Steady()), own_key=True)
        edge = Edge(gateway, Limits(OURS, 1024, 1 << 20), lambda _: None)
        with (
            served(edge) as url,
            httpx.Client(
                base_url=url, trust_env=False, timeout=60, headers={"Authorization": f"Bearer {OURS}"}
            ) as client,
        ):
            yield Front(bare, url, upstream, lake, client)


def test_paths_fields_and_headers_pass_untouched(front: Front) -> None:
    body = b'{"prompt": "a",  "unknown_field": [1, null], "images": {"x": "\\u00e9"}}'
    headers = {"Content-Type": "application/json", "X-Trace": "7", "OpenAI-Organization": "o"}
    answer = front.client.post("/v1/some%20path/x?b=1&a=%2F", content=body, headers=headers)
    method, path, seen, given = front.bare.asked[-1]
    assert (method, path, given) == ("POST", "/v1/some%20path/x?b=1&a=%2F", body)
    assert (seen["x-trace"], seen["openai-organization"]) == ("7", "o")
    assert seen["authorization"] == f"Bearer {KEY}", "the upstream gets its own key, never the gateway's"
    direct = httpx.post(f"{front.upstream}/v1/some%20path/x?b=1&a=%2F", content=body, headers=headers, trust_env=False)
    assert answer.content == direct.content
    assert answer.headers["x-served-by"] == "bare"
    assert front.client.get("/v1/models").status_code == 200
    assert httpx.get(f"{front.url}/v1/models", trust_env=False).status_code == 401


def test_an_answer_becomes_a_row_with_its_share_of_the_energy(front: Front) -> None:
    client = openai.OpenAI(
        base_url=f"{front.url}/v1", api_key=OURS, http_client=httpx.Client(trust_env=False), max_retries=0
    )
    answer = client.completions.create(model="m", prompt="mail a@b.org", max_tokens=2, user="row")
    assert answer.choices[0].text == " word"
    (row,) = front.rows(lambda r: r["label"] == "row")
    assert (row["request_id"], row["model_version"], row["path"]) == ("cmpl-1-0", "bare-7b", "/v1/completions")
    assert (row["prompt"], row["completion"], row["finish"]) == ("mail a@b.org", " word", "length")
    assert (row["prompt_tokens"], row["completion_tokens"], row["status"], row["error"]) == (3, 2, 200, None)
    assert row["rss_gb_s"] == pytest.approx(row["latency_s"], rel=0.05), "alone, it has all that was held meanwhile"
    assert row["cpu_s"] >= row["latency_s"]
    assert row["energy_source"] == "a known rate"
    assert row["energy_j_p5"] < row["energy_j"] < row["energy_j_p95"]
    assert row["mean_logprob"] is None
    given = front.client.post("/v1/feedback", json={"id": answer.id, "rating": 1})
    assert (given.status_code, given.json()) == (202, {"logged": True})
    front.rows(lambda r: r["label"] == "row" and r["rating"] == 1.0)


def test_a_stream_is_passed_piece_by_piece_with_its_usage(front: Front) -> None:
    body = {"prompt": "s", "stream": True, "user": "streamed"}
    with front.client.stream("POST", "/v1/completions", json=body) as answer:
        seen = [(time.monotonic(), line) for line in answer.iter_lines() if line]
    assert [line for _, line in seen][-1] == "data: [DONE]"
    assert seen[0][0] < seen[-1][0]
    (row,) = front.rows(lambda r: r["label"] == "streamed")
    assert (row["completion"], row["completion_tokens"]) == (" word" * 5, 2)
    assert row["first_s"] < row["latency_s"]


def test_a_packed_answer_stays_packed_and_is_read_for_the_log(front: Front) -> None:
    answer = front.client.post("/v1/completions", json={"prompt": "z", "user": "gzip"})
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.json()["model"] == "bare-7b"
    assert front.rows(lambda r: r["label"] == "gzip")[0]["completion"] == " word"


def test_a_refusal_of_the_upstream_is_the_clients_and_the_rows(front: Front) -> None:
    answer = front.client.post(
        "/v1/chat/completions", json={"messages": [{"role": "user", "content": "q"}], "user": "refused"}
    )
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "no such thing")
    (row,) = front.rows(lambda r: r["label"] == "refused")
    assert (row["prompt"], row["status"], row["finish"], row["error"]) == ("user: q", 400, "failed", "no such thing")


def test_half_a_surrogate_pair_passes_and_is_logged(front: Front) -> None:
    body = b'{"messages": [{"role": "user", "content": "a \\ud83d b"}], "user": "half"}'
    answer = front.client.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200
    assert front.bare.asked[-1][3] == body
    (row,) = front.rows(lambda r: r["label"] == "half")
    assert row["prompt"] == "user: a ? b"


def test_a_stream_that_breaks_off_breaks_off_for_the_client_too(front: Front) -> None:
    got = []
    with (
        pytest.raises(httpx.RemoteProtocolError),
        front.client.stream("POST", "/v1/completions", json={"prompt": "c", "stream": True, "user": "cut"}) as answer,
    ):
        got = [line for line in answer.iter_lines() if line]
    (row,) = front.rows(lambda r: r["label"] == "cut")
    assert (row["finish"], row["status"], row["completion"]) == ("cut", 200, " word" * 3)
    assert "broke off its answer" in row["error"]
    assert "data: [DONE]" not in got


def test_a_client_that_leaves_leaves_the_upstream(front: Front) -> None:
    before = front.bare.left
    with front.client.stream("POST", "/v1/completions", json={"prompt": "l", "stream": True, "user": "slow"}) as answer:
        next(answer.iter_lines())
    (row,) = front.rows(lambda r: r["prompt"] == "l")
    assert row["finish"] == "cancelled"
    end = time.monotonic() + 10
    while front.bare.left == before:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_sixty_four_streams_at_once_come_whole(front: Front) -> None:
    def ask(i: int) -> str:
        body = {"prompt": f"many {i}", "stream": True, "user": "many"}
        return front.client.post("/v1/completions", json=body).text

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(ask, range(64)))
    assert all(answer.count("data: ") == 7 and answer.endswith("data: [DONE]\n\n") for answer in answers)
    rows = front.rows(lambda r: r["label"] == "many", 64)
    assert len(rows) == 64, "each has its row, although this server gives all answers one id"
    assert len({row["request_id"] for row in rows}) == 64
    assert front.client.get("/metrics").text.count("ketcycle_log_rows_lost_total 0.0") == 1


def test_an_upstream_that_is_down_is_said_in_openais_form(tmp_path: Path) -> None:
    log = RequestLog(Lake(tmp_path), Rules("down", flush_s=0.05))
    gateway = Gateway(Upstream.of("http://127.0.0.1:9"), log, None)
    with served(gateway) as url, httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        answer = client.post("/v1/completions", json={"prompt": "a"}, headers={"Authorization": "Bearer mine"})
        health = client.get("/health")
    assert answer.status_code == 502
    assert json.loads(answer.text)["error"]["code"] == "upstream_unreachable"
    assert health.status_code == 503
    (row,) = read_requests(Lake(tmp_path)).to_pylist()
    assert (row["status"], row["finish"], row["energy_j"]) == (502, "failed", None)
    assert "cannot be reached" in row["error"]
