"""Engines that the gateway starts; each test runs where the engine's package is installed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import torch

from infra.errors import BadInput, ServerFailed
from infra.lake import Lake
from tasks.model.causal import load_model, load_tokenizer, save_model
from tasks.model.generation.generate import Sampling, complete
from tasks.serving.gateway import engines
from tasks.serving.gateway.app import Gateway, Upstream
from tasks.serving.gateway.engines import Engine, Started
from tasks.serving.gateway.gguf_export import paired
from tasks.serving.gateway.shares import Shares, source_of
from tasks.serving.request_log import RequestLog, Rules, read_requests
from tasks.serving.source import Found, Source

sys.path.insert(0, str(Path(__file__).parents[3] / "doubles"))
from openai_server import Bare, served


def test_rows_of_a_head_are_paired_as_llama_cpp_turns_them() -> None:
    weights = np.arange(8, dtype=np.float32)[:, None]
    assert paired(weights, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_an_engine_without_its_package_says_what_to_install(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(BadInput, match=r"pip install 'ketcycle\[llama-cpp\]'"):
        Engine("llama.cpp", Source.parse(str(tiny_model)), tmp_path).check()


def test_a_moved_alias_gets_a_new_engine_and_the_former_ends_after_its_last_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "AFTER_FAILURE_S", 0.05)
    versions, first, second = ["1"], Bare(), Bare()
    monkeypatch.setattr(Source, "find", lambda _: Found(tmp_path, versions[-1]))
    log = RequestLog(Lake(tmp_path), Rules("moved", "plain", flush_s=0.1))
    with served(first) as one, served(second) as two:

        def start(_: Engine, found: Found) -> Started:
            if found.version == "broken":
                raise ServerFailed("it does not start")
            process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
            return Started({"1": one, "2": two}[found.version], found.version, process)

        monkeypatch.setattr(Engine, "start", start)
        engine = Engine("vllm", Source.parse("models:/m@champion", "m"), tmp_path)
        now = engine.start(engine.source.find())
        gateway = Gateway(Upstream(now.url, model="1", ours=True), log, None)
        with served(gateway) as url, httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
            stop = engines.follow(
                engine, now, lambda new: gateway.switch(Upstream(new.url, model=new.version, ours=True), None), 0.05
            )
            slow = {"prompt": "long", "stream": True, "user": "slow"}
            with client.stream("POST", "/v1/completions", json=slow) as answer:
                lines = answer.iter_lines()
                next(lines)
                versions += ["broken"]
                time.sleep(0.3)
                client.post("/v1/completions", json={"prompt": "still the first"})
                assert not second.asked
                versions += ["2"]
                while not second.asked:
                    client.post("/v1/completions", json={"prompt": "whose"})
                assert now.process.poll() is None, "its answer is not over"
                assert [line for line in lines if line][-1] == "data: [DONE]"
            now.process.wait(20)
            stop.set()
    rows = {row["prompt"]: row["model_version"] for row in read_requests(Lake(tmp_path)).to_pylist()}
    assert (rows["long"], rows["still the first"], rows["whose"]) == ("1", "1", "2")


@pytest.fixture(scope="module")
def wide(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with heads of 16, for llama.cpp's kernels want even halves, and a longer context."""
    from transformers import LlamaForCausalLM

    folder = tmp_path_factory.mktemp("wide")
    load_tokenizer(tiny_model).save_pretrained(folder)
    config = load_model(tiny_model).config
    config.hidden_size, config.head_dim, config.max_position_embeddings = 64, 16, 512
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        save_model(LlamaForCausalLM(config), folder)
    return folder


@pytest.fixture(scope="module")
def started(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    pytest.importorskip("xllamacpp", reason="needs `pip install 'ketcycle[llama-cpp]'`")
    engine = Engine("llama.cpp", Source.parse(str(wide), "wide"), tmp_path_factory.mktemp("gguf"), rows=8)
    engine.check()
    running = engine.start(engine.source.find())
    yield running
    running.stop()


@pytest.mark.slow
def test_llama_cpp_writes_the_models_text(started: Started, wide: Path) -> None:
    model, tokenizer = load_model(wide), load_tokenizer(wide)
    for prompt in ("This LICENSE", "Python", "naïve"):
        body = {"prompt": prompt, "max_tokens": 12, "temperature": 0}
        answer = httpx.post(f"{started.url}/v1/completions", json=body, timeout=60, trust_env=False).json()
        assert answer["choices"][0]["text"] == complete(model, tokenizer, prompt, Sampling(max_tokens=12)).text


@pytest.mark.slow
def test_an_engine_killed_under_sixty_four_streams_ends_them_and_the_rows_say_so(
    started: Started, tmp_path: Path
) -> None:
    source = source_of(started.url)
    assert source is not None
    log = RequestLog(Lake(tmp_path), Rules("killed", "plain", flush_s=0.1, capacity=4096))
    gateway = Gateway(Upstream(started.url, model=started.version, ours=True), log, Shares(source))
    with served(gateway) as url, httpx.Client(base_url=url, trust_env=False, timeout=120) as client:
        whole = client.post("/v1/completions", json={"prompt": "Python", "max_tokens": 8, "temperature": 0})
        assert whole.status_code == 200

        def ask(i: int) -> str:
            body = {"prompt": f"The {i}", "max_tokens": 400, "stream": True, "ignore_eos": True}
            try:
                with client.stream("POST", "/v1/completions", json=body) as answer:
                    lines = [line for line in answer.iter_lines() if line]
                return "whole" if lines and lines[-1] == "data: [DONE]" else f"refused {answer.status_code}"
            except httpx.RemoteProtocolError:
                return "cut"

        with ThreadPoolExecutor(64) as pool:
            asked = [pool.submit(ask, i) for i in range(64)]
            while gateway.running < 64 and not all(future.done() for future in asked):
                time.sleep(0.02)
            psutil.Process(started.process.pid).kill()
            ends = [future.result() for future in asked]
    rows = read_requests(Lake(tmp_path)).to_pylist()
    assert len(rows) == 65
    assert set(ends) <= {"whole", "cut", "refused 502"}
    assert "cut" in ends or "refused 502" in ends
    broken = [row for row in rows if row["finish"] in ("cut", "failed")]
    assert len(broken) == sum(end != "whole" for end in ends)
    assert all(row["error"] for row in broken)
    assert {row["model_version"] for row in rows} == {started.version}
