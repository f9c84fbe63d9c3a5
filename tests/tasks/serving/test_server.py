"""The real server in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from infra.errors import BadInput, ServerFailed
from infra.lake import Lake
from tasks.model.causal import load_model, load_tokenizer
from tasks.model.generation.generate import Sampling
from tasks.model.generation.generate import complete as complete_here
from tasks.serving.client import complete, read_requests, running_server
from tasks.serving.engine import weights_digest
from tasks.serving.server import main


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def url(tiny_model: Path, home: Path) -> Iterator[str]:
    with running_server(tiny_model, home, "run-a", flush_s=0.2) as base_url:
        yield base_url


def post(url: str, body: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    return httpx.post(f"{url}/v1/completions", content=content, headers=headers, timeout=60, trust_env=False)


def get(url: str, path: str) -> httpx.Response:
    return httpx.get(url + path, timeout=60, trust_env=False)


def rows_of(home: Path, run: str, count: int, seconds: float = 20.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        table = read_requests(Lake(home / "lake"), run)
        if len(table) >= count:
            return table
        time.sleep(0.05)
    raise AssertionError(f"{len(table)} of {count} rows after {seconds} s")


def test_a_completion_is_the_models_own(url: str, tiny_model: Path) -> None:
    expected = complete_here(
        load_model(tiny_model), load_tokenizer(tiny_model), "This LICENSE", Sampling(max_tokens=12)
    )
    answer = complete(url, "This LICENSE", max_tokens=12, logprobs=1)
    choice = answer["choices"][0]
    assert answer["object"] == "text_completion"
    assert choice["text"] == expected.text
    assert choice["logprobs"]["token_logprobs"] == pytest.approx(expected.logprobs, abs=1e-4)
    assert "".join(choice["logprobs"]["tokens"]) == choice["text"]
    assert choice["finish_reason"] == expected.finish
    assert answer["usage"] == {
        "prompt_tokens": expected.n_prompt,
        "completion_tokens": len(expected.ids),
        "total_tokens": expected.n_prompt + len(expected.ids),
    }


def test_many_prompts_give_many_choices_in_order(url: str) -> None:
    prompts = ["Python", "The licence", "Copyright"]
    together = complete(url, prompts, max_tokens=6)["choices"]
    alone = [complete(url, prompt, max_tokens=6)["choices"][0]["text"] for prompt in prompts]
    assert [c["index"] for c in together] == [0, 1, 2]
    assert [c["text"] for c in together] == alone


def test_a_seed_repeats_a_draw(url: str) -> None:
    texts = [
        complete(url, "Python", max_tokens=20, temperature=1.5, seed=seed)["choices"][0]["text"] for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_a_stop_string_ends_the_text_before_it(url: str) -> None:
    full = complete(url, "Python", max_tokens=20)["choices"][0]["text"]
    stop = full[5:7]
    choice = complete(url, "Python", max_tokens=20, stop=stop)["choices"][0]
    assert choice["text"] == full[: full.index(stop)]
    assert choice["finish_reason"] == "stop"


def test_streamed_pieces_are_the_completion(url: str) -> None:
    expected = complete(url, "Python", max_tokens=15)["choices"][0]["text"]
    body = {"prompt": "Python", "max_tokens": 15, "temperature": 0, "stream": True}
    pieces, last = [], ""
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60, trust_env=False) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        for line in response.iter_lines():
            if line:
                last = line.removeprefix("data: ")
                if last != "[DONE]":
                    pieces.append(json.loads(last)["choices"][0])
    assert last == "[DONE]"
    assert len(pieces) > 2
    assert "".join(p["text"] for p in pieces) == expected
    assert pieces[-1]["finish_reason"] in ("stop", "length")


def test_a_prompt_that_is_too_long_says_so(url: str) -> None:
    assert complete(url, "word " * 300, max_tokens=1)["choices"][0]["truncated"] is True
    assert complete(url, "word", max_tokens=1)["choices"][0]["truncated"] is False


def test_nothing_to_write_is_allowed(url: str) -> None:
    answer = complete(url, "Python", max_tokens=0)
    assert answer["choices"][0]["text"] == ""
    assert answer["usage"]["completion_tokens"] == 0


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"{", 400, "the body is not JSON"),
        (b"[]", 400, "not an object"),
        (b'{"prompt": "a", "temperature": NaN}', 400, "NaN"),
        (b'{"prompt": "a \\ud83d b"}', 400, "prompt: the text holds half of a surrogate pair"),
        (b'{"prompt": "a", "stop": ["\\ud83d"]}', 400, "stop.0: the text holds half"),
        ({}, 400, "prompt"),
        ({"prompt": 7}, 400, "prompt"),
        ({"prompt": []}, 400, "list of token ids"),
        ({"prompt": ["a", 1]}, 400, "list of token ids"),
        ({"prompt": [[-1]]}, 400, "token -1 is not in the model's vocabulary"),
        ({"prompt": [10**6]}, 400, "token 1000000"),
        ({"prompt": ["a"] * 65}, 400, "at most 64"),
        ({"prompt": ["a"] * 33, "n": 2}, 400, "at most 64"),
        ({"prompt": "a", "max_tokens": -1}, 400, "max_tokens"),
        ({"prompt": "a", "max_tokens": 10**6}, 400, "max_tokens"),
        ({"prompt": "a", "temperature": 5}, 400, "temperature"),
        ({"prompt": "a", "n": 0}, 400, "n:"),
        ({"prompt": "a", "top_p": -0.1}, 400, "top_p"),
        ({"prompt": "a", "presence_penalty": 3}, 400, "presence_penalty"),
        ({"prompt": "a", "logit_bias": {"5": 101}}, 400, "logit_bias"),
        ({"prompt": "a", "min_p": 0.1}, 400, "min_p: this server does not offer it; leave it out"),
        ({"prompt": "a", "tools": [{}]}, 400, "tools: this server does not offer it"),
        ({"prompt": "a", "best_of": 3}, 400, "best_of: this server does not offer it"),
        ({"prompt": "a", "echo": True, "stream": True}, 400, "echo: this server does not offer it in a stream"),
        ({"prompt": "word " * 300}, 400, "truncation"),
        ({"prompt": "a", "unknown": 1}, 400, "unknown"),
        ({"prompt": "a", "stop": [*"0123456789abcdefg"]}, 400, "stop"),
        ({"prompt": "a", "model": "other"}, 404, "other"),
        ({"prompt": "a" * (1 << 21)}, 413, "bytes"),
    ],
)
def test_a_bad_request_is_refused_with_its_reason(url: str, body: Any, status: int, says: str) -> None:
    response = post(url, body)
    assert response.status_code == status
    error = response.json()["error"]
    assert says in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


def test_an_unknown_path_is_refused_in_the_same_form(url: str) -> None:
    assert get(url, "/v1/none").json()["error"]["type"] == "invalid_request_error"
    assert get(url, "/v1/none").status_code == 404
    assert get(url, "/v1/completions").status_code == 405


def test_a_body_of_unsaid_length_is_limited_too(url: str) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 65536

    response = httpx.post(f"{url}/v1/completions", content=chunks(), timeout=60, trust_env=False)
    assert response.status_code == 413


def test_a_body_that_says_it_is_too_long_is_not_waited_for(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as peer:
        peer.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n")
        assert peer.recv(65_536).startswith(b"HTTP/1.1 413")


def test_a_packed_body_is_refused_by_its_packing(url: str) -> None:
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    answer = httpx.post(f"{url}/v1/completions", content=b"\x1f\x8b", headers=headers, trust_env=False)
    assert (answer.status_code, "Content-Encoding: gzip" in answer.json()["error"]["message"]) == (415, True)


def test_the_client_says_why_it_was_refused(url: str) -> None:
    with pytest.raises(ServerFailed, match=r"400.*max_tokens"):
        complete(url, "a", max_tokens=-1)


def test_requests_reach_the_lake_with_their_labels(url: str, home: Path, tiny_model: Path) -> None:
    complete(url, ["base one", "base two"], max_tokens=3, label="lake-test")
    end = time.monotonic() + 20
    mine: list[dict[str, Any]] = []
    while len(mine) < 2 and time.monotonic() < end:
        mine = [row for row in rows_of(home, "run-a", 2).to_pylist() if row["label"] == "lake-test"]
    assert len(mine) == 2
    assert len({row["request_id"].rsplit("-", 1)[0] for row in mine}) == 1
    for row in mine:
        assert row["model_version"] == weights_digest(tiny_model)
        assert row["completion_tokens"] == 3
        assert row["cpu_s"] > 0
        assert 0 < row["latency_s"] < 30
        assert row["mean_logprob"] < 0
        assert len(row["embedding"]) == 256


def test_requests_at_once_are_all_answered(url: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: complete(url, f"prompt {i}", max_tokens=4), range(24)))
    assert len({a["id"] for a in answers}) == 24


def test_health_models_and_metrics(url: str, tiny_model: Path) -> None:
    assert get(url, "/health").json() == {"status": "ok", "model": "ketcycle", "version": weights_digest(tiny_model)}
    (model,) = get(url, "/v1/models").json()["data"]
    assert model["id"] == "ketcycle"
    assert model["context"] == 64
    complete(url, "a", max_tokens=2)
    text = get(url, "/metrics").text
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(figures['ketcycle_responses_total{code="200"}']) > 0
    assert float(figures["ketcycle_completion_tokens_total"]) >= 2
    assert float(figures["ketcycle_log_rows_lost_total"]) == 0
    assert float(figures["ketcycle_waiting"]) == 0
    assert float(figures["ketcycle_cpu_seconds_total"]) > 0
    assert float(figures["ketcycle_latency_seconds_count"]) > 0


def test_only_the_loopback_interface_is_bound(url: str) -> None:
    port = int(url.rsplit(":", 1)[1])
    table = Path("/proc/net/tcp").read_text().splitlines()[1:]
    addresses = {
        line.split()[1] for line in table if line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A"
    }
    assert addresses == {f"0100007F:{port:04X}"}


def test_a_killed_server_loses_at_most_what_was_not_flushed(tiny_model: Path, tmp_path: Path) -> None:
    with running_server(tiny_model, tmp_path, "run-c", flush_s=1.0) as base_url:
        for i in range(4):
            complete(base_url, f"early {i}", max_tokens=1)
        before = len(rows_of(tmp_path, "run-c", 4))
        complete(base_url, "late", max_tokens=1)
        os.kill(_pid_listening(base_url), signal.SIGKILL)
    table = read_requests(Lake(tmp_path / "lake"), "run-c")
    assert before == 4
    assert len(table) in (4, 5)
    assert table["request_id"].to_pylist()[:4]


def test_the_server_ends_with_its_parent_and_writes_the_rest_of_its_log(tiny_model: Path, tmp_path: Path) -> None:
    code = (
        "import time\nfrom pathlib import Path\nfrom tasks.serving.client import complete, running_server\n"
        f"with running_server(Path({str(tiny_model)!r}), Path({str(tmp_path)!r}), 'run-d', flush_s=600) as url:\n"
        "    complete(url, ['one', 'two', 'three'], max_tokens=1)\n    print(url, flush=True)\n    time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    url = parent.stdout.readline().strip()
    assert get(url, "/health").status_code == 200
    assert len(read_requests(Lake(tmp_path / "lake"), "run-d")) == 0
    parent.kill()
    parent.wait()
    assert len(rows_of(tmp_path, "run-d", 3)) == 3
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            get(url, "/health")
        except httpx.TransportError:
            return
        time.sleep(0.1)
    raise AssertionError("the server outlived its parent")


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(ServerFailed, match=r"has no config\.json"), running_server(tmp_path, tmp_path, "run-e"):
        pass


def _pid_listening(url: str) -> int:
    port = int(url.rsplit(":", 1)[1])
    for process in psutil.process_iter(["pid"]):
        try:
            for connection in process.net_connections(kind="tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                    return int(process.pid)
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue
    raise AssertionError(f"nothing listens on {port}")


def test_a_taken_port_is_an_error(tiny_model: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with pytest.raises(BadInput, match="choose another --port"):
            main(["--model", str(tiny_model), "--home", str(tmp_path), "--run", "r", "--port", port])


def test_serving_a_plain_llama_imports_no_model_classes(tiny_model: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tasks.serving.engine import Engine; "
        "Engine(Path(sys.argv[1])); print([m for m in ('torch._dynamo', 'transformers.modeling_utils', "
        "'transformers.models.llama.configuration_llama') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, tiny_model], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
