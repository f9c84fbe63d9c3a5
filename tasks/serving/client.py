"""Starts the completion server for as long as it is needed, asks it, and reads its log."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from infra.errors import ServerFailed
from tasks.serving.request_log import read_requests

__all__ = ["complete", "read_requests", "running_server"]


@contextmanager
def running_server(
    model_folder: Path,
    home: Path,
    run_id: str,
    *,
    version: str = "",
    timeout_s: float = 180.0,
    flush_s: float = 2.0,
    options: Sequence[str] = (),
) -> Iterator[str]:
    """Serve a model on a free port of the loopback interface and yield the base URL.

    `options` are further ones of `python -m tasks.serving.server`.

    At the end the server is asked to stop, writes the rest of its log, and is killed if it does not. It also stops by
    itself when this process dies.

    Raises:
        ServerFailed: the server ended or did not listen in time; the message holds the end of its output.
    """
    with tempfile.TemporaryDirectory() as scratch:
        ready, output = Path(scratch) / "ready.json", Path(scratch) / "output.log"
        command = [sys.executable, "-m", "tasks.serving.server", "--model", str(model_folder), "--home", str(home)]
        command += ["--run", run_id, "--ready-file", str(ready), "--flush-s", str(flush_s), "--stop-with-parent"]
        command += ["--version", version] if version else []
        command += options
        with output.open("wb") as stream:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stream, stderr=stream)  # noqa: S603
        try:
            yield _wait(process, ready, output, timeout_s)
        finally:
            _stop(process)


def complete(
    base_url: str,
    prompt: str | Sequence[str],
    *,
    max_tokens: int = 16,
    temperature: float = 0.0,
    seed: int | None = None,
    stop: str | Sequence[str] | None = None,
    logprobs: int | None = None,
    label: str | None = None,
    timeout_s: float = 120.0,
) -> dict[str, Any]:
    """Ask for completions and return the server's answer; `label` is kept in the request log.

    Of a prompt that does not fit into the context the end is read.

    Raises:
        ServerFailed: the server refused the request; the message is the server's.
    """
    asked = {
        "prompt": prompt if isinstance(prompt, str) else list(prompt),
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
        "stop": stop if stop is None or isinstance(stop, str) else list(stop),
        "logprobs": logprobs,
        "user": label,
        "truncation": "auto",
    }
    # A proxy named in the environment is not for the loopback interface.
    with httpx.Client(base_url=base_url, timeout=timeout_s, trust_env=False) as client:
        response = client.post("/v1/completions", json={k: v for k, v in asked.items() if v is not None})
    if response.is_error:
        try:
            message = response.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = response.text
        raise ServerFailed(f"the completion server answered {response.status_code}: {message}")
    answer: dict[str, Any] = response.json()
    return answer


def _wait(process: subprocess.Popen[bytes], ready: Path, output: Path, timeout_s: float) -> str:
    end = time.monotonic() + timeout_s
    while not ready.exists():
        if process.poll() is not None:
            raise ServerFailed(f"the completion server ended with status {process.returncode}:\n{_tail(output)}")
        if time.monotonic() > end:
            raise ServerFailed(f"the completion server did not listen within {timeout_s:g} s:\n{_tail(output)}")
        time.sleep(0.05)
    url: str = json.loads(ready.read_text())["url"]
    return url


def _tail(output: Path) -> str:
    return "\n".join(output.read_text(errors="replace").splitlines()[-20:])


def _stop(process: subprocess.Popen[bytes], timeout_s: float = 45.0) -> None:
    process.terminate()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        if process.stdin:
            process.stdin.close()
