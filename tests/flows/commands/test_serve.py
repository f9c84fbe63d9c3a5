"""`ketcycle serve` as people start it."""

from __future__ import annotations

import os
import re
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx
import openai
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from flows.cli import app
from infra.access import init_tls
from infra.lake import Lake
from tasks.model.causal import save_model
from tasks.preprocessing.bpe import save_tokenizer, train_bpe
from tasks.serving.request_log import read_requests

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_bpe(iter(["some words to read"]), 260)
    save_tokenizer(tokenizer, folder, 32)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=32, bos_token_id=0, eos_token_id=0, **sizes
    )
    save_model(LlamaForCausalLM(config), folder)
    return folder


@pytest.mark.slow
def test_with_tls_and_key_it_answers_those_who_have_them_and_ends_cleanly(model: Path, tmp_path: Path) -> None:
    home, output = tmp_path / "home", tmp_path / "output.log"
    init_tls(home / "tls", ["127.0.0.2"])
    command = [sys.executable, "-m", "flows.cli", "serve", "--model", str(model), "--home", str(home), "--port", "0"]
    command += ["--host", "127.0.0.2", "--tls", "--name", "tiny", "--log-text", "plain"]
    with output.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=stream, stderr=stream
        )
    try:
        end = time.monotonic() + 120
        while not (found := re.search(r"https://127\.0\.0\.2:\d+", output.read_text())):
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < end
            time.sleep(0.1)
        url = found[0]
        known = ssl.create_default_context(cafile=str(home / "tls" / "ca.pem"))
        with httpx.Client(verify=known, trust_env=False) as transport:
            assert transport.get(f"{url}/health").json()["model"] == "tiny"
            for path in ("/metrics", "/v1/models"):
                assert transport.get(url + path).status_code == 401
            keys = {"base_url": f"{url}/v1", "http_client": transport, "max_retries": 0}
            with pytest.raises(openai.AuthenticationError):
                openai.OpenAI(api_key="a guess", **keys).models.list()
            secret = (home / "tls" / "secret").read_text().strip()
            client = openai.OpenAI(api_key=secret, **keys)
            assert [m.id for m in client.models.list()] == ["tiny"]
            client.completions.create(model="tiny", prompt="some words", max_tokens=3)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health", trust_env=False)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
    assert secret not in output.read_text()
    assert read_requests(Lake(home / "lake"), "serve")["prompt"].to_pylist() == ["some words"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--host", "10.0.0.7"], "open to others without TLS and a secret"),
        (["--model", "/nowhere"], "no model folder"),
        (["--model", "models:/x"], "models:/NAME@ALIAS"),
        (["--log-text", "all"], "hashed"),
        (["--upstream", "nowhere"], "http://HOST:PORT"),
        (["--upstream", "http://127.0.0.1:9", "--engine", "vllm"], "not both"),
        (["--upstream", "http://127.0.0.1:9", "--key-file", "/nowhere/key"], "secret in /nowhere/key cannot be read"),
        (["--meter", "http://127.0.0.1:9/metrics"], "belong to --upstream"),
        (["--engine", "vllm"], "needs the package vllm"),
    ],
)
def test_what_cannot_be_served_is_said(arguments: list[str], says: str, model: Path, tmp_path: Path) -> None:
    given = ["serve", "--home", str(tmp_path), *([] if "--model" in arguments else ["--model", str(model)])]
    result = CliRunner().invoke(app, [*given, *arguments])
    assert result.exit_code == 2
    assert says in " ".join(result.output.split())
